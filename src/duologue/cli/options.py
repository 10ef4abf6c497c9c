"""Options that several commands share, and what they mean: which model, where, and which voices."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final, cast

import typer

from duologue.cli import terminal
from duologue.errors import OptionError, TextError

if TYPE_CHECKING:
    from duologue.audio.writing import AudioTarget
    from duologue.codec.mimi import Mimi
    from duologue.engine.generator import Generator

HOME_VARIABLE: Final = "DUOLOGUE_HOME"
HELP_OPTIONS: Final = {"help_option_names": ["-h", "--help"]}

# What a person may type or pipe as text; more is a mistake, such as a recording instead of its transcript.
MAX_TEXT_BYTES: Final = 4 << 20

_MS_PER_SECOND: Final = 1000
_LEAST_SECONDS: Final = 0.1  # about one frame
_MOST_SECONDS: Final = 3600.0
_ANY_RATE: Final = 48_000  # the check of a path needs one; every format allows it

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
class ModelChoice:
    """Which model to load, and how."""

    model: str | None = None
    revision: str | None = None
    offline: bool = False
    device: str = "auto"
    threads: int | None = None


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


def load_generator(choice: ModelChoice, quiet: bool) -> "Generator":
    """The model that was asked for, with the user's voices. Raises `CheckpointError`, `OptionError`."""
    with _loading(choice, quiet):
        from duologue.engine.load import load

        _prepare(choice, quiet)
        return load(
            choice.model,
            device=choice.device,
            revision=choice.revision,
            offline=choice.offline,
            voices_dir=user_voices_folder(),
        )


def load_codec(choice: ModelChoice, quiet: bool) -> "Mimi":
    """The codec alone. Raises `CheckpointError`, `OptionError`."""
    with _loading(choice, quiet):
        from duologue.engine.load import load_codec

        _prepare(choice, quiet)
        return load_codec(choice.model, device=choice.device, revision=choice.revision, offline=choice.offline)


@contextlib.contextmanager
def _loading(choice: ModelChoice, quiet: bool) -> Iterator[None]:
    is_here = choice.model is None or Path(choice.model).exists()
    with terminal.progress(is_here and not quiet) as show:  # a download shows bars of its own
        show("loading the model …")
        yield


def _prepare(choice: ModelChoice, quiet: bool) -> None:
    if choice.threads is not None:
        import torch

        torch.set_num_threads(choice.threads)
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


def name_of_input(argument: str) -> str:
    """How an input file is called in a message."""
    return "standard input" if argument == "-" else argument


def check_utf8(argument: str, name: str) -> str:
    """Text of the command line. Raises `TextError` where it holds bytes that were not UTF-8."""
    try:
        argument.encode("utf-8")
    except UnicodeEncodeError:
        raise TextError(f"{name} holds bytes that are not UTF-8; use a UTF-8 terminal, or give a file") from None
    return argument


def read_text_argument(argument: str) -> str:
    """The text given on the command line, or all of stdin for `-`. Raises `TextError` where it is not UTF-8."""
    if argument == "-":
        return decode_text(terminal.read_standard_input(), "standard input")
    return check_utf8(argument, "the text")


def decode_text(data: bytes, name: str) -> str:
    """`data` as UTF-8 text, with or without a byte order mark. Raises `TextError`, naming the offset of a bad byte."""
    if len(data) > MAX_TEXT_BYTES:
        raise TextError(f"{name} is larger than {MAX_TEXT_BYTES >> 20} MiB; expected text to speak")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{name} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}; convert it to UTF-8"
        ) from None


def read_text_file(path: str) -> str:
    """The text of a file, or of stdin for `-`. Raises `TextError`."""
    if path == "-":
        return decode_text(terminal.read_standard_input(), "standard input")
    try:
        with open(path, "rb") as handle:
            data = handle.read(MAX_TEXT_BYTES + 1)
    except FileNotFoundError:
        raise TextError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise TextError(f"{path} is a folder; give a text file") from None
    except (OSError, ValueError) as error:
        raise TextError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return decode_text(data, path)


def audio_source(argument: str) -> str | bytes:
    """What `read_audio` takes: a path, or all of stdin for `-`."""
    return terminal.read_standard_input() if argument == "-" else argument


def audio_target(output: str) -> "AudioTarget":
    """What `StreamWriter` takes. Raises before anything slow is done where a recording cannot be written there."""
    if output == "-":
        return cast(BinaryIO, terminal.StandardOutput())
    from duologue.audio import StreamWriter

    path = Path(output)
    if path.is_file() or path.is_dir() or not path.exists():  # to open a pipe would be noticed at its other end
        StreamWriter(output, _ANY_RATE).abort()
    return output


def number_in(name: str, value: float, lowest: float, highest: float) -> float:
    """`value`; raises `OptionError` where it is not in the range, NaN included."""
    if not (math.isfinite(value) and lowest <= value <= highest):
        raise OptionError(f"{name} {value:g}; expected a number of seconds from {lowest:g} to {highest:g}")
    return value


def cap_ms(max_seconds: float) -> float:
    """`--max-seconds` in milliseconds."""
    return number_in("--max-seconds", max_seconds, _LEAST_SECONDS, _MOST_SECONDS) * _MS_PER_SECOND
