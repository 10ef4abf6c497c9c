"""One utterance on its way out: frames from the model, through the codec, to the caller."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Self

import torch
from torch import Tensor

from duologue.codec.mimi import Mimi, MimiDecoderState
from duologue.engine.batch import FrameBatch, FrameRequest, Speaking
from duologue.engine.context import warn
from duologue.engine.prefix import Prefix
from duologue.engine.spare import SpareBatch
from duologue.engine.stopping import StopReason, StopWatch
from duologue.errors import OptionError

# The codec takes hardly less time for a frame of longer chunks, and a stop rule would be seen later.
_UNHEARD_FRAMES = 16


@dataclass(frozen=True, eq=False)
class Speech:
    """A finished utterance.

    `audio [num_samples]` float32 and `codes [K, T]` int64, both on the CPU; `stop_reason` is "end" where the model
    ended its speech, "cap" where it was cut, "interrupted" where its listener cut it, else the rule of `StopPolicy`
    that did; `num_evicted` counts the context segments that did not fit. The times are compute time in seconds, that
    which the caller spends between chunks not included: `first_audio_s` up to the first chunk (None where there is
    none), `total_s` in all.
    """

    audio: Tensor
    codes: Tensor
    sample_rate: int
    stop_reason: StopReason
    seed: int
    num_evicted: int
    first_audio_s: float | None
    total_s: float

    @property
    def duration_s(self) -> float:
        """Length of the audio, in seconds."""
        return len(self.audio) / self.sample_rate

    @property
    def real_time_factor(self) -> float | None:
        """Compute time / audio time: below 1 is faster than real time. None without audio."""
        return self.total_s / self.duration_s if len(self.audio) else None

    @property
    def is_turn(self) -> bool:
        """Whether a conversation remembers it: not where its listener broke in before its first frame."""
        return bool(self.codes.shape[1]) or self.stop_reason != "interrupted"

    def first(self, num_frames: int) -> Speech:
        """Its first frames, all that its listener heard; itself where those are all. Raises `OptionError` for more."""
        made = self.codes.shape[1]
        check_num_frames(num_frames, made)
        if num_frames == made:
            return self
        audio = self.audio[: num_frames * (len(self.audio) // made)]
        return replace(self, audio=audio, codes=self.codes[:, :num_frames], stop_reason="interrupted")


@dataclass(frozen=True)
class SpeechPlan:
    """An utterance to be made: the request, how many of its rows are voice prompts, its seed, what did not fit.

    `watch` makes what follows its speech and finds where it is over; for `codec_state` see `SpeechRequest`.
    """

    request: FrameRequest
    num_voice_rows: int
    seed: int
    num_evicted: int
    watch: Callable[[], StopWatch]
    codec_state: MimiDecoderState | None = None


class Utterance:
    """An utterance in the making: its frames and the audio of each."""

    def __init__(self, plan: SpeechPlan, codec: Mimi, num_codebooks: int) -> None:
        self.plan = plan
        self.first_audio_s: float | None = None
        self._num_codebooks, self._sample_rate = num_codebooks, codec.sample_rate
        self._codes: list[Tensor] = []
        self._chunks: list[Tensor] = []
        self._watch = plan.watch()

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, frame: Tensor, chunk: Tensor, after_s: float) -> StopReason | None:
        """Appends a frame `[K]` and its audio, made `after_s` seconds from the beginning.

        Returns the rule by which the utterance is over now, if any.
        """
        if self.first_audio_s is None:
            self.first_audio_s = after_s
        self._codes.append(frame)
        self._chunks.append(chunk)
        return self._watch(frame, chunk)

    def cut(self, num_frames: int | None) -> None:
        """Keeps the first `num_frames` frames, or all; raises `OptionError` for more than there are."""
        kept = self.num_kept(num_frames)
        del self._codes[kept:], self._chunks[kept:]

    def num_kept(self, num_frames: int | None) -> int:
        """How many frames `cut` keeps of those that are there now; raises as it does."""
        if num_frames is None:
            return len(self)
        check_num_frames(num_frames, len(self))
        return num_frames

    def finish(self, reason: StopReason, total_s: float) -> Speech:
        """The result."""
        empty = torch.zeros(self._num_codebooks, 0, dtype=torch.int64)
        return Speech(
            audio=torch.cat(self._chunks) if self._chunks else torch.zeros(0),
            codes=torch.stack(self._codes, dim=1) if self._codes else empty,
            sample_rate=self._sample_rate,
            stop_reason=reason,
            seed=self.plan.seed,
            num_evicted=self.plan.num_evicted,
            first_audio_s=self.first_audio_s,
            total_s=total_s,
        )


class SpeechStream(Iterator[Tensor]):
    """Chunks of audio as they are made: float32 `[num_samples]` on the CPU, whole frames each.

    The first is one frame long. Others may be longer, for the codec takes less time for a frame of them (`growing`).
    `num_rows` are those of the prompt. `result` is None until the stream is exhausted. `interrupt` ends it early and
    keeps what was made as its result; `close` (or leaving a `with` block) throws that away and frees what it holds, and
    `result` stays None.
    """

    def __init__(
        self,
        spare: SpareBatch,
        request: FrameRequest,
        codec: Mimi,
        plan: SpeechPlan,
        *,
        chunk_frames: Iterator[int],
        busy_s: float = 0.0,
        on_result: Callable[[Speech, Prefix | None], None] | None = None,
    ) -> None:
        """The speech of `request`, which is `plan`'s, begun with the first chunk; preparing it took `busy_s`.

        `spare` has the model and its backend; `chunk_frames` says how long each chunk is, without end.

        `on_result` hears of the end first: the result, and what the backbone has read by then (None: nothing yet).
        """
        self.result: Speech | None = None
        self.seed = plan.seed
        self.num_evicted = plan.num_evicted
        self.num_rows = len(plan.request.rows)
        self._spare, self._request, self._codec = spare, request, codec
        self._utterance = Utterance(plan, codec, spare.model.num_codebooks)
        self._batch: FrameBatch | None = None
        self._speaking: Speaking | None = None
        self._closed = False
        self._chunk_frames = chunk_frames
        self._device = next(codec.parameters()).device
        self._state = plan.codec_state
        self._busy_s = busy_s
        self._on_result = on_result

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        if self._closed:
            raise StopIteration
        started = time.perf_counter()
        try:
            made = self._advance()
        except BaseException:
            self.close()
            raise
        self._busy_s += time.perf_counter() - started
        if made is None:
            assert self._speaking is not None and self._speaking.stop_reason is not None
            self._finish(self._speaking.stop_reason)
            raise StopIteration
        frames, chunk = made
        # A copy, out of inference mode: what the caller does to it is theirs.
        return chunk[: self._watch(frames, chunk) * self._codec.frame_size].clone()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def interrupt(self, num_frames: int | None = None) -> Speech:
        """Ends the stream where its listener stopped it; the result holds the first `num_frames` frames that were made.

        By default all of them. After the end of the stream the result stays what it is. Raises `OptionError` for more
        frames than there are, and where the stream was closed.
        """
        if self.result is not None:
            return self.result
        if self._closed:
            raise OptionError("the stream was closed, and what it made is gone")
        self._utterance.cut(num_frames)
        return self._finish("interrupted")

    def close(self) -> None:
        """Ends the stream and frees its caches; harmless when it has ended."""
        self._closed = True
        if self._batch is not None and self._speaking is not None:
            self._batch.leave(self._speaking)
            self._spare.give_back(self._batch)
        self._batch = self._speaking = self._state = None
        self._utterance.cut(0)

    def _advance(self) -> tuple[list[Tensor], Tensor] | None:
        """The frames `[K]` of the next chunk and its audio `[num_samples]`, or None after the last."""
        if self._batch is None:
            self._batch, self._speaking = self._spare.join(self._request)
        frames: list[Tensor] = []
        for _ in range(next(self._chunk_frames)):
            frame = next((frame for _, frame in self._batch.step()), None)
            if frame is None:
                break
            frames.append(frame)
        if not frames:
            return None
        if self._state is None:
            self._state = self._codec.init_decoder_state(1)
        codes = torch.stack(frames, dim=1).to(self._device)[None]  # [1, K, T]
        chunk = self._spare.backend.decode_frames(self._codec, codes, self._state)
        return frames, chunk[0, 0].to("cpu", torch.float32)

    def _watch(self, frames: list[Tensor], chunk: Tensor) -> int:
        """Appends a chunk's frames up to where a rule ends the speech; how many those are."""
        assert self._speaking is not None
        for count, (frame, piece) in enumerate(zip(frames, chunk.split(self._codec.frame_size), strict=True), start=1):
            reason = self._utterance.add(frame, piece, self._busy_s)
            # The model's own end comes a frame later than a rule's, its cap in the same moment.
            is_first = count < len(frames) or self._speaking.stop_reason != "cap"
            if reason is not None and is_first:
                self._speaking.stop_reason = reason
                return count
        return len(frames)

    def _finish(self, reason: StopReason) -> Speech:
        prefix = None
        if self._on_result is not None and self._batch is not None and self._speaking is not None:
            prefix = self._batch.prefix(self._speaking)
        result = self._utterance.finish(reason, self._busy_s)
        self.close()
        self.result = result
        if self._on_result is not None:
            self._on_result(result, prefix)
        warn_of_cap(result)
        return result


def check_num_frames(num_frames: int, made: int) -> None:
    """Raises `OptionError` unless so many of the frames that were made can be kept."""
    if not 0 <= num_frames <= made:
        raise OptionError(f"num_frames {num_frames}; expected 0 to {made}, the frames that were made")


def growing(longest: int) -> Iterator[int]:
    """Lengths of chunks for a listener, in frames, without end: each twice the one before, for who has more to hear can
    wait longer.
    """
    length = 1
    while True:
        yield length
        length = min(2 * length, longest)


def unheard() -> Iterator[int]:
    """Lengths of chunks of speech that nobody hears before it is whole."""
    return chain([1], repeat(_UNHEARD_FRAMES))


def warn_of_cap(speech: Speech) -> None:
    """Warns where speech was cut for its length."""
    if speech.stop_reason == "length":
        warn(
            f"the speech was cut after {speech.duration_s:.1f} s, longer than its text can take; try another seed, or "
            "allow more with stopping=duologue.StopPolicy(seconds_per_byte=None)"
        )
    if speech.stop_reason == "cap":
        warn(
            f"the speech was cut at its cap of {speech.duration_s:.1f} s before the model ended it; "
            "allow more with max_audio_length_ms, or split the text"
        )
