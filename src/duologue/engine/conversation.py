"""A conversation that remembers its turns: as the codes that were made, and as what the model has read of them.

Nothing is read twice while the beginning of the prompt stays: a turn appends its text and its frames to the backbone's
cache, a fork shares what was read so far, a turn that was cut short goes on from the frame before the cut.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from typing import TypedDict, Unpack, overload

import torch
from torch import Tensor

from duologue.codec.mimi import MimiDecoderState
from duologue.engine.context import CodedSegment, check_speaker
from duologue.engine.generator import (
    DEFAULT_MAX_AUDIO_LENGTH_MS,
    Generator,
    History,
    SpeechRequest,
    VoicePlan,
)
from duologue.engine.prefix import Prefix
from duologue.engine.sampling import DEFAULT_TEMPERATURE, DEFAULT_TOPK, MAX_SEED, SamplingOptions, check_number
from duologue.engine.scheduled import ScheduledSpeech
from duologue.engine.scheduler import Scheduler
from duologue.engine.speech import Speech, SpeechStream, unheard
from duologue.engine.spoken import AsyncSpokenPieces, SpokenPieces
from duologue.engine.stopping import StopPolicy
from duologue.engine.voices import NO_VOICE, Voice
from duologue.errors import OptionError
from duologue.frames import Segment

# When the model is full, so much of it is emptied at once: what stays is read again, which should be rare.
_SPARE_SHARE = 1 / 4
_LONGEST_PATIENCE_S = 3600.0


class TurnOptions(TypedDict, total=False):
    """What a turn may set; the defaults are those of `Generator.generate`."""

    max_audio_length_ms: float
    temperature: float
    topk: int
    seed: int | None
    normalize: bool | None
    guidance: float | None
    stopping: StopPolicy | None


class Conversation:
    """Turns of any number of speakers on one generator.

    `voices` names voices by speaker. A speaker who is to speak, has none, and was not heard, or so long ago that it is
    no longer in the prompt, gets a shipped voice that no other speaker of this conversation has, while there are
    enough; `default_voices=False` turns that off. A voice stays in the prompt for the whole conversation. When the
    model is full the oldest turns leave its prompt; they stay among `segments`.
    """

    def __init__(
        self,
        generator: Generator,
        voices: Mapping[int, str | Voice] | None = None,
        *,
        default_voices: bool = True,
        scheduler: Scheduler | None = None,
    ) -> None:
        """With a `scheduler` of that generator the turns are spoken there, among those of others.

        Raises `VoiceError` for an unknown voice, `OptionError` for a bad speaker and another generator's scheduler.
        """
        if scheduler is not None and scheduler.generator is not generator:
            raise OptionError("the scheduler belongs to another generator")
        self.generator = generator
        self._scheduler = scheduler
        self._default_voices = default_voices
        self._voices: dict[int, Voice] = {}
        self._voiceless: set[int] = set()
        self._turns: list[tuple[CodedSegment, Tensor | None]] = []
        self._num_evicted = 0
        self._read: Prefix | None = None
        for speaker, voice in (voices or {}).items():
            if voice == NO_VOICE:
                self._voiceless.add(check_speaker(speaker))
            else:
                self._voices[check_speaker(speaker)] = generator.find_voice(voice)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The turns so far; `audio` is float32 `[num_samples]` on the CPU, or None for a turn that was not spoken."""
        return tuple(Segment(turn.speaker, turn.text, audio) for turn, audio in self._turns)

    @property
    def voices(self) -> dict[int, Voice]:
        """The voice of each speaker who has one, chosen or given by default."""
        return dict(self._voices)

    def say(self, text: str, speaker: int = 0, **options: Unpack[TurnOptions]) -> Speech:
        """Speaks the next turn and appends it. Raises and warns as `Generator.generate`; then nothing is appended."""
        stream = self._stream(text, speaker, options, chunk_frames=unheard())
        for _ in stream:
            pass
        assert stream.result is not None
        return stream.result

    def stream_say(self, text: str, speaker: int = 0, **options: Unpack[TurnOptions]) -> SpeechStream | ScheduledSpeech:
        """`say` in chunks. The turn is appended once the stream is exhausted; one closed early leaves no trace.

        One that is interrupted (`SpeechStream.interrupt`) is appended as far as it was heard.
        """
        return self._stream(text, speaker, options)

    @overload
    def speak(
        self,
        pieces: AsyncIterable[str],
        speaker: int = 0,
        *,
        patience_s: float | None = None,
        **options: Unpack[TurnOptions],
    ) -> AsyncSpokenPieces: ...

    @overload
    def speak(
        self,
        pieces: Iterable[str],
        speaker: int = 0,
        *,
        patience_s: float | None = None,
        **options: Unpack[TurnOptions],
    ) -> SpokenPieces: ...

    def speak(
        self,
        pieces: Iterable[str] | AsyncIterable[str],
        speaker: int = 0,
        *,
        patience_s: float | None = None,
        **options: Unpack[TurnOptions],
    ) -> SpokenPieces | AsyncSpokenPieces:
        """Speaks a text that arrives in pieces, as a language model writes it, without waiting for its end.

        It is spoken clause by clause, each a turn whose context is what was said before, and sounds as one. Text that
        does not come within `patience_s` seconds, that goes on for ever, or whose writer raises ends the speech with
        that error, after what came before it. `max_audio_length_ms` is for each clause; so is `seed`, counted up. An
        asynchronous iterable needs a scheduler. Raises as `stream_say`.
        """
        speaker = check_speaker(speaker)
        if patience_s is not None:
            patience_s = check_number("patience_s", patience_s, 0, _LONGEST_PATIENCE_S)
        state = self.generator.codec.init_decoder_state(1)
        first_seed = _sampling(options).seeded().seed
        assert first_seed is not None

        def open_clause(text: str, index: int) -> SpeechStream | ScheduledSpeech:
            own = TurnOptions(**{**options, "seed": (first_seed + index) % MAX_SEED})
            return self._stream(text, speaker, own, state, goes_on=index > 0)

        if isinstance(pieces, AsyncIterable):
            if self._scheduler is None:
                raise OptionError("text from an asynchronous iterable needs a conversation with a scheduler")
            return AsyncSpokenPieces(pieces, open_clause, self._forget, patience_s)
        return SpokenPieces([pieces] if isinstance(pieces, str) else pieces, open_clause, self._forget, patience_s)

    def _stream(
        self,
        text: str,
        speaker: int,
        options: TurnOptions,
        codec_state: MimiDecoderState | None = None,
        chunk_frames: Iterator[int] | None = None,
        goes_on: bool = False,
    ) -> SpeechStream | ScheduledSpeech:
        started = time.perf_counter()
        speaker = check_speaker(speaker)
        chosen, defaults = dict(self._voices), self._defaults(speaker)
        evicted = self._num_evicted
        context = [turn for turn, _ in self._turns[evicted:]]

        def append(result: Speech, read: Prefix | None) -> None:
            kept = context[result.num_evicted - evicted :]
            is_recorded = any(turn.speaker == speaker and turn.codes is not None for turn in kept)
            self._voices = dict(chosen) if is_recorded else {**defaults, **chosen}
            self._num_evicted = result.num_evicted
            self._read = self._read if read is None else read
            if result.is_turn:
                self._turns.append((CodedSegment(speaker, text, result.codes), result.audio))

        request = SpeechRequest(
            text,
            speaker,
            context,
            VoicePlan(chosen, defaults),
            _sampling(options),
            options.get("max_audio_length_ms", DEFAULT_MAX_AUDIO_LENGTH_MS),
            options.get("normalize"),
            options.get("stopping"),
            History(evicted, _SPARE_SHARE, [] if self._read is None else [self._read]),
            codec_state,
        )
        if self._scheduler is not None:
            return self._scheduler.stream_request(request, started=started, on_result=append, goes_on=goes_on)
        return self.generator.stream_request(request, started=started, on_result=append, chunk_frames=chunk_frames)

    def hear(self, audio: Tensor | None, text: str, speaker: int) -> None:
        """Appends a turn that was spoken elsewhere: float32 `[num_samples]` at the generator's rate, with its words.

        Without `audio` its words alone. Raises `AudioError`, `TextError` and `OptionError`.
        """
        segment = Segment(speaker, text, audio)
        (coded,) = self.generator.coded([segment])
        samples = None if audio is None else torch.as_tensor(audio).detach().to("cpu", torch.float32).reshape(-1)
        self.append(coded, samples)

    def append(self, turn: CodedSegment, audio: Tensor | None = None) -> None:
        """Appends a turn whose codes are there; `audio` is what `segments` gives back for it."""
        self._turns.append((turn, audio))

    def truncate(self, num_frames: int, text: str | None = None) -> None:
        """Cuts the last turn after its first `num_frames` frames, as a listener who interrupted it heard it.

        `text` replaces its words, where it is known which were heard. With 0 frames the turn is gone. Raises
        `OptionError` unless the last turn was spoken and has so many frames.
        """
        if not self._turns or self._turns[-1][0].codes is None:
            raise OptionError("there is no spoken turn at the end of the conversation to truncate")
        turn, audio = self._turns[-1]
        assert turn.codes is not None and audio is not None
        made = turn.codes.shape[1]
        if not 0 <= num_frames <= made:
            raise OptionError(f"num_frames {num_frames}; expected 0 to {made}, the frames of the last turn")
        if not num_frames:
            self._turns.pop()
            if self._num_evicted >= len(self._turns):
                self._num_evicted = 0  # nothing is left of what was in the prompt: what fits of the rest returns
            return
        heard = CodedSegment(turn.speaker, turn.text if text is None else text, turn.codes[:, :num_frames])
        self._turns[-1] = heard, audio[: num_frames * self.generator.codec.frame_size]

    def _forget(self, speech: Speech, num_frames: int) -> None:
        """`truncate` of the turn that this speech is, which has to be the last still."""
        if not self._turns or self._turns[-1][0].codes is not speech.codes:
            raise OptionError("the conversation has gone on, and its last turn is not the one to be cut")
        self.truncate(num_frames)

    def fork(self) -> Conversation:
        """Another conversation with the same past; what was read of it is shared, and each goes its own way."""
        other = Conversation(self.generator, default_voices=self._default_voices, scheduler=self._scheduler)
        other._voices, other._voiceless = dict(self._voices), set(self._voiceless)
        other._turns, other._num_evicted, other._read = list(self._turns), self._num_evicted, self._read
        return other

    def _defaults(self, speaker: int) -> dict[int, Voice]:
        """The voice for `speaker` where the model hears nothing of it, if it may have one."""
        if not self._default_voices or speaker in self._voiceless or speaker in self._voices:
            return {}
        default = self.generator.default_voice(speaker, [voice.name for voice in self._voices.values()])
        return {} if default is None else {speaker: default}


def _sampling(options: TurnOptions) -> SamplingOptions:
    return SamplingOptions(
        options.get("temperature", DEFAULT_TEMPERATURE),
        options.get("topk", DEFAULT_TOPK),
        options.get("seed"),
        options.get("guidance"),
    )
