"""`duologue eval`: figures with intervals for speech systems, side by side, and what two reports differ in."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from duologue.cli import calibration, groups, listening, options, terminal
from duologue.errors import EvaluationError

if TYPE_CHECKING:
    from duologue.eval.clips import System
    from duologue.eval.report import EvaluationReport

# What servers under test are sent as their bearer token.
TOKEN_VARIABLE: Final = "DUOLOGUE_EVAL_TOKEN"
_TEXT_WIDTH: Final = 50


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(rich_markup_mode="rich", invoke_without_command=True, context_settings=options.HELP_OPTIONS)
    group.callback()(groups.grouped(evaluate))
    group.command("compare")(groups.grouped(compare))
    listening.register(group)
    calibration.register(group)
    app.add_typer(group, name="eval")


def evaluate(
    context: typer.Context,
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", metavar="NAME", help="A suite, or all. Repeatable.", show_default=False),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A Duologue model: parlor, a folder or file, or a hub id. Repeatable.",
            show_default=False,
        ),
    ] = None,
    system: Annotated[
        list[str] | None,
        typer.Option(
            "--system",
            metavar="NAME=KIND:WHAT",
            help="Any system; KIND is model, server, command, recordings or codec. Repeatable.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FOLDER", help="Where it all goes.")] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many lines of each group. Default: all.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same figures on the same machine.")] = 0,
    voice: Annotated[
        str | None, typer.Option(help="The voice of Duologue models. Default: each one's first.", show_default=False)
    ] = None,
    asr: Annotated[
        str, typer.Option(help="The recogniser: bundled (whisper-base), a CTranslate2 folder, or a size to download.")
    ] = "bundled",
    offline: options.Offline = False,
    *,
    machine: options.SpeakingMachine,
    messages: options.Messages,
) -> None:
    """Measure speech systems: words, voice, sound, endings, context, speed.

    Every figure has its count and a bootstrap 95 % interval. FOLDER gets
    report.html to look at, report.md, report.json and the clips; a run that
    was interrupted goes on where it stopped. Systems side by side make one
    report.

    Examples:

      duologue eval --suite all --model parlor --limit 10 --out report/
      duologue eval --suite intelligibility --model parlor --out report/ \\
        --system "espeak=command:espeak-ng -w {wav} -- {text}"
      duologue eval --suite all --system real=recordings:FOLDER --out real/
      duologue eval compare report/ other/
    """
    if context.invoked_subcommand is not None:
        return
    if out is None:
        raise EvaluationError("say where the report goes, with --out FOLDER; see duologue eval --help")

    from duologue.eval.files import write_text
    from duologue.eval.instruments import Instruments
    from duologue.eval.markdown import report_markdown
    from duologue.eval.page import report_html
    from duologue.eval.report import make_report, write_report
    from duologue.eval.run import Progress, run
    from duologue.eval.suites import ALL, find_suites

    suites = find_suites(suite or [ALL])
    is_quiet = messages.quiet or messages.as_json
    systems = _open_systems(model or [], system or [], _Opener(machine, offline, voice, is_quiet))
    instruments = Instruments(
        options.user_folder() / "cache", asr=asr, threads=machine.threads or os.cpu_count() or 1, offline=offline
    )
    with terminal.progress(not is_quiet) as show:

        def report_progress(progress: Progress) -> None:
            text = terminal.clip(progress.text, _TEXT_WIDTH)
            step = f"{progress.doing} {progress.done + 1} of {progress.total}"
            show(f"{step}: {progress.system}, {progress.suite}: {text}")

        results = run(systems, suites, out, instruments, limit=limit, seed=seed, progress=report_progress)
        show("adding up …")
        made = make_report(results, systems, suites, instruments, command=_command(), seed=seed, limit=limit)
        path = write_report(made, out)
        write_text(out / "report.md", report_markdown(made))
        show("drawing the page …")
        write_text(out / "report.html", report_html(made, out))
    if messages.as_json:
        terminal.emit_json({"report": str(path), "figures": _headlines(made)}, sys.stdout)
    elif not messages.quiet:
        for line in _headlines(made):
            where = line["suite"] if line["group"] == "all" else f"{line['suite']}, {line['group']}"
            typer.echo(f"{line['system']}, {where}: {line['title']} {line['text']}")
        terminal.say(
            f"{path}: {sum(len(suite.figures) for suite in made.suites)} figures; {out / 'report.html'} to read"
        )


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A report.json, or the folder of one.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The other.")],
    *,
    as_json: options.AsJson = False,
) -> None:
    """Say in what B differs from A, and where that is more than chance.

    Utterances that both measured are paired; a difference is marked where
    its bootstrap 95 % interval leaves out zero.

    Examples:

      duologue eval compare before/ after/
    """
    from duologue.eval.markdown import comparison_markdown, verdict
    from duologue.eval.report import compare_reports, read_report

    compared = compare_reports(read_report(first), read_report(second))
    if not as_json:
        typer.echo(comparison_markdown(compared), nl=False)
        return
    terminal.emit_json(
        {
            "differences": [
                {
                    "suite": item.suite,
                    "group": item.group,
                    "metric": item.metric.name,
                    "unit": item.metric.unit,
                    "first": item.first,
                    "second": item.second,
                    **item.difference.to_dict(),
                    "verdict": verdict(item),
                }
                for item in compared
            ]
        },
        sys.stdout,
    )


@dataclass(frozen=True)
class _Opener:
    """Opens what is under test in this process, as the options say."""

    machine: options.SpeakingMachine
    offline: bool
    voice: str | None
    quiet: bool

    def model(self, name: str, source: str) -> System:
        from duologue.eval.systems import ModelOptions, ModelSystem

        asked, machine = options.ModelSource(source, offline=self.offline), self.machine
        manner = [] if machine.quantize is None else [f"in {machine.quantize}"]
        manner += [] if machine.backend == "eager" else [machine.backend]
        return ModelSystem(
            name,
            lambda: options.load_generator(asked, machine, self.quiet),
            source=", ".join([source, *manner]),
            options=ModelOptions(voice=self.voice),
        )

    def codec(self, name: str, source: str, num_codebooks: int | None) -> System:
        from duologue.eval.systems import CodecSystem

        asked = options.ModelSource(source, offline=self.offline)
        return CodecSystem(
            name,
            lambda: options.load_codec(asked, self.machine, self.quiet),
            source=source,
            num_codebooks=num_codebooks,
        )


def _open_systems(models: list[str], systems: list[str], opener: _Opener) -> list[System]:
    """All systems, each of which has been loaded once, so that bad input is told before anything is spoken."""
    from duologue.eval.systems.naming import open_system, parse_system

    addresses = [parse_system(text) for text in systems]
    token = os.environ.get(TOKEN_VARIABLE)
    opened = [opener.model(_model_name(source), source) for source in models]
    opened += [open_system(address, opener, token=token) for address in addresses]
    if not opened:
        raise EvaluationError("no system to measure; give --model parlor, or --system NAME=KIND:WHAT")
    for system in opened:
        system.open()
        if len(opened) > 1:
            system.close()
    return opened


def _model_name(source: str) -> str:
    """The last part of a path or hub id, fit for a folder's name."""
    name = Path(source).name or source
    return "".join(character if character.isalnum() or character in "._-" else "_" for character in name)


def _headlines(made: EvaluationReport) -> list[dict[str, Any]]:
    """For each system and suite the figure that a reader looks for first, by group where it has none over all."""
    from duologue.eval.markdown import with_interval
    from duologue.eval.report import headlines

    return [
        {
            "system": figure.system,
            "suite": suite.name,
            "group": figure.group,
            "metric": figure.metric,
            "title": figure.title,
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
            "count": figure.count,
            "text": with_interval(figure),
        }
        for suite in made.suites
        for figure in headlines(suite)
    ]


def _command() -> str:
    # Names of files need not be UTF-8; a report is.
    return shlex.join(["duologue", *sys.argv[1:]]).encode("utf-8", "replace").decode()
