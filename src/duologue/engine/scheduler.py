"""One engine for many listeners: requests are queued, join a running batch, and stream out frame by frame.

One thread runs the model. Between two frames it lets requests go and come, and reads a piece of the next prompt, small
enough that nobody's speech stalls, or all of it where everybody has speech in hand: who waits for a first sound comes
before who has more than they have heard. Then all who speak get a frame. What a request hears depends on itself alone.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from duologue.engine.batch import FrameBatch, FrameRequest, Speaking, prompts_of
from duologue.engine.context import CodedSegment
from duologue.engine.generator import DEFAULT_MAX_AUDIO_LENGTH_MS, Generator, SpeechRequest
from duologue.engine.prefix import Prefix, longest
from duologue.engine.sampling import DEFAULT_TEMPERATURE, DEFAULT_TOPK, SamplingOptions
from duologue.engine.scheduled import ScheduledSpeech
from duologue.engine.speech import Speech, SpeechPlan, Utterance
from duologue.engine.step import num_shared, read_rows
from duologue.engine.stopping import StopPolicy
from duologue.engine.threads import release_threads
from duologue.engine.voices import Voice
from duologue.engine.warming import warm_up
from duologue.errors import BusyError, EngineError
from duologue.frames import Segment
from duologue.nn.attention import beside_caches

# While others speak, a piece of a prompt should take about this long: half of a frame.
_PIECE_S = 0.04
_FIRST_PIECE_ROWS, _MOST_PIECE_ROWS = 32, 256
# Who has so much speech in hand does not notice that a prompt is read first.
_AMPLE_S = 0.5


class _Order:
    """A request on its way through the scheduler's thread."""

    def __init__(
        self,
        plan: SpeechPlan,
        speech: ScheduledSpeech,
        on_result: Callable[[Speech, Prefix | None], None] | None,
        goes_on: bool = False,
    ) -> None:
        self.plan, self.speech, self.on_result, self.goes_on = plan, speech, on_result, goes_on
        self.speaking: Speaking | None = None
        self.first_at: float | None = None  # when its first chunk was made

    def lead_s(self, frame_rate: float) -> float:
        """How much of its speech is made that its listener, who began with the first chunk, cannot have heard yet."""
        if self.speaking is None or self.first_at is None:
            return 0.0
        return len(self.speaking.frames) / frame_rate - (time.perf_counter() - self.first_at)


class _Reading:
    """The prompt of the request that joins next, read piece by piece."""

    def __init__(self, generator: Generator, plan: SpeechPlan) -> None:
        self._model = generator.model
        self.request: FrameRequest = generator.with_voices(plan)
        rows = self.request.rows
        with torch.inference_mode():
            self._state = self._model.init_state(1, len(rows))
            best, self._num_read = longest(rows, self.request.known)
            if best is not None:
                self._state.take(best.state, self._num_read)
        self._num_shared = max(self._num_read, num_shared(prompts_of(self._model, self.request)))

    @property
    def num_left(self) -> int:
        """Rows to read before joining, which reads those that differ among the request's prompts, and the last."""
        return self._num_shared - self._num_read

    def read(self, num_rows: int) -> None:
        """Reads the next rows."""
        count = min(num_rows, self.num_left)
        read_rows(self._model, [self.request.rows], self._state, self._num_read, self._num_read + count)
        self._num_read += count

    def ready(self) -> FrameRequest:
        """The request, with what has been read of it known."""
        prefix = Prefix(self.request.rows[: self._num_read], self._state)
        return replace(self.request, known=[prefix, *self.request.known])


class Scheduler:
    """Speaks for many at once on one generator, whose model and codec then belong to the scheduler's thread.

    At most `max_streams` requests speak at a time and `max_waiting` wait, first come, first served; another one raises
    `BusyError`. The next clause of a text that is being spoken comes before them. Recordings in a context are encoded
    in the caller's thread. Close it, or use it in a `with` block.
    """

    def __init__(self, generator: Generator, *, max_streams: int = 8, max_waiting: int = 64) -> None:
        """Starts the thread. The caches have room for `max_streams` guided requests of the model's longest.

        A compiled backend compiles for several requests first; raises `OptionError` where it cannot.
        """
        warm_up(generator.model, generator.codec, generator.backend, max_streams)
        self.generator = generator
        self.max_streams, self.max_waiting = max_streams, max_waiting
        self._batch = FrameBatch(generator.model, 2 * max_streams, backend=generator.backend)
        self._decoder = generator.codec.init_decoder_state(max_streams)
        transformer = self._decoder.transformer
        transformer.extent = transformer.capacity  # a bound for all rows, whoever comes and goes
        self._changing = list(beside_caches(self._decoder))
        self._before = [tensor.clone() for tensor in self._changing]  # the step that is being tried
        self._device = next(generator.codec.parameters()).device
        self._orders: list[_Order] = []  # those who speak; the n-th has the n-th row of the codec's state
        self._joining: _Order | None = None  # the one whose prompt is being read
        self._reading: _Reading | None = None
        self._piece_rows = _FIRST_PIECE_ROWS
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._waiting: deque[_Order] = deque()
        self._closing = False
        release_threads()  # what loaded the model was, most often, this thread
        self._thread = threading.Thread(target=self._run, name="duologue-scheduler", daemon=True)
        self._thread.start()

    @property
    def num_speaking(self) -> int:
        """Requests that are being spoken or read."""
        return len(self._orders) + (self._joining is not None)

    @property
    def num_waiting(self) -> int:
        """Requests in the queue."""
        return len(self._waiting)

    def submit(
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
    ) -> ScheduledSpeech:
        """Queues what `Generator.stream` speaks, with its arguments, errors and warnings, and returns at once.

        Raises `BusyError` where the queue is full and after `close`.
        """
        started = time.perf_counter()
        sampling = SamplingOptions(temperature, topk, seed, guidance)
        request = self.generator.request(
            text, speaker, context, sampling, max_audio_length_ms, voice, normalize, stopping
        )
        return self.stream_request(request, started=started)

    def stream_request(
        self,
        request: SpeechRequest,
        *,
        started: float | None = None,
        on_result: Callable[[Speech, Prefix | None], None] | None = None,
        goes_on: bool = False,
    ) -> ScheduledSpeech:
        """`Generator.stream_request` through the queue.

        One that `goes_on` with what its listener is hearing comes before those who have not begun, and is never refused
        for their number.
        """
        started = time.perf_counter() if started is None else started
        made = self.generator.plan_speech(request)
        utterance = Utterance(made, self.generator.codec, self.generator.model.num_codebooks)
        speech = ScheduledSpeech(utterance, started, self._notify)
        release_threads()  # a recording in the context was encoded here
        with self._lock:
            if self._closing:
                raise BusyError("the engine is closed")
            num_first = sum(order.goes_on for order in self._waiting)  # they are in front
            num_new = len(self._waiting) - num_first
            if num_new >= self.max_waiting and not goes_on:
                raise BusyError(
                    f"{self.num_speaking} requests are being spoken and {num_new} wait, as many as may: try again later"
                )
            place = num_first if goes_on else len(self._waiting)
            self._waiting.insert(place, _Order(made, speech, on_result, goes_on))
            self._wake.notify()
        return speech

    def close(self, timeout_s: float | None = None) -> None:
        """Refuses new requests, finishes those that are queued within `timeout_s` (None: all), cancels the rest."""
        with self._lock:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            with self._lock:
                left = self._left()
            for order in left:
                order.speech.cancel()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        self.close(None if kind is None else 0.0)

    def _left(self) -> list[_Order]:
        return [*self._waiting, *self._orders, *([self._joining] if self._joining else [])]

    def _notify(self) -> None:
        with self._lock:
            self._wake.notify()

    # --- what follows runs in the scheduler's thread -----------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._has_work():
                self._release()
                self._read_ahead()
                self._speak()
        except BaseException as error:
            with self._lock:
                self._closing = True
                left = self._left()
            for order in left:
                order.speech.fail(EngineError(f"the engine stopped ({type(error).__name__}: {error})"))
            raise

    def _has_work(self) -> bool:
        """Waits for a request; False once the scheduler is closing and nobody is left."""
        with self._lock:
            while not (self._waiting or self._orders or self._joining):
                if self._closing:
                    return False
                self._wake.wait()
        return True

    def _release(self) -> None:
        """Lets those go who were cancelled or interrupted, wherever they are."""
        with self._lock:
            gone = [order for order in self._waiting if order.speech.is_stopped]
            for order in gone:
                self._waiting.remove(order)
        if self._joining is not None and self._joining.speech.is_stopped:
            gone.append(self._joining)
            self._joining = self._reading = None
        for order in gone:
            self._finish(order)
        for order in [order for order in self._orders if order.speech.is_stopped]:
            self._leave(order)

    def _read_ahead(self) -> None:
        """Reads a piece of the next prompt, and lets its request join when all is read."""
        if self._joining is None and len(self._orders) < self.max_streams:
            with self._lock:
                self._joining = self._waiting.popleft() if self._waiting else None
        order = self._joining
        if order is None:
            return
        try:
            if self._reading is None:
                self._reading = _Reading(self.generator, order.plan)
            while self._reading.num_left:
                self._read_piece(self._reading)
                if order.speech.is_stopped or not self._has_ample_lead():
                    break
            if self._reading.num_left:
                return
            row = len(self._orders)
            sound = self._decoder.rows(row, row + 1)
            if order.plan.codec_state is None:
                sound.reset()
            else:
                sound.copy_from(order.plan.codec_state)
            order.speaking = self._batch.join(self._reading.ready())
        except Exception as error:
            # Whatever it is, memory that is short above all: the newest request fails, the others go on.
            order.speech.fail(error)
        else:
            self._orders.append(order)
        self._joining = self._reading = None

    def _has_ample_lead(self) -> bool:
        """Whether nobody who speaks would be missed for a while, and nobody is to be let go."""
        frame_rate = self.generator.codec.frame_rate
        return all(order.lead_s(frame_rate) > _AMPLE_S and not order.speech.is_stopped for order in self._orders)

    def _read_piece(self, reading: _Reading) -> None:
        """As many rows as take about `_PIECE_S`, by the time that the last piece took; more while nobody speaks."""
        num_rows = min(reading.num_left, self._piece_rows if self._orders else _MOST_PIECE_ROWS)
        started = time.perf_counter()
        reading.read(num_rows)
        seconds = max(time.perf_counter() - started, 1e-6)
        self._piece_rows = max(1, min(_MOST_PIECE_ROWS, 2 * self._piece_rows, int(num_rows * _PIECE_S / seconds)))

    def _speak(self) -> None:
        """A frame for all who speak; where that fails, for all but the newest, and so on."""
        items: dict[Speaking, Tensor | None] | None = None
        while self._orders:
            try:
                if items is None:
                    items = dict(self._batch.step())
                self._decode(items)
                break
            except Exception as error:
                newest = self._batch.speaking[-1]  # in the order of joining, unlike the rows
                self._leave(next(order for order in self._orders if order.speaking is newest), error)
        for order in [order for order in self._orders if order.speaking and order.speaking.stop_reason is not None]:
            self._leave(order)

    def _decode(self, items: Mapping[Speaking, Tensor | None]) -> None:
        frames = [items[order.speaking] for order in self._orders if order.speaking is not None]
        silent = torch.zeros(self.generator.model.num_codebooks, dtype=torch.int64)
        codes = torch.stack([silent if frame is None else frame for frame in frames])[..., None]  # [B, K, 1]
        state = self._decoder.rows(0, len(frames))
        generator = self.generator
        _copy(self._changing, self._before)
        try:
            decoded = generator.backend.decode_frames(generator.codec, codes.to(self._device), state)  # [B, 1, S]
            chunks = decoded[:, 0].to("cpu", torch.float32)
        except Exception:
            _copy(self._before, self._changing)  # it is decoded again, without the newest
            raise
        for order, frame, chunk in zip(self._orders, frames, chunks, strict=True):
            if frame is not None and order.speaking is not None:
                if order.first_at is None:
                    order.first_at = time.perf_counter()
                reason = order.speech.put(frame, chunk.clone())
                order.speaking.stop_reason = order.speaking.stop_reason or reason

    def _leave(self, order: _Order, error: Exception | None = None) -> None:
        """Takes one who speaks out of the batch; the last row of the codec's state moves into its place."""
        assert order.speaking is not None
        row, last = self._orders.index(order), len(self._orders) - 1
        prefix = None
        if error is None and order.on_result is not None and not order.speech.is_cancelled:
            try:
                prefix = self._batch.prefix(order.speaking)
            except (RuntimeError, MemoryError):
                pass  # there is no memory for a copy: who goes on from here reads it again
        self._batch.leave(order.speaking)
        if order.plan.codec_state is not None:
            order.plan.codec_state.copy_from(self._decoder.rows(row, row + 1))
        self._decoder.rows(row, row + 1).copy_from(self._decoder.rows(last, last + 1))
        self._orders[row] = self._orders[last]
        del self._orders[last]
        if error is not None:
            order.speech.fail(error)
        else:
            self._finish(order, prefix)

    def _finish(self, order: _Order, prefix: Prefix | None = None) -> None:
        reason = order.speaking.stop_reason if order.speaking is not None else None
        tell = order.on_result
        try:
            order.speech.finish(reason, None if tell is None else lambda speech: tell(speech, prefix))
        except Exception as error:  # memory for the whole
            order.speech.fail(error)


def _copy(sources: Sequence[Tensor], targets: Sequence[Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
