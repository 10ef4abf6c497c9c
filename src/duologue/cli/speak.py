"""`duologue speak`: one text, one recording."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from duologue.cli import files, groups, options, report, scripts, terminal
from duologue.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

    from duologue.engine.generator import Generator
    from duologue.engine.scheduled import ScheduledSpeech
    from duologue.engine.speech import SpeechStream
    from duologue.text import Script

DEFAULT_OUTPUT: Final = "speech.wav"

_MAX_DIGITS: Final = 10


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("speak")(groups.grouped(speak))


def speak(
    text: Annotated[
        str, typer.Argument(metavar="TEXT", help="What to say, or - to read it from standard input (UTF-8).")
    ],
    output: options.Output = DEFAULT_OUTPUT,
    voice: Annotated[
        str | None,
        typer.Option(
            "--voice", "-v", help="A name that duologue voices list shows. Default: by speaker.", show_default=False
        ),
    ] = None,
    speaker: Annotated[
        str, typer.Option(metavar="SPEAKER", help="Who speaks: a number from 0, or a name of the --context.")
    ] = "0",
    context: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="What was said before, as a conversation script or a message list: it shapes how the text is said.",
            show_default=False,
        ),
    ] = None,
    *,
    sampling: options.Sampling,
    source: options.ModelSource,
    machine: options.SpeakingMachine,
    messages: options.Messages,
) -> None:
    """Say a text, and write the recording to a file or to a player.

    The audio is written as it is spoken; a file gets its name only when it is
    whole.

    Examples:

      duologue speak "Hey, how are you doing?"
      duologue speak "Pretty good." --voice NAME --seed 7 -o answer.mp3
      echo "Dinner is ready." | duologue speak - -o - | aplay -q
    """
    if text == context == "-":
        raise OptionError(
            "the text and the --context are both -, but there is one standard input; give one of them a file"
        )
    words = files.read_text_argument(text)
    target = files.audio_target(output)
    before = _read_context(context) if context is not None else None
    speaker_id = _speaker_id(speaker, before)
    arguments = sampling.arguments() | {"seed": sampling.seed}
    generator = options.load_generator(source, machine, messages.quiet)
    stream: SpeechStream | ScheduledSpeech
    if before is None:
        stream = generator.stream(words, speaker_id, voice=voice, **arguments)
    else:
        stream = _stream_in_context(generator, before, words, speaker_id, voice, arguments)

    from duologue.audio import StreamWriter

    with terminal.progress(not messages.quiet) as show, StreamWriter(target, generator.sample_rate) as writer, stream:
        show("starting …")
        for chunk in stream:
            writer.write(chunk)
            show(f"{writer.num_samples / writer.sample_rate:.1f} s spoken …")
    speech = stream.result
    assert speech is not None
    if messages.as_json:
        payload = {"output": output, "sample_rate": generator.sample_rate, "text": words, "speaker": speaker_id}
        terminal.emit_json(payload | {"voice": voice} | report.describe(speech), report.json_stream(output))
    elif not messages.quiet:
        timing = report.timing(speech.duration_s, speech.total_s, speech.first_audio_s)
        terminal.say(f"{report.name_of(output)}: {timing}, seed {speech.seed}{report.ending([speech])}")


@dataclass(frozen=True)
class _Context:
    """What was said before: its file, the turns, their recordings by index, and the ids of the speakers."""

    path: str
    script: "Script"
    recordings: "dict[int, tuple[Tensor, int]]"
    prompts: "dict[str, tuple[Tensor, int]]"
    speakers: dict[str, int]


def _read_context(path: str) -> _Context:
    from duologue.text import assign_speakers

    script = scripts.read_script(path)
    recordings = scripts.read_recordings(path, script)
    prompts = scripts.read_prompts(path, script.voices)
    return _Context(path, script, recordings, prompts, assign_speakers(script.turns))


def _speaker_id(speaker: str, context: _Context | None) -> int:
    """The id of a speaker given by name or number. Raises `OptionError` for a name that the context lacks."""
    names = context.speakers if context is not None else {}
    if speaker in names:
        return names[speaker]
    if speaker.isdecimal() and len(speaker) < _MAX_DIGITS:
        return int(speaker)
    known = f" or one of {', '.join(names)}" if names else "; names come from a --context"
    raise OptionError(f"--speaker {speaker}; expected a number from 0{known}")


def _stream_in_context(
    generator: "Generator", context: _Context, words: str, speaker: int, voice: str | None, arguments: dict[str, Any]
) -> "SpeechStream | ScheduledSpeech":
    from duologue.audio import resample
    from duologue.engine.conversation import Conversation

    named = scripts.speaker_voices(generator, context.script, context.prompts, {})
    voices = {context.speakers[name]: chosen for name, chosen in named.items()}
    for turn in context.script.turns:
        if turn.voice is not None:
            voices.setdefault(context.speakers[turn.speaker], turn.voice)
    if voice is not None:
        voices[speaker] = voice
    conversation = Conversation(generator, voices)
    for index, turn in enumerate(context.script.turns):
        pcm = None
        if index in context.recordings:
            pcm = resample(*context.recordings[index], generator.sample_rate).clamp(-1.0, 1.0)
        with scripts.named_errors(scripts.place_of(context.path, index + 1, turn)):
            conversation.hear(pcm, turn.text, context.speakers[turn.speaker])
    return conversation.stream_say(words, speaker, **arguments)
