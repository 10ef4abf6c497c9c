"""`duologue converse`: a written conversation, turn by turn, into one recording."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from duologue.cli import files, groups, options, report, scripts, terminal
from duologue.errors import AudioError

if TYPE_CHECKING:
    from torch import Tensor

    from duologue.audio import StreamWriter
    from duologue.engine.conversation import Conversation
    from duologue.engine.generator import Generator
    from duologue.engine.speech import Speech
    from duologue.engine.voices import Voice
    from duologue.text import Script, Turn

DEFAULT_OUTPUT: Final = "conversation.wav"
DEFAULT_PAUSE_SECONDS: Final = 0.25

_MOST_PAUSE_SECONDS: Final = 60.0
_MAX_SEED: Final = 2**63 - 1
_TEXT_WIDTH: Final = 60
_NAME_WIDTH: Final = 24


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("converse")(groups.grouped(converse))


def converse(
    script: Annotated[
        str,
        typer.Argument(
            metavar="SCRIPT",
            help="One turn a line, such as A: Hey! Or YAML, JSON or a message list, with voices and options. - reads "
            "standard input.",
        ),
    ],
    output: options.Output = DEFAULT_OUTPUT,
    voice: Annotated[
        list[str] | None,
        typer.Option(
            "--voice",
            "-v",
            metavar="SPEAKER=NAME",
            help="The voice of a speaker; may be repeated. Default: the script's, else a different one for each.",
            show_default=False,
        ),
    ] = None,
    pause: Annotated[float, typer.Option(help="Seconds of silence between two turns.")] = DEFAULT_PAUSE_SECONDS,
    turns_dir: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Also write every turn to a file of its own in this folder.", show_default=False
        ),
    ] = None,
    *,
    sampling: options.Sampling,
    source: options.ModelSource,
    machine: options.SpeakingMachine,
    messages: options.Messages,
) -> None:
    """Speak a written conversation: every turn is said with the turns before it in mind.

    Every speaker gets a voice of the model's unless --voice or the script
    names one. In YAML or JSON, a turn may have a voice, temperature, topk,
    guidance, seed and max_audio_length_ms of its own, and audio, the path of a
    recording that is played instead of spoken:

      voices:
        A: NAME
      turns:
        - speaker: A
          text: Hey!
          temperature: 0.7
        - speaker: B
          text: Good morning.

    Examples:

      duologue converse examples/hello.txt
      duologue converse talk.yaml -o talk.mp3 --voice A=NAME --voice B=NAME
      echo "A: Knock, knock." | duologue converse - -o - | aplay -q
    """
    target = files.audio_target(output)
    read = scripts.read_script(script)
    recordings = scripts.read_recordings(script, read)
    prompts = scripts.read_prompts(script, read.voices)
    names = list(dict.fromkeys(turn.speaker for turn in read.turns))
    chosen = scripts.parse_voice_options(voice or [], names)
    pause_s = options.number_in("--pause", pause, 0, _MOST_PAUSE_SECONDS)
    defaults, seed = sampling.arguments(), sampling.seed
    # The same seed for every turn would say the same words in the same way each time; so the turn's number is added.
    per_turn = [
        defaults | {"seed": None if seed is None else (seed + index if 0 <= seed <= _MAX_SEED - index else seed)}
        for index in range(len(read.turns))
    ]
    with _turns_folder(turns_dir) as folder:
        generator = options.load_generator(source, machine, messages.quiet)
        cast = _cast(read, scripts.speaker_voices(generator, read, prompts, chosen), chosen)
        plan = [
            _PlannedTurn(
                turn=turn,
                speaker=cast.ids[index],
                options=per_turn[index] | dict(turn.options),
                place=scripts.place_of(script, index + 1, turn),
                recording=_at_rate(generator, recordings.get(index)),
            )
            for index, turn in enumerate(read.turns)
        ]
        _check(generator, plan)

        from duologue.audio import StreamWriter, write_audio
        from duologue.engine.conversation import Conversation

        conversation = Conversation(generator, cast.voices)
        run = _Run(conversation, generator.sample_rate, show_lines=not messages.quiet and not messages.as_json)
        with terminal.progress(not messages.quiet) as show, StreamWriter(target, generator.sample_rate) as writer:
            for number, planned in enumerate(plan, start=1):
                if number > 1:
                    _write_silence(writer, pause_s)
                with scripts.named_errors(planned.place):
                    audio = run.take(planned, writer, show, f"turn {number} of {len(plan)}")
                if folder is not None:
                    run.files.append(f"{number:02}-{_file_name(planned.turn.speaker)}.wav")
                    write_audio(folder / run.files[-1], audio, generator.sample_rate)
        seconds = writer.num_samples / generator.sample_rate
    if messages.as_json:
        payload = {"output": output, "sample_rate": generator.sample_rate, "seconds": seconds}
        terminal.emit_json(payload | run.describe(plan, turns_dir), report.json_stream(output))
    elif not messages.quiet:
        timing = report.timing(run.spoken_s, run.compute_s, run.first_audio_s)
        pauses = f", {seconds:.2f} s with pauses" if len(plan) > 1 else ""
        terminal.say(f"{report.name_of(output)}: {timing}{pauses}{report.ending(run.speeches)}")


@dataclass(frozen=True)
class _Cast:
    """The speaker id of every turn, and the voices by id."""

    ids: list[int]
    voices: "dict[int, str | Voice]"


def _cast(script: "Script", voices: "Mapping[str, str | Voice]", chosen: Mapping[str, str]) -> _Cast:
    """A turn with a voice of its own, other than its speaker's, is spoken by another speaker of the conversation.

    `voices` are the speakers'; for those of them `chosen` on the command line, the turns' own do not count.
    """
    from duologue.text import assign_speakers

    ids = assign_speakers(script.turns)
    by_id = {ids[name]: voice for name, voice in voices.items()}
    voices_of_first_turns = {turn.speaker: turn.voice for turn in reversed(script.turns)}
    for name, voice in voices_of_first_turns.items():
        if voice is not None:
            by_id.setdefault(ids[name], voice)
    others: dict[tuple[str, str], int] = {}
    turn_ids = []
    for turn in script.turns:
        speaker = ids[turn.speaker]
        if turn.voice is not None and turn.speaker not in chosen and by_id.get(speaker) != turn.voice:
            speaker = others.setdefault((turn.speaker, turn.voice), max([*ids.values(), *others.values()]) + 1)
            by_id[speaker] = turn.voice
        turn_ids.append(speaker)
    return _Cast(turn_ids, by_id)


@dataclass(frozen=True)
class _PlannedTurn:
    """A turn, who speaks it and how; `recording [num_samples]` where it has been spoken already."""

    turn: "Turn"
    speaker: int
    options: dict[str, Any]
    place: str
    recording: "Tensor | None"


def _at_rate(generator: "Generator", recording: "tuple[Tensor, int] | None") -> "Tensor | None":
    if recording is None:
        return None
    from duologue.audio import resample

    return resample(*recording, generator.sample_rate).clamp(-1.0, 1.0)


def _check(generator: "Generator", plan: list[_PlannedTurn]) -> None:
    """Raise what the last turn would raise, before the first one is spoken."""
    from duologue.engine.context import check_text
    from duologue.engine.sampling import SamplingOptions

    for planned in plan:
        with scripts.named_errors(planned.place):
            check_text(planned.turn.text, generator.tokenizer, planned.options["normalize"])
            SamplingOptions(*(planned.options[name] for name in ("temperature", "topk", "seed", "guidance")))
            generator.num_frames(planned.options["max_audio_length_ms"])


@dataclass
class _Run:
    """What has been spoken so far."""

    conversation: "Conversation"
    sample_rate: int
    show_lines: bool
    speeches: "list[Speech]" = field(default_factory=list)
    results: "list[Speech | None]" = field(default_factory=list)
    files: list[str] = field(default_factory=list)

    @property
    def spoken_s(self) -> float:
        """Seconds of audio that were made."""
        return sum(speech.duration_s for speech in self.speeches)

    @property
    def compute_s(self) -> float:
        """Seconds that making them took."""
        return sum(speech.total_s for speech in self.speeches)

    @property
    def first_audio_s(self) -> float | None:
        """Seconds from the first turn's begin to its first audio."""
        return self.speeches[0].first_audio_s if self.speeches else None

    def take(self, planned: _PlannedTurn, writer: "StreamWriter", show: terminal.Show, name: str) -> "Tensor":
        """Speak or play one turn into `writer`; returns its audio, `[num_samples]`."""
        text, speaker = planned.turn.text, planned.speaker
        label = f"{name}, {terminal.clip(planned.turn.speaker, _NAME_WIDTH)}"
        show(f"{label} …")
        if planned.recording is not None:
            self.conversation.hear(planned.recording, text, speaker)
            writer.write(planned.recording)
            self.results.append(None)
            self._say_line(planned, len(planned.recording) / self.sample_rate, " (played)")
            return planned.recording
        start = writer.num_samples
        with self.conversation.stream_say(text, speaker, **planned.options) as stream:
            for chunk in stream:
                writer.write(chunk)
                show(f"{label}: {(writer.num_samples - start) / self.sample_rate:.1f} s spoken …")
        speech = stream.result
        assert speech is not None
        self.speeches.append(speech)
        self.results.append(speech)
        remark = report.stop_remark(speech)
        self._say_line(planned, speech.duration_s, f" ({remark})" if remark else "")
        return speech.audio

    def _say_line(self, planned: _PlannedTurn, seconds: float, remark: str) -> None:
        if self.show_lines:
            speaker = terminal.clip(planned.turn.speaker, _NAME_WIDTH)
            terminal.say(f"{seconds:6.2f} s  {speaker}: {terminal.clip(planned.turn.text, _TEXT_WIDTH)}{remark}")

    def describe(self, plan: list[_PlannedTurn], turns_dir: str | None) -> dict[str, Any]:
        """As JSON values."""
        voices = self.conversation.voices
        turns = []
        for index, (planned, speech) in enumerate(zip(plan, self.results, strict=True)):
            turn: dict[str, Any] = {"speaker": planned.turn.speaker, "speaker_id": planned.speaker}
            turn |= {"text": planned.turn.text, "played": speech is None}
            if planned.speaker in voices and speech is not None:
                turn["voice"] = voices[planned.speaker].name
            if speech is not None:
                turn |= report.describe(speech)
            elif planned.recording is not None:
                turn["seconds"] = len(planned.recording) / self.sample_rate
            if turns_dir is not None:
                turn["output"] = str(Path(turns_dir) / self.files[index])
            turns.append(turn)
        return {
            "spoken_seconds": self.spoken_s,
            "total_seconds": self.compute_s,
            "first_audio_seconds": self.first_audio_s,
            "real_time_factor": report.real_time_factor(self.compute_s, self.spoken_s),
            "turns": turns,
        }


def _write_silence(writer: "StreamWriter", seconds: float) -> None:
    import torch

    writer.write(torch.zeros(round(seconds * writer.sample_rate)))


def _file_name(speaker: str) -> str:
    return "".join(character if character.isalnum() or character in "-_" else "_" for character in speaker)


@contextlib.contextmanager
def _turns_folder(turns_dir: str | None) -> Iterator[Path | None]:
    """A hidden folder inside `turns_dir`; what it holds moves there when all is done, or vanishes."""
    if turns_dir is None:
        yield None
        return
    final = Path(turns_dir)
    made = not final.exists()
    try:
        final.mkdir(exist_ok=True)
        work = tempfile.TemporaryDirectory(prefix=".duologue-", dir=final)
    except OSError as error:
        raise AudioError(f"cannot write turns to {turns_dir}: {error.strerror or error}; give a folder") from None
    whole = False
    try:
        with work as folder:
            yield Path(folder)
            for path in sorted(Path(folder).iterdir()):
                os.replace(path, final / path.name)
            whole = True
    finally:
        if made and not whole:
            with contextlib.suppress(OSError):
                final.rmdir()
