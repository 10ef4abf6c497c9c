"""`duologue rehearse`: a model speaks lines, to learn them again beside new recordings."""

import json
from pathlib import Path
from typing import Annotated

import typer

from duologue.cli import groups, options, terminal
from duologue.cli.files import read_text_file


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("rehearse")(groups.grouped(rehearse))


def rehearse(
    lines: Annotated[str, typer.Argument(metavar="LINES", help="A text file, a sentence a line; - is standard input.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Where the shards go, as of duologue prepare.")],
    voice: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="In this voice; give it several times. Default: in each of the model's, by turns.",
            show_default=False,
        ),
    ] = None,
    asr: Annotated[
        str,
        typer.Option(help="The recogniser: bundled (whisper-base), a CTranslate2 folder, or a size to download."),
    ] = "bundled",
    language: Annotated[str, typer.Option(help="Of the lines, for the recogniser; auto finds out.")] = "en",
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Keep what the recogniser does not understand.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the first line; the next ones count on.")] = 0,
    temperature: Annotated[float, typer.Option(help="Lower keeps closer to the text.")] = 0.7,
    *,
    source: options.ModelSource,
    machine: options.SpeakingMachine,
    messages: options.Messages,
) -> None:
    """Have a model speak lines, for duologue train to learn again.

    A model that learns a voice from minutes of speech forgets some of what it
    could do. OUT holds it: speech of the model itself, in each of its voices
    by turns, of which the recogniser understood every word. A sentence in
    three is usual for the bundled model. Any lines do, best such as the model
    is to speak later; a few hundred are enough.

    A model that was tuned on a voice is near to it and slips on words. With
    --voice it speaks the lines in that voice, and a second run that learns
    what was understood beside the recordings has both.

    A run that was interrupted goes on where it stopped.

    Examples:

      duologue rehearse lines.txt own/
      duologue train data/ --rehearse own/ -o tuned/
      duologue rehearse lines.txt hers/ --model tuned/model --voice eve
      duologue train data/ --rehearse own/ --self-training hers/ -o again/
    """
    from duologue.data.hearing import Transcriber
    from duologue.data.rehearsal import rehearse as run

    is_quiet = messages.quiet or messages.as_json
    texts = [line.strip() for line in read_text_file(lines).splitlines() if line.strip()]
    transcriber = None
    if not unchecked:
        transcriber = Transcriber(
            None if asr == "bundled" else asr,
            language=None if language == "auto" else language,
            cache=options.user_folder() / "cache",
        )
    generator = options.load_generator(source, machine, is_quiet)
    kept = 0
    with terminal.progress(not is_quiet) as show:
        for progress in run(
            generator, texts, folder, voices=voice, transcriber=transcriber, temperature=temperature, seed=seed
        ):
            kept = progress.kept
            show(f"line {progress.done} of {progress.total}, {kept} kept")
    if messages.as_json:
        typer.echo(json.dumps({"folder": str(folder), "lines": len(texts), "kept": kept}))
    elif not messages.quiet:
        option = "--self-training" if voice else "--rehearse"
        terminal.say(f"{folder}: {kept} of {len(texts)} lines; learn them with duologue train DATA {option} {folder}")
