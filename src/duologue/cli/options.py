"""Options that several commands share, and what they mean: which model, where, and which voices."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from duologue.cli import terminal
from duologue.errors import OptionError

if TYPE_CHECKING:
    from duologue.codec.mimi import Mimi
    from duologue.engine.generator import Generator

HOME_VARIABLE: Final = "DUOLOGUE_HOME"
HELP_OPTIONS: Final = {"help_option_names": ["-h", "--help"]}

_MS_PER_SECOND: Final = 1000
_LEAST_SECONDS: Final = 0.1  # about one frame
_MOST_SECONDS: Final = 3600.0

_MODEL_PANEL: Final = "Model"
_SAMPLING_PANEL: Final = "How it is spoken"
_OUTPUT_PANEL: Final = "Messages"

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="A checkpoint folder or file, or a hub id such as sesame/csm-1b. Default: the model of the package.",
        show_default=False,
        rich_help_panel=_MODEL_PANEL,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(help="Branch, tag or commit of the hub repository.", rich_help_panel=_MODEL_PANEL),
]
Offline = Annotated[
    bool,
    typer.Option("--offline", help="Never use the network, only files that are here.", rich_help_panel=_MODEL_PANEL),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.", metavar="DEVICE", rich_help_panel=_MODEL_PANEL)]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processor threads. Default: as torch chooses.", show_default=False, rich_help_panel=_MODEL_PANEL
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(
        metavar="int8",
        help="Pack the model for a processor: several times faster, nearly the same speech. Default: not.",
        show_default=False,
        rich_help_panel=_MODEL_PANEL,
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        metavar="BACKEND",
        help="eager; compiled: about three times as fast, after minutes of compiling, needs a C++ compiler; "
        "cuda-graphs: for a GPU.",
        rich_help_panel=_MODEL_PANEL,
    ),
]
Output = Annotated[
    str,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Where the audio goes: .wav, .flac, .mp3, .ogg or .opus. A file of that name is replaced once the new one "
        "is whole. - sends wav to standard output while it is being made.",
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        help="The same seed gives the same audio. Default: a new one each time.",
        show_default=False,
        rich_help_panel=_SAMPLING_PANEL,
    ),
]
Temperature = Annotated[
    float,
    typer.Option(help="Lower is calmer, 0 always takes the likeliest sound.", rich_help_panel=_SAMPLING_PANEL),
]
TopK = Annotated[
    int, typer.Option("--topk", help="Choose among this many likeliest sounds.", rich_help_panel=_SAMPLING_PANEL)
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="Above 1 holds closer to the text, 1 is plain sampling. Default: as the model says.",
        show_default=False,
        rich_help_panel=_SAMPLING_PANEL,
    ),
]
MaxSeconds = Annotated[
    float, typer.Option(help="Stop a turn after this much audio, whatever happens.", rich_help_panel=_SAMPLING_PANEL)
]
NoNormalize = Annotated[
    bool,
    typer.Option(
        "--no-normalize",
        help="Take the text as it is: numbers, dates, markdown and the like are not spelled out.",
        rich_help_panel=_SAMPLING_PANEL,
    ),
]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object for a program to read.", rich_help_panel=_OUTPUT_PANEL),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no summary.", rich_help_panel=_OUTPUT_PANEL)
]

DEFAULT_TEMPERATURE: Final = 0.9
DEFAULT_TOPK: Final = 50
DEFAULT_MAX_SECONDS: Final = 90.0


@dataclass(frozen=True)
class ModelSource:
    """Which model to load."""

    model: Model = None
    revision: Revision = None
    offline: Offline = False


@dataclass(frozen=True)
class Machine:
    """Where and how it computes."""

    device: Device = "auto"
    threads: Threads = None


@dataclass(frozen=True)
class SpeakingMachine(Machine):
    """Where and how it computes speech."""

    quantize: Quantize = None
    backend: Backend = "eager"


@dataclass(frozen=True)
class Sampling:
    """How a turn is spoken."""

    seed: Seed = None
    temperature: Temperature = DEFAULT_TEMPERATURE
    topk: TopK = DEFAULT_TOPK
    guidance: Guidance = None
    max_seconds: MaxSeconds = DEFAULT_MAX_SECONDS
    no_normalize: NoNormalize = False

    def arguments(self) -> dict[str, Any]:
        """For `Generator.stream`, without the seed. Raises `OptionError`."""
        return {
            "max_audio_length_ms": cap_ms(self.max_seconds),
            "temperature": self.temperature,
            "topk": self.topk,
            "guidance": self.guidance,
            "normalize": False if self.no_normalize else None,
        }


@dataclass(frozen=True)
class Messages:
    """What the command says."""

    as_json: AsJson = False
    quiet: Quiet = False


def user_folder() -> Path:
    """Where the user's own things lie: `$DUOLOGUE_HOME`, else the platform's folder for the data of programs."""
    home = os.environ.get(HOME_VARIABLE)
    if home:
        return Path(home).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "duologue"


def user_voices_folder() -> Path:
    """Where `duologue voices add` keeps voices."""
    return user_folder() / "voices"


def load_generator(source: ModelSource, machine: SpeakingMachine, quiet: bool) -> "Generator":
    """The model that was asked for, with the user's voices. Raises `CheckpointError`, `OptionError`."""
    with _loading(source.model, quiet, "" if machine.backend == "eager" else "; compiling it may take a minute"):
        from duologue.engine.load import load

        prepare(machine, quiet)
        return load(
            source.model,
            device=machine.device,
            quantize=machine.quantize,
            backend=machine.backend,
            revision=source.revision,
            offline=source.offline,
            voices_dir=user_voices_folder(),
        )


def load_codec(source: ModelSource, machine: Machine, quiet: bool) -> "Mimi":
    """The codec alone. Raises `CheckpointError`, `OptionError`."""
    with _loading(source.model, quiet):
        from duologue.engine.load import load_codec

        prepare(machine, quiet)
        return load_codec(source.model, device=machine.device, revision=source.revision, offline=source.offline)


@contextlib.contextmanager
def _loading(model: str | None, quiet: bool, besides: str = "") -> Iterator[None]:
    is_here = model is None or Path(model).exists()
    with terminal.progress(is_here and not quiet) as show:  # a download shows bars of its own
        show(f"loading the model{besides} …")
        yield


def prepare(machine: Machine, quiet: bool) -> None:
    """Threads as they were asked for, and no more of the hub's messages than a person wants."""
    if machine.threads is not None:
        import torch

        torch.set_num_threads(machine.threads)
    quiet_hub(show_downloads=is_watched(quiet))


def is_watched(quiet: bool) -> bool:
    """Whether a person sees what is shown on stderr."""
    return not quiet and sys.stderr is not None and sys.stderr.isatty()


def quiet_hub(show_downloads: bool) -> None:
    """Only errors from the hub's library, and its download bars only where a person watches."""
    import logging

    from huggingface_hub.utils.tqdm import disable_progress_bars

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if not show_downloads:
        disable_progress_bars()


def command_group(help_text: str) -> typer.Typer:
    """A command that only has commands; by itself it shows its help."""
    group = typer.Typer(
        help=help_text, rich_markup_mode="rich", invoke_without_command=True, context_settings=HELP_OPTIONS
    )

    @group.callback()
    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    return group


def number_in(name: str, value: float, lowest: float, highest: float) -> float:
    """`value`; raises `OptionError` where it is not in the range, NaN included."""
    if not (math.isfinite(value) and lowest <= value <= highest):
        raise OptionError(f"{name} {value:g}; expected a number of seconds from {lowest:g} to {highest:g}")
    return value


def cap_ms(max_seconds: float) -> float:
    """`--max-seconds` in milliseconds."""
    return number_in("--max-seconds", max_seconds, _LEAST_SECONDS, _MOST_SECONDS) * _MS_PER_SECOND
