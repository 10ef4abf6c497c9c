"""Speaking a text that is still being written, as a language model writes it: clause by clause.

Each clause is a turn of its own whose context is what was spoken so far, so that voice and manner carry over; one codec
state runs through all of them, so that the sound goes on without a seam.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Self

from torch import Tensor

from duologue.engine.context import MAX_CHARACTERS
from duologue.engine.scheduled import ScheduledSpeech
from duologue.engine.speech import Speech, SpeechStream
from duologue.errors import OptionError, TextError
from duologue.text.clauses import ClauseSplitter

# Pieces of text that may wait to be spoken: whoever writes faster waits too.
_MAX_PIECES = 256
# How often a writer that waits looks whether anybody still listens.
_LOOK_S = 0.1

OpenClause = Callable[[str, int], SpeechStream | ScheduledSpeech]
Forget = Callable[[Speech, int], None]


class SpokenText:
    """What is common to both kinds: the clauses that were spoken, and how the rest is stopped.

    `speeches` are the clauses so far, `text` their words. The conversation has a turn for each. Another thread or task
    than the one that listens may stop it.
    """

    def __init__(self, open_clause: OpenClause, forget: Forget, patience_s: float | None) -> None:
        """`open_clause(text, n)` begins to speak the n-th clause.

        `forget(clause, n)` keeps the first `n` frames of the conversation's last turn, which is that clause's. Text may
        stall for `patience_s` seconds (None: for ever).
        """
        self.speeches: list[Speech] = []
        self.text = ""
        self._open_clause, self._forget = open_clause, forget
        self._splitter = ClauseSplitter()
        self._clauses: deque[str] = deque()
        self._num_characters = 0
        self._stream: SpeechStream | ScheduledSpeech | None = None
        self._patience_s = patience_s
        self._failure: BaseException | None = None
        self._has_all = self._is_over = self._is_closed = False
        self._lock = threading.RLock()

    def interrupt(self, num_frames: int | None = None) -> None:
        """Ends the speech where its listener stopped it, after `num_frames` frames of all clauses (None: all made).

        The conversation remembers what was heard. All may have been taken, and not yet played; after `close` or a first
        `interrupt` nothing happens. Raises `OptionError` for more frames than there are, and where frames would have to
        leave a conversation that has gone on.
        """
        with self._lock:
            if self._is_closed:
                return
            if num_frames is not None and num_frames < 0:
                raise OptionError(f"num_frames {num_frames}; expected 0 or more")
            spoken = self._num_frames()
            if self._stream is not None:
                try:
                    self._stream.interrupt(None if num_frames is None else max(0, num_frames - spoken))
                except OptionError as error:
                    raise OptionError(
                        f"num_frames {num_frames}; {spoken} are of the clauses before: {error}"
                    ) from error
                self._finish_clause(self._stream)
            made = self._num_frames()
            if num_frames is not None and num_frames > made:
                raise OptionError(f"num_frames {num_frames}; expected 0 to the {made} frames that were made")
            self.close()
            self._is_closed = True
            if num_frames is not None:
                self._cut(made - num_frames)

    def close(self) -> None:
        """Stops, and throws away the clause that was begun; harmless when all is spoken."""
        with self._lock:
            self._is_closed = self._is_closed or not self._is_over
            if self._stream is not None:
                self._stream.close()
            self._stream = None
            self._end()

    def _end(self) -> None:
        """Nothing more is spoken."""
        self._is_over = True

    def _num_frames(self) -> int:
        return sum(speech.codes.shape[1] for speech in self.speeches)

    def _cut(self, num_frames: int) -> None:
        """Takes the last frames back, out of the conversation too."""
        while num_frames > 0:
            last = self.speeches[-1]
            made = last.codes.shape[1]
            kept = max(0, made - num_frames)
            self._forget(last, kept)
            num_frames -= made - kept
            self.speeches[-1:] = [last.first(kept)] if kept else []

    def _take(self, piece: object) -> None:
        """What the writer hands over next: a piece, or its end."""
        if piece is _END or isinstance(piece, _Failed):
            self._end_text(piece.error if isinstance(piece, _Failed) else None)
        else:
            self._hear(piece)

    def _hear(self, piece: object) -> None:
        """Takes in a piece of text; raises `TextError` for anything else, and for more than can be meant."""
        if not isinstance(piece, str):
            raise TextError(f"a piece of the text is {type(piece).__name__}; expected a string")
        self._num_characters += len(piece)
        if self._num_characters > MAX_CHARACTERS:
            raise TextError(f"the text has more than {MAX_CHARACTERS} characters: it was spoken up to there")
        self._clauses += self._splitter.feed(piece)

    def _end_text(self, failure: BaseException | None = None) -> None:
        """No more text comes; `failure`, if that is why, is raised when what came is spoken."""
        self._failure, self._has_all = failure, True
        self._clauses += self._splitter.flush()

    def _stalled(self) -> TextError:
        return TextError(f"no text came for {self._patience_s:g} s")

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _begin(self) -> SpeechStream | ScheduledSpeech | None:
        """The next clause, begun; None, and the end, where there is none or nobody listens any more."""
        with self._lock:
            if self._is_over or not self._clauses:
                self._end()
                return None
            clause = self._clauses.popleft()
            self.text = f"{self.text} {clause}".strip()
            self._stream = self._open_clause(clause, len(self.speeches))
            return self._stream

    def _finish_clause(self, stream: SpeechStream | ScheduledSpeech) -> None:
        """Keeps what was made of a clause, unless whoever stopped it has done so."""
        with self._lock:
            if stream is not self._stream:
                return
            if stream.result is None:  # the engine was closed
                self.close()
                return
            if stream.result.is_turn:
                self.speeches.append(stream.result)
            self._stream = None


class SpokenPieces(SpokenText, Iterator[Tensor]):
    """Chunks of audio, float32 `[num_samples]` whole frames each, for a text in pieces from any iterable.

    The iterable runs in a thread of its own, so that speech goes on while it waits. If it raises, what came before is
    spoken and then its error is raised here. `patience_s` bounds how long it may stall (None: for ever).
    """

    def __init__(
        self,
        pieces: Iterable[str],
        open_clause: OpenClause,
        forget: Forget,
        patience_s: float | None = None,
    ) -> None:
        super().__init__(open_clause, forget, patience_s)
        self._pieces: queue.Queue[object] = queue.Queue(_MAX_PIECES)
        threading.Thread(target=self._read, args=(pieces,), name="duologue-text", daemon=True).start()

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __next__(self) -> Tensor:
        try:
            while not self._is_over:
                stream = self._stream
                if stream is None:
                    self._wait_for_clause()
                    stream = self._begin()
                if stream is None:
                    break
                try:
                    return next(stream)
                except StopIteration:
                    self._finish_clause(stream)
        except BaseException:
            self.close()
            raise
        self._raise_failure()
        raise StopIteration

    def _end(self) -> None:
        super()._end()
        try:
            self._pieces.put_nowait(_END)  # who waits for text wakes; where the queue is full nobody waits
        except queue.Full:
            pass

    def _wait_for_clause(self) -> None:
        """Returns with a clause to speak, or with none where the text is over or nobody listens any more."""
        while not self._clauses and not self._has_all:
            try:
                piece = self._pieces.get(timeout=self._patience_s)
                if self._is_over:
                    return
                self._take(piece)
            except queue.Empty:
                self._end_text(self._stalled())
            except TextError as error:
                self._end_text(error)

    def _read(self, pieces: Iterable[str]) -> None:
        """In the thread: hands the pieces over one by one, as long as somebody listens."""
        last: object = _END
        try:
            for piece in pieces:
                if not self._hand_over(piece):
                    return
        except BaseException as error:
            # Not this thread's to judge: the listener raises it.
            last = _Failed(error)
        self._hand_over(last)

    def _hand_over(self, piece: object) -> bool:
        while not self._is_over:
            try:
                self._pieces.put(piece, timeout=_LOOK_S)
            except queue.Full:
                continue
            return True
        return False


class AsyncSpokenPieces(SpokenText, AsyncIterator[Tensor]):
    """`SpokenPieces` for `async for`, from an asynchronous iterable and through a scheduler.

    The iterable runs in a task of its own, from the first chunk that is asked for.
    """

    def __init__(
        self,
        pieces: AsyncIterable[str],
        open_clause: OpenClause,
        forget: Forget,
        patience_s: float | None = None,
    ) -> None:
        super().__init__(open_clause, forget, patience_s)
        self._source = pieces
        self._pieces: asyncio.Queue[object] = asyncio.Queue(_MAX_PIECES)
        self._reading: asyncio.Task[None] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def __anext__(self) -> Tensor:
        try:
            while not self._is_over:
                stream = self._stream
                if stream is None:
                    await self._wait_for_clause()
                    stream = self._begin()
                if stream is None:
                    break
                assert isinstance(stream, ScheduledSpeech)
                try:
                    return await anext(stream)
                except StopAsyncIteration:
                    self._finish_clause(stream)
        except BaseException:
            self.close()
            raise
        self._raise_failure()
        raise StopAsyncIteration

    def _end(self) -> None:
        super()._end()
        if self._reading is not None:
            self._reading.cancel()
        if not self._pieces.full():
            self._pieces.put_nowait(_END)  # who waits for text wakes; where the queue is full nobody waits

    async def _read(self) -> None:
        """The task: hands the pieces over one by one, as long as somebody listens."""
        last: object = _END
        try:
            async for piece in self._source:
                await self._pieces.put(piece)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                return  # nobody listens any more
            last = _Failed(error)  # not this task's to judge: the listener raises it
        await self._pieces.put(last)

    async def _wait_for_clause(self) -> None:
        """Returns with a clause to speak, or with none where the text is over or nobody listens any more."""
        while not self._clauses and not self._has_all:
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._read())
            try:
                async with asyncio.timeout(self._patience_s):
                    piece = await self._pieces.get()
                if self._is_over:
                    return
                self._take(piece)
            except TimeoutError:
                self._end_text(self._stalled())
            except TextError as error:
                self._end_text(error)


class _Failed:
    """What an iterable raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


_END = object()
