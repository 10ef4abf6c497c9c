"""The caches of the last utterance, kept for the next one.

New caches are memory that the system has yet to clear, and a conversation's next turn begins with what the last one
left in them: after a minute and a half of speech that is a third of the wait for the first sound (dev/LOG.md).
"""

from __future__ import annotations

import threading

from duologue.engine.backends import EAGER, Backend
from duologue.engine.batch import FrameBatch, FrameRequest, Speaking
from duologue.model.csm import CSM

_ROWS = 2  # a guided request's


class SpareBatch:
    """A batch for one request at a time, lent to whoever asks first; another one is made for whoever comes meanwhile.

    Safe to share by threads.
    """

    def __init__(self, model: CSM, backend: Backend = EAGER) -> None:
        """Makes nothing yet."""
        self.model, self.backend = model, backend
        self._batch: FrameBatch | None = None
        self._lock = threading.Lock()

    def join(self, request: FrameRequest) -> tuple[FrameBatch, Speaking]:
        """A batch with nobody else in it, and the request in it; `give_back` it."""
        with self._lock:
            batch, self._batch = self._batch, None
        if batch is None:
            batch = FrameBatch(self.model, _ROWS, backend=self.backend)
        return batch, batch.join(request)

    def give_back(self, batch: FrameBatch) -> None:
        """Keeps an empty batch for the next request."""
        with self._lock:
            self._batch = batch
