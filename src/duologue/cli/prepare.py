"""`duologue prepare`: recordings to turns to codes, ready to train on."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from duologue.cli import groups, options, terminal

if TYPE_CHECKING:
    from duologue.data.prepare import Progress

_TURNS: Final = "How turns are found"
_FILTERS: Final = "What is kept"


@dataclass(frozen=True)
class Finding:
    """How turns are found where nobody wrote them down."""

    speakers: Annotated[
        Literal["one", "channels", "diarize"],
        typer.Option(help="Tell voices apart: one voice, one a channel, or by their sound.", rich_help_panel=_TURNS),
    ] = "one"
    num_speakers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --speakers diarize: how many there are. Default: as it sounds.",
            show_default=False,
            rich_help_panel=_TURNS,
        ),
    ] = None
    voice: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Whose recordings these are, where they do not say. Default: each has a voice of its own.",
            show_default=False,
            rich_help_panel=_TURNS,
        ),
    ] = None
    language: Annotated[
        str, typer.Option(help="What is spoken, as a code for Whisper, or auto.", rich_help_panel=_TURNS)
    ] = "en"
    asr: Annotated[
        str,
        typer.Option(
            help="The recogniser: bundled (whisper-base), a CTranslate2 folder, or a size to download.",
            rich_help_panel=_TURNS,
        ),
    ] = "bundled"
    max_pause: Annotated[
        float, typer.Option(min=0.1, help="A longer pause ends a turn, in seconds.", rich_help_panel=_TURNS)
    ] = 0.6


@dataclass(frozen=True)
class Filters:
    """Which turns are kept, and how loud."""

    min_seconds: Annotated[float, typer.Option(min=0.08, help="Shorter turns go.", rich_help_panel=_FILTERS)] = 0.5
    max_seconds: Annotated[float, typer.Option(min=1.0, help="Longer turns go.", rich_help_panel=_FILTERS)] = 30.0
    min_rate: Annotated[
        float,
        typer.Option(min=0.0, help="Slower turns go: letters and digits a second.", rich_help_panel=_FILTERS),
    ] = 3.0
    max_rate: Annotated[
        float,
        typer.Option(min=0.1, help="Faster turns go: letters and digits a second.", rich_help_panel=_FILTERS),
    ] = 30.0
    max_clipped: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Turns with a larger share of their samples at full scale go.",
            rich_help_panel=_FILTERS,
        ),
    ] = 0.01
    min_confidence: Annotated[
        float,
        typer.Option(max=0.0, help="Recognised turns with a lower mean log-probability go.", rich_help_panel=_FILTERS),
    ] = -0.8
    check_text: Annotated[
        bool,
        typer.Option("--check-text", help="Recognise given text too, and compare.", rich_help_panel=_FILTERS),
    ] = False
    max_disagreement: Annotated[
        float,
        typer.Option(min=0.0, help="With --check-text: a higher word error rate goes.", rich_help_panel=_FILTERS),
    ] = 0.3
    loudness: Annotated[
        float, typer.Option(max=0.0, help="Level of each voice in dB of full scale.", rich_help_panel=_FILTERS)
    ] = -22.0
    keep_loudness: Annotated[
        bool, typer.Option("--keep-loudness", help="Leave levels as they are.", rich_help_panel=_FILTERS)
    ] = False


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("prepare")(groups.grouped(prepare))


def prepare(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A folder of recordings, a manifest, or a table.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Where the shards go.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The checkpoint whose codec makes the codes. Default: the model of the package.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, one core each.")] = 1,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Workers here, or on a Ray cluster; the output is the same.")
    ] = "local",
    shard_size: Annotated[int, typer.Option(min=1, help="Conversations a shard.")] = 32,
    *,
    finding: Finding,
    filters: Filters,
    messages: options.Messages,
) -> None:
    """Make recordings ready for training: turns, words, codes.

    IN may hold manifests of ours, an LJSpeech metadata.csv, a Kaldi folder
    (wav.scp, text, segments, utt2spk), a CSV, TSV or JSONL table with columns
    such as file, text, speaker, start, end, conversation, or just recordings,
    each with its text beside it (a.wav, a.txt) or without any. What is not
    known is found: speech, speakers, words.

    OUT gets shards of codes with an index, left_out.jsonl with everything
    that was left out and why, summary.json and summary.png. A run that was
    interrupted goes on where it stopped.

    Examples:

      duologue prepare recordings/ data/
      duologue prepare LJSpeech-1.1/ data/ --check-text --workers 8
      duologue prepare calls/ data/ --speakers channels
      duologue prepare podcast/ data/ --speakers diarize --language auto
    """
    from duologue.data.prepare import PrepareConfig
    from duologue.data.prepare import prepare as run
    from duologue.data.shards import write_json
    from duologue.data.sources import find_conversations
    from duologue.data.summary import draw, summarize
    from duologue.data.turns import TurnConfig
    from duologue.engine.load import load_codec

    is_quiet = messages.quiet or messages.as_json
    found = find_conversations(source)
    config = PrepareConfig(
        turns=TurnConfig(
            speakers=finding.speakers,
            num_speakers=finding.num_speakers,
            voice=finding.voice,
            language=None if finding.language == "auto" else finding.language,
            recogniser=None if finding.asr == "bundled" else finding.asr,
            check_text=filters.check_text,
            max_pause_s=finding.max_pause,
            min_s=filters.min_seconds,
            max_s=filters.max_seconds,
            min_rate=filters.min_rate,
            max_rate=filters.max_rate,
            max_clipped=filters.max_clipped,
            min_confidence=filters.min_confidence,
            max_disagreement=filters.max_disagreement,
            loudness_db=None if filters.keep_loudness else filters.loudness,
        ),
        codec=model,
        shard_size=shard_size,
    )
    started = time.monotonic()
    cache = options.user_folder() / "cache"
    with terminal.progress(not is_quiet) as show:
        for progress in run(found, folder, config, cache=cache, workers=workers, engine=engine):
            show(_line(found.layout, progress, time.monotonic() - started))
        show("adding up …")
        summary = summarize(folder, frame_rate=load_codec(model, device="cpu").frame_rate)
        write_json(folder / "summary.json", summary.figures())
        draw(summary, folder / "summary.png")
    if messages.as_json:
        typer.echo(json.dumps({"folder": str(folder), **summary.figures()}, ensure_ascii=False))
    elif not messages.quiet:
        left_out = sum(summary.left_out.values())
        reasons = ", ".join(f"{reason} {count}" for reason, count in summary.left_out.items())
        terminal.say(
            f"{folder}: {summary.hours:.2f} h in {summary.turns} turns of {summary.conversations} conversations, "
            f"{len(summary.voices)} voices"
        )
        terminal.say(f"left out: {left_out}" + (f" ({reasons}; see left_out.jsonl)" if left_out else ""))


def _line(layout: str, progress: "Progress", seconds: float) -> str:
    line = f"{layout}: shard {progress.done} of {progress.total}"
    if progress.made and progress.done < progress.total:
        left = seconds / progress.made * (progress.total - progress.done)
        line += f", {progress.seconds / seconds:.1f} times real time, {left / 60:.0f} min left"
    return line
