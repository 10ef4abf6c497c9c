"""`Generator`: text and a conversation in, speech out.

Source: the arguments of Sesame's `csm/generator.py`, whose scripts run here after a change of import.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from duologue.codec.mimi import Mimi, MimiDecoderState
from duologue.engine.backends import EAGER, Backend
from duologue.engine.batch import FrameRequest
from duologue.engine.context import (
    CodedSegment,
    RecordingCodes,
    SegmentRows,
    build_prompt,
    check_speaker,
    check_text,
    coded_segments,
    warn,
)
from duologue.engine.prefix import Prefix, PrefixCache
from duologue.engine.sampling import DEFAULT_TEMPERATURE, DEFAULT_TOPK, SamplingOptions, check_number, check_whole
from duologue.engine.spare import SpareBatch
from duologue.engine.speech import Speech, SpeechPlan, SpeechStream, growing, unheard
from duologue.engine.step import prefill
from duologue.engine.stopping import StopPolicy, StopWatch
from duologue.engine.voices import NO_VOICE, Voice, VoiceLibrary
from duologue.errors import CheckpointError, OptionError, VoiceError
from duologue.frames import Segment
from duologue.model.csm import CSM
from duologue.text.tokenizer import TextTokenizer

DEFAULT_MAX_AUDIO_LENGTH_MS = 90_000
MAX_AUDIO_LENGTH_MS = 3_600_000  # an hour: beyond what a model holds


@dataclass(frozen=True)
class VoicePlan:
    """Who speaks how: `chosen` voices are always in the prompt; speakers of whom there is neither a chosen voice nor a
    recording in what is kept of the context get one of `defaults`, or, where that is None, a shipped one."""

    chosen: Mapping[int, Voice] = field(default_factory=dict)
    defaults: Mapping[int, Voice] | None = None


@dataclass(frozen=True)
class History:
    """What a conversation brings to its next turn beside its segments.

    `num_evicted` of them have left before, and where more have to, `spare_share` of the model's rows becomes free;
    `prefixes` are what the model has read of it.
    """

    num_evicted: int = 0
    spare_share: float = 0.0
    prefixes: Sequence[Prefix] = ()


@dataclass(frozen=True)
class SpeechRequest:
    """What is to be spoken: a text, by whom, after a context that is coded, in voices that are chosen, and how.

    `history` is what a conversation brings of its earlier turns. A `codec_state` of one row, which changes with the
    speech, lets its sound go on where what was spoken through it before has ended. For the rest see
    `Generator.generate`.
    """

    text: str
    speaker: int
    context: Sequence[CodedSegment]
    voices: VoicePlan
    sampling: SamplingOptions
    max_audio_length_ms: float = DEFAULT_MAX_AUDIO_LENGTH_MS
    normalize: bool | None = None
    stopping: StopPolicy | None = None
    history: History = field(default_factory=History)
    codec_state: MimiDecoderState | None = None


class Generator:
    """Speaks text in the voices and manner of the conversation before it.

    Holds no state of a conversation: every call brings its own context, so that several threads and streams may share
    one generator. `model`, `codec` and `tokenizer` belong together; the codec works in float32. `backend` runs both.
    What the model makes of voice prompts is kept in `prefixes`: after changing its weights, `prefixes.clear()`.
    """

    def __init__(
        self,
        model: CSM,
        codec: Mimi,
        tokenizer: TextTokenizer,
        voices: VoiceLibrary | None = None,
        *,
        backend: Backend = EAGER,
    ) -> None:
        """Puts model and codec into evaluation mode. Raises `CheckpointError` where the parts do not fit each other."""
        config = model.config
        if config.codebook_size != codec.config.codebook_size or config.num_codebooks > codec.num_codebooks:
            raise CheckpointError(
                f"the model speaks {config.num_codebooks} codebooks of {config.codebook_size} codes, "
                f"but the codec has {codec.num_codebooks} of {codec.config.codebook_size}"
            )
        if tokenizer.vocab_size > config.text_vocab_size:
            raise CheckpointError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, but the model knows {config.text_vocab_size}"
            )
        self.model = model.eval()
        self.codec = codec.eval()
        self.tokenizer = tokenizer
        self.backend = backend
        self.voices = voices if voices is not None else VoiceLibrary(codec)
        self.prefixes = PrefixCache()
        self._spare = SpareBatch(model, backend)
        self._recordings = RecordingCodes(codec, config.num_codebooks)
        self._rows = SegmentRows(tokenizer, config.num_codebooks)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what is generated and of the recordings in the context."""
        return self.codec.sample_rate

    @property
    def max_rows(self) -> int:
        """Rows that the model can hold: voice prompts, context, text and the frames to come."""
        return self.model.config.backbone.max_positions

    def generate(
        self,
        text: str,
        speaker: int = 0,
        context: Sequence[Segment | CodedSegment | Mapping[str, object]] = (),
        max_audio_length_ms: float = DEFAULT_MAX_AUDIO_LENGTH_MS,
        temperature: float = DEFAULT_TEMPERATURE,
        topk: int = DEFAULT_TOPK,
        seed: int | None = None,
        *,
        voice: str | Voice | None = None,
        normalize: bool | None = None,
        guidance: float | None = None,
        stopping: StopPolicy | None = None,
    ) -> Tensor:
        """The text as audio: float32 `[num_samples]` at `sample_rate`, on the CPU; empty if the model ends at once.

        `context` is the conversation so far: segments, spoken or not, or the message list of transformers' CSM
        processor; what does not fit leaves whole, oldest first, with a warning. `voice` names one for `speaker`.
        Without one, a speaker of whom the context has no recording speaks in a voice of the checkpoint (speaker n in
        the n-th, counted round), and so do the context's other speakers; "none" turns that off. `normalize` says
        whether numbers, abbreviations and the like are spelled out (None: as the checkpoint says).
        `max_audio_length_ms` is at least one frame; speech that reaches it is cut, with a warning. `stopping` says what
        else ends speech that the model does not end. For `temperature`, `topk`, `seed` and `guidance` see
        `SamplingOptions`.

        Raises `TextError`, `OptionError`, `AudioError`, `VoiceError` and `ContextError`.
        """
        return self.speak(
            text,
            speaker,
            context,
            max_audio_length_ms,
            temperature,
            topk,
            seed,
            voice=voice,
            normalize=normalize,
            guidance=guidance,
            stopping=stopping,
        ).audio

    def speak(
        self,
        text: str,
        speaker: int = 0,
        context: Sequence[Segment | CodedSegment | Mapping[str, object]] = (),
        max_audio_length_ms: float = DEFAULT_MAX_AUDIO_LENGTH_MS,
        temperature: float = DEFAULT_TEMPERATURE,
        topk: int = DEFAULT_TOPK,
        seed: int | None = None,
        *,
        voice: str | Voice | None = None,
        normalize: bool | None = None,
        guidance: float | None = None,
        stopping: StopPolicy | None = None,
    ) -> Speech:
        """`generate` with all that is known about the result: codes, seed, why it stopped, times."""
        started = time.perf_counter()
        sampling = SamplingOptions(temperature, topk, seed, guidance)
        request = self.request(text, speaker, context, sampling, max_audio_length_ms, voice, normalize, stopping)
        stream = self.stream_request(request, started=started, chunk_frames=unheard())
        for _ in stream:
            pass
        assert stream.result is not None
        return stream.result

    def stream(
        self,
        text: str,
        speaker: int = 0,
        context: Sequence[Segment | CodedSegment | Mapping[str, object]] = (),
        max_audio_length_ms: float = DEFAULT_MAX_AUDIO_LENGTH_MS,
        temperature: float = DEFAULT_TEMPERATURE,
        topk: int = DEFAULT_TOPK,
        seed: int | None = None,
        *,
        voice: str | Voice | None = None,
        normalize: bool | None = None,
        guidance: float | None = None,
        stopping: StopPolicy | None = None,
        max_chunk_frames: int = 1,
    ) -> SpeechStream:
        """The same audio in chunks of whole frames, each as soon as it is made; see `SpeechStream`.

        Up to `max_chunk_frames` chunks grow, which takes less time in all. Bad arguments raise here, before the first
        chunk is asked for.
        """
        started = time.perf_counter()
        longest = check_whole("max_chunk_frames", max_chunk_frames, 1)
        sampling = SamplingOptions(temperature, topk, seed, guidance)
        request = self.request(text, speaker, context, sampling, max_audio_length_ms, voice, normalize, stopping)
        return self.stream_request(request, started=started, chunk_frames=growing(longest))

    def request(
        self,
        text: str,
        speaker: int,
        context: Sequence[Segment | CodedSegment | Mapping[str, object]],
        sampling: SamplingOptions,
        max_audio_length_ms: float,
        voice: str | Voice | None,
        normalize: bool | None,
        stopping: StopPolicy | None,
    ) -> SpeechRequest:
        """What `stream` speaks: its voice found, the recordings of its context encoded; raises as it does."""
        plan = self.voice_plan(speaker, voice)
        coded = self.coded(context)
        return SpeechRequest(text, speaker, coded, plan, sampling, max_audio_length_ms, normalize, stopping)

    def stream_request(
        self,
        request: SpeechRequest,
        *,
        started: float | None = None,
        on_result: Callable[[Speech, Prefix | None], None] | None = None,
        chunk_frames: Iterator[int] | None = None,
    ) -> SpeechStream:
        """`stream` for a request, in chunks of so many frames, by default of one.

        `started` is when the clock began; `on_result` is called with the result and what the model has read before the
        stream's last step returns, or its `interrupt`.
        """
        started = time.perf_counter() if started is None else started
        made = self.plan_speech(request)
        frames = self.with_voices(made)
        busy_s = time.perf_counter() - started
        return SpeechStream(
            self._spare,
            frames,
            self.codec,
            made,
            chunk_frames=chunk_frames or growing(1),
            busy_s=busy_s,
            on_result=on_result,
        )

    def plan_speech(self, request: SpeechRequest) -> SpeechPlan:
        """What `stream_request` speaks, without a step of the model; raises and warns as it does."""
        speaker = check_speaker(request.speaker)
        text = check_text(request.text, self.tokenizer, request.normalize)
        stopping = request.stopping if request.stopping is not None else StopPolicy()
        if not isinstance(stopping, StopPolicy):
            raise OptionError(f"stopping is {type(stopping).__name__}; expected a duologue.StopPolicy")
        max_frames = self.num_frames(request.max_audio_length_ms)
        frame_rate = self.codec.frame_rate
        prompt = build_prompt(
            CodedSegment(speaker, text),
            request.context,
            lambda kept: self._voice_prompts(request.voices, speaker, kept),
            lambda segment: self._rows(segment, request.normalize),
            max_rows=self.max_rows,
            max_frames=max_frames,
            frame_rate=frame_rate,
            spare_share=request.history.spare_share,
        )
        num_evicted = request.history.num_evicted + prompt.num_evicted
        if num_evicted:
            num_segments = request.history.num_evicted + len(request.context)
            warn(
                f"{num_evicted} of {num_segments} context segments, the oldest, were left out: "
                f"the model holds {self.max_rows} rows"
            )
        sampling = request.sampling.seeded()
        assert sampling.seed is not None
        frames = FrameRequest(
            prompt.rows, sampling, prompt.max_frames, request.history.prefixes, end_bias=stopping.end_bias
        )
        watch = partial(StopWatch, stopping, text, frame_rate)
        return SpeechPlan(frames, prompt.num_voice_rows, sampling.seed, num_evicted, watch, request.codec_state)

    def with_voices(self, plan: SpeechPlan) -> FrameRequest:
        """The request, the prefix of its voice prompts among what is known; read now unless it was before."""
        rows = plan.request.rows[: plan.num_voice_rows]
        if not len(rows):
            return plan.request
        prefix = self.prefixes.get(rows)
        if prefix is None:
            state = self.model.init_state(1, len(rows))
            prefill(self.model, rows, state)
            prefix = Prefix(rows, state)
            self.prefixes.put(prefix)
        return replace(plan.request, known=[prefix, *plan.request.known])

    def num_frames(self, max_audio_length_ms: float) -> int:
        """Whole frames in that time, at most as many as the model has rows; raises `OptionError` for less than one."""
        frame_ms = 1000 / self.codec.frame_rate
        milliseconds = check_number("max_audio_length_ms", max_audio_length_ms, frame_ms, MAX_AUDIO_LENGTH_MS)
        return min(math.floor(milliseconds / frame_ms + 1e-6), self.max_rows)

    def find_voice(self, voice: str | Voice) -> Voice:
        """A voice by its name, or one made for this codec; raises `VoiceError` otherwise."""
        if isinstance(voice, str):
            voice = self.voices.get(voice)
        elif not isinstance(voice, Voice):
            raise VoiceError(f"voice is {type(voice).__name__}; expected a voice's name or a duologue.Voice")
        if voice.codec != self.voices.fingerprint:
            raise VoiceError(f"the voice {voice.name} was made for another codec than this model's")
        for segment in voice.segments:
            if segment.codes.shape[0] < self.model.num_codebooks:
                raise VoiceError(
                    f"the voice {voice.name} has {segment.codes.shape[0]} codebooks, "
                    f"but the model speaks {self.model.num_codebooks}"
                )
        return voice

    def voice_plan(self, speaker: int, voice: str | Voice | None) -> VoicePlan:
        """Who speaks how where `speaker` is to have that voice (see `generate`); raises `VoiceError`, `OptionError`."""
        speaker = check_speaker(speaker)
        if voice == NO_VOICE:
            return VoicePlan(defaults={})
        return VoicePlan({} if voice is None else {speaker: self.find_voice(voice)})

    def default_voice(self, speaker: int, taken: Sequence[str] = ()) -> Voice | None:
        """The shipped voice of speaker n: the n-th (counted round), or the next not `taken` if there is one."""
        names = self.voices.shipped_names
        if not names:
            return None
        turned = [names[(speaker + offset) % len(names)] for offset in range(len(names))]
        return self.find_voice(next((name for name in turned if name not in taken), turned[0]))

    def coded(self, context: Sequence[Segment | CodedSegment | Mapping[str, object]]) -> list[CodedSegment]:
        """The segments with their recordings as codes, each encoded once; see `coded_segments` for what it raises."""
        return coded_segments(context, self._recordings, self.max_rows)

    def _voice_prompts(self, plan: VoicePlan, speaker: int, kept: Sequence[CodedSegment]) -> list[CodedSegment]:
        """The prompts in front of what is kept of the context, ordered by speaker so that they stay where they are."""
        voices = dict(plan.chosen)
        recorded = {segment.speaker for segment in kept if segment.codes is not None}
        for other in ({segment.speaker for segment in kept} | {speaker}) - recorded - set(voices):
            default = self.default_voice(other) if plan.defaults is None else plan.defaults.get(other)
            if default is not None:
                voices[other] = default
        return [segment for other in sorted(voices) for segment in voices[other].spoken_by(other)]
