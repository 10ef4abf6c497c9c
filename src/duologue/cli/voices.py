"""`duologue voices`: the voices at hand, and one's own."""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from duologue.cli import files, groups, options, terminal

if TYPE_CHECKING:
    from duologue.engine.voices import Voice, VoiceLibrary

_HELP: Final = f"""
The voices that speak and converse can use: those of the model, and your own.

A voice is a short recording with its transcript; the model continues in
its manner. Your own are kept in ${options.HOME_VARIABLE}/voices, or else in this
platform's folder for the data of programs, and belong to the codec that they
were made with.

Examples:

  duologue voices list
  duologue voices add ada ada.wav --text "What Ada says in the recording."
  duologue speak "Hello there." --voice ada
"""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = options.command_group(_HELP)
    group.command("list")(groups.grouped(list_voices))
    group.command("add")(groups.grouped(add_voice))
    group.command("remove")(groups.grouped(remove_voice))
    app.add_typer(group, name="voices")


def list_voices(
    *,
    source: options.ModelSource,
    as_json: options.AsJson = False,
) -> None:
    """List the voices, in the order in which speakers get them by default.

    The first column is the name for --voice.

    Examples:

      duologue voices list
      duologue voices list --json
    """
    library = _library(source, options.Machine(), quiet=as_json)
    shipped = set(library.shipped_names)
    found = [_describe(voice, library, voice.name in shipped) for voice in library.list()]
    if as_json:
        terminal.emit_json({"voices": found, "folder": str(options.user_voices_folder())}, sys.stdout)
        return
    width = max((len(item["name"]) for item in found), default=0)
    for item in found:
        own = "" if item["shipped"] else "your own; "
        details = f"{own}{item['seconds']:.1f} s" + (f"; {item['description']}" if item["description"] else "")
        typer.echo(terminal.one_line(f"{item['name']:<{width}}").ljust(width) + "  " + terminal.one_line(details))
    if not found:
        terminal.note("this model comes with no voices; duologue voices add makes one")


def add_voice(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it: a-z, 0-9, _ and -.")],
    audio: Annotated[
        str, typer.Argument(metavar="AUDIO", help="1 to 30 s of one person speaking clearly, or - for standard input.")
    ],
    text: Annotated[str, typer.Option(help="What is said in the recording, to the letter.")],
    description: Annotated[str, typer.Option(help="A few words that the list shows.")] = "",
    *,
    source: options.ModelSource,
    machine: options.Machine,
    messages: options.Messages,
) -> None:
    """Make a voice of your own from a recording and its transcript.

    5 to 10 s without noise or music work best. Use recordings only of people
    who agreed to it.

    Examples:

      duologue voices add ada ada.wav --text "What Ada says in the recording."
      duologue voices add bob bob.mp3 --text "What Bob says." --description calm
    """
    transcript = files.check_utf8(text, "--text")

    from duologue.audio import read_audio, resample

    recording = read_audio(files.audio_source(audio))  # before the model: bad input is told at once
    library = _library(source, machine, messages.quiet or messages.as_json)
    pcm = resample(*recording, library.codec.sample_rate).clamp(-1.0, 1.0)  # [S]
    voice = library.add(name, pcm, transcript, files.check_utf8(description, "--description"))
    described = _describe(voice, library, shipped=False)
    if messages.as_json:
        terminal.emit_json(described | {"folder": str(options.user_voices_folder())}, sys.stdout)
    elif not messages.quiet:
        terminal.say(f"{name}: a voice of {described['seconds']:.1f} s in {options.user_voices_folder()}")


def remove_voice(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A voice of your own.")],
    *,
    source: options.ModelSource,
    messages: options.Messages,
) -> None:
    """Delete a voice of your own.

    Those that come with a model stay.

    Examples:

      duologue voices remove ada
    """
    library = _library(source, options.Machine(), messages.quiet or messages.as_json)
    library.remove(name)
    if messages.as_json:
        terminal.emit_json({"removed": name}, sys.stdout)
    elif not messages.quiet:
        terminal.say(f"{name}: removed")


def _library(source: options.ModelSource, machine: options.Machine, quiet: bool) -> "VoiceLibrary":
    return options.load_generator(source, options.SpeakingMachine(machine.device, machine.threads), quiet).voices


def _describe(voice: "Voice", library: "VoiceLibrary", shipped: bool) -> dict[str, Any]:
    return {
        "name": voice.name,
        "description": voice.description,
        "shipped": shipped,
        "seconds": voice.num_frames / library.codec.frame_rate,
        "texts": [segment.text for segment in voice.segments],
    }
