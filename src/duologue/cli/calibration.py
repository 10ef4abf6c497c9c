"""`duologue eval calibrate`: the instruments on references with a known answer."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from duologue.cli import groups, options, terminal
from duologue.errors import EvaluationError

if TYPE_CHECKING:
    from duologue.eval.calibration.report import CalibrationReport

_TEXT_WIDTH: Final = 50
_MAX_NAMED: Final = 5


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command("calibrate")(groups.grouped(calibrate))


def calibrate(
    recordings: Annotated[
        list[str],
        typer.Option(
            metavar="FOLDER[#PATTERN]",
            help="True recordings with a manifest*.jsonl, or another pattern after #. Repeatable.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the table goes.")],
    limit: Annotated[int, typer.Option(min=2, help="Recordings of each folder that are changed.")] = 20,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Hold all untouched recordings to the bounds, not only those that are changed."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="For noise and for which texts are exchanged.")] = 0,
    asr: Annotated[
        str, typer.Option(help="The recogniser: bundled (whisper-base), a CTranslate2 folder, or a size to download.")
    ] = "bundled",
    offline: options.Offline = False,
    threads: options.Threads = None,
    *,
    messages: options.Messages,
) -> None:
    """Check the instruments on references with a known answer.

    True recordings have to score well. Other texts, other voices, noise,
    filters, cuts, silence, loops, speed and pitch have to move the measures
    that they should move, and no others. FOLDER gets calibration.json and
    calibration.md; the exit code is 1 where a row does not hold.

    Examples:

      duologue eval calibrate --recordings ../shared/corpus/heldout -o cal/
      duologue eval calibrate --recordings spoken --recordings "read#man*.jsonl" \\
        --limit 40 --out calibration/
    """
    from duologue.eval.calibration.bench import Progress, measure
    from duologue.eval.calibration.references import gather, open_recordings
    from duologue.eval.calibration.report import SCHEMA, CalibrationReport, now, write_calibration
    from duologue.eval.calibration.table import movements_of, results_of
    from duologue.eval.instruments import Instruments
    from duologue.eval.report import installed_versions

    systems = open_recordings(recordings)
    if out.exists() and not out.is_dir():
        raise EvaluationError(f"--out {out} is a file; give a folder")
    instruments = Instruments(
        options.user_folder() / "cache", asr=asr, threads=threads or os.cpu_count() or 1, offline=offline
    )
    with terminal.progress(not (messages.quiet or messages.as_json)) as show:
        show("listening to the voices …")
        sample = gather(systems, instruments, limit=limit, everything=everything)

        def report_progress(progress: Progress) -> None:
            text = terminal.clip(progress.text, _TEXT_WIDTH)
            show(f"{progress.done + 1} of {progress.total}: {progress.condition}: {text}")

        measured = measure(sample, instruments, seed=seed, progress=report_progress)
        results = results_of(sample, measured, lambda text: show(f"direct calls: {terminal.clip(text, _TEXT_WIDTH)}"))
    made = CalibrationReport(
        schema=SCHEMA,
        created=now(),
        command=shlex.join(["duologue", *sys.argv[1:]]),
        seed=seed,
        limit=limit,
        changed=len(sample.changed),
        untouched=len(sample.untouched),
        recordings=sample.about,
        instruments={
            "recognizer": instruments.recognizer.name,
            "speaker_encoder": instruments.speaker_encoder.name,
            "quality_judge": instruments.quality_judge.name,
        },
        versions=installed_versions(),
        results=tuple(results),
        movements=tuple(movements_of(measured)),
    )
    path = write_calibration(made, out)
    if messages.as_json:
        terminal.emit_json(
            {
                "calibration": str(path),
                "rows": len(made.results),
                "failed": [result.name for result in made.failed],
                "unmeasured": [result.name for result in made.unmeasured],
            },
            sys.stdout,
        )
    else:
        _tell(made, path, messages.quiet)
    if made.failed:
        raise typer.Exit(terminal.EXIT_FAILURE)


def _tell(made: CalibrationReport, path: Path, quiet: bool) -> None:
    from duologue.eval.calibration.report import MARKDOWN_NAME, expectation
    from duologue.eval.markdown import number

    for result in made.failed:
        found = number(result.measured, "" if result.quantity == "ratio" else result.unit)
        terminal.note(f"{result.name} does not hold: {result.quantity} {found}; {expectation(result)}")
    unmeasured = [result.name for result in made.unmeasured]
    if unmeasured:
        some = ", ".join(unmeasured[:_MAX_NAMED]) + (", …" if len(unmeasured) > _MAX_NAMED else "")
        terminal.note(f"{len(unmeasured)} rows could not be measured ({some})")
    if not quiet:
        held = len(made.results) - len(made.failed) - len(unmeasured)
        terminal.say(f"{path}: {held} of {len(made.results)} rows hold; {path.with_name(MARKDOWN_NAME)} to read")
