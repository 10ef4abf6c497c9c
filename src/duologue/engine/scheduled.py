"""The listener's end of a scheduled utterance: chunks for one thread or one task, until it ends or is stopped."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Self

from torch import Tensor

from duologue.engine.speech import Speech, Utterance, warn_of_cap
from duologue.engine.stopping import StopReason
from duologue.errors import OptionError


class ScheduledSpeech(Iterator[Tensor], AsyncIterator[Tensor]):
    """Chunks of audio as they are made: float32 `[num_samples]` on the CPU, whole frames each.

    For `for` and `async for`, and one listener. `result` is None until the speech is made, which may be long before it
    is heard; its times count from `submit`. `cancel` (or leaving a `with` block) before the last chunk was taken throws
    the speech away, and `result` is None; `interrupt` keeps what was made. What fails in the scheduler's thread is
    raised here, after the chunks that were made before.
    """

    def __init__(self, utterance: Utterance, started: float, notify: Callable[[], None]) -> None:
        """`started` by `time.perf_counter`; `notify` wakes the thread that makes the speech."""
        self.result: Speech | None = None
        self.seed = utterance.plan.seed
        self.num_evicted = utterance.plan.num_evicted
        self.num_rows = len(utterance.plan.request.rows)
        self._utterance, self._started, self._notify = utterance, started, notify
        self._changed = threading.Condition()
        self._chunks: deque[Tensor] = deque()
        self._tasks: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._is_over = self._is_cancelled = self._is_interrupted = self._is_concluded = False
        self._kept: int | None = None
        self._on_result: Callable[[Speech], None] | None = None
        self._error: Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Tensor:
        with self._changed:
            while not self._chunks and not self._is_over:
                self._changed.wait()
            if self._chunks:
                return self._chunks.popleft().clone()  # the caller's own
        self._conclude()
        raise StopIteration

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Tensor:
        while True:
            with self._changed:
                if self._chunks:
                    return self._chunks.popleft().clone()  # the caller's own
                if self._is_over:
                    break
                loop = asyncio.get_running_loop()
                changed = loop.create_future()
                self._tasks.append((loop, changed))
            await changed
        self._conclude()
        raise StopAsyncIteration

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Stops the speech before its next frame and throws it away; harmless when it was heard to its end."""
        with self._changed:
            if self._is_concluded or self._is_cancelled:
                return
            self._is_cancelled = True
            self.result = self._on_result = None
            self._chunks.clear()
        self._notify()

    close = cancel

    def interrupt(self, num_frames: int | None = None) -> Speech:
        """Ends the speech where its listener stopped it, as `SpeechStream.interrupt`; waits for the frame under way."""
        with self._changed:
            if self._is_cancelled:
                raise OptionError("the speech was cancelled, and what it made is gone")
            if not self._is_over:
                self._kept = self._utterance.num_kept(num_frames)
                self._is_interrupted = True
            elif self.result is not None and not self._is_concluded and num_frames is not None:
                self.result = self.result.first(num_frames)  # it was made faster than it was heard
        self._notify()
        with self._changed:
            while not self._is_over:
                self._changed.wait()
            self._chunks.clear()
        self._conclude()
        assert self.result is not None
        return self.result

    def _conclude(self) -> None:
        """The end for the listener, once: an error, or the result told to whom it concerns and a cap warned of."""
        with self._changed:
            if self._error is not None:
                raise self._error
            if self.result is None or self._is_concluded:
                return
            speech, self._is_concluded = self.result, True
            tell, self._on_result = self._on_result, None  # it holds what was read
            if tell is not None:
                tell(speech)
        warn_of_cap(speech)

    # --- for the thread that makes the speech ------------------------------------------------------------------------

    @property
    def is_stopped(self) -> bool:
        """Whether the listener wants no more."""
        return self._is_cancelled or self._is_interrupted

    @property
    def is_cancelled(self) -> bool:
        """Whether nothing is to be kept."""
        return self._is_cancelled

    def put(self, frame: Tensor, chunk: Tensor) -> StopReason | None:
        """A frame `[K]` and its audio; returns the rule by which the speech is over now, if any."""
        with self._changed:
            reason = self._utterance.add(frame, chunk, time.perf_counter() - self._started)
            if not self._is_cancelled:
                self._chunks.append(chunk)
            self._wake()
        return reason

    def finish(self, reason: StopReason | None, on_result: Callable[[Speech], None] | None = None) -> None:
        """The end: `reason`, or the listener's wish. `on_result` hears of it when the listener has come so far."""
        with self._changed:
            if not self._is_cancelled:
                if self._is_interrupted:
                    self._utterance.cut(self._kept)
                    reason = "interrupted"
                assert reason is not None
                self.result = self._utterance.finish(reason, time.perf_counter() - self._started)
                self._on_result = on_result
            self._end()

    def fail(self, error: Exception) -> None:
        """The end: what went wrong. What was computed up to there is let go, though the listener holds the error."""
        traceback.clear_frames(error.__traceback__)
        with self._changed:
            self._error = error
            self._end()

    def _end(self) -> None:
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        tasks, self._tasks = self._tasks, []
        for loop, changed in tasks:
            try:
                loop.call_soon_threadsafe(_resolve, changed)
            except RuntimeError:  # the listener's loop is closed
                continue


def _resolve(changed: asyncio.Future[None]) -> None:
    if not changed.done():
        changed.set_result(None)
