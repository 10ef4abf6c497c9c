"""Requests that are spoken together, one frame of each at a time; they join and leave between two frames.

Source of the idea: Yu et al., "Orca: A Distributed Serving System for Transformer-Based Generative Models" (2022). A
request owns one row of the backbone's caches, or two where it is guided: the second follows the same frames without
having read the text. The rows in use are the first ones, so that nothing is computed for those that are free: when a
request leaves, the last rows move into its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from duologue.engine.backends import EAGER, Backend
from duologue.engine.prefix import Prefix
from duologue.engine.sampling import BatchSampling, SamplingOptions, draw_gumbel
from duologue.engine.step import FrameStep, Held, num_shared, prefill_together
from duologue.engine.stopping import StopReason
from duologue.frames import Rows, audio_rows, is_end, join_rows, without_text
from duologue.model.csm import CSM


@dataclass(frozen=True)
class FrameRequest:
    """A prompt `rows`, how to draw, and the most frames to generate (at least 1); for `end_bias` see `StopPolicy`.

    What the prompt and one of the `known` prefixes begin with is not read again.
    """

    rows: Rows
    sampling: SamplingOptions
    max_frames: int
    known: Sequence[Prefix] = ()
    end_bias: float = 0.0


@dataclass(eq=False)
class Speaking:
    """A request in a batch: the frames that it has so far, `[K]` int64 on the CPU, and why it is over.

    It is over with its end frame, which is not among `frames`, at its cap, or where somebody gives it another reason,
    and stays in the batch until it leaves.
    `rows` of the batch are its own; `num_read` of its frames have been read by the backbone.
    """

    request: FrameRequest
    generator: torch.Generator
    noise: Tensor  # of the frame to come, [K, V]
    rows: list[int]
    frames: list[Tensor] = field(default_factory=list)
    stop_reason: StopReason | None = None
    num_read: int = 0
    has_noise: bool = False

    @property
    def length(self) -> int:
        """Positions that the backbone holds of it."""
        return len(self.request.rows) + self.num_read


class FrameBatch:
    """Rows of caches for one model, and the requests that are in them; for one thread at a time."""

    def __init__(self, model: CSM, num_rows: int, capacity: int | None = None, *, backend: Backend = EAGER) -> None:
        """`capacity` (the model's longest by default) holds the prompt and all frames of a request."""
        self._model, self._backend = model, backend
        self._num_rows, self._num_used = num_rows, 0
        self._speaking: list[Speaking] = []
        self._held: Held | None = None
        self._is_arranged = False
        with torch.inference_mode():
            device = model.device
            self._state = model.init_state(num_rows, capacity)
            self._depth = model.init_depth_state(num_rows)
            self._hidden = torch.zeros(num_rows, model.config.backbone.dim, device=device, dtype=model.dtype)
            self._tokens = torch.zeros(num_rows, 1, model.num_codebooks + 1, dtype=torch.int64, device=device)
            self._mask = torch.ones_like(self._tokens, dtype=torch.bool)
            self._mask[..., -1] = False

    @staticmethod
    def alone(model: CSM, request: FrameRequest, backend: Backend = EAGER) -> tuple[FrameBatch, Speaking]:
        """A batch that has room for one request, and the request in it."""
        capacity = len(request.rows) + request.max_frames
        batch = FrameBatch(model, len(prompts_of(model, request)), capacity, backend=backend)
        return batch, batch.join(request)

    @property
    def speaking(self) -> tuple[Speaking, ...]:
        """The requests in the batch in the order of joining, those that are over among them."""
        return tuple(self._speaking)

    def has_room(self, request: FrameRequest) -> bool:
        """Whether a request may join."""
        return self._num_used + len(prompts_of(self._model, request)) <= self._num_rows

    @torch.inference_mode()
    def join(self, request: FrameRequest) -> Speaking:
        """Reads a prompt; the next step gives the request's first frame. Where it raises, the batch is as it was."""
        assert self.has_room(request), "the batch is full"
        assert len(request.rows) + request.max_frames <= self._state.capacity, "the request is longer than the caches"
        prompts = prompts_of(self._model, request)
        rows = list(range(self._num_used, self._num_used + len(prompts)))
        view = self._state.rows(rows[0], rows[-1] + 1)
        view.lengths.zero_()
        view.extent, view.is_even = 0, True
        # Only what the first rows hold is remembered: a batch of one conversation's turns.
        held, self._held = (None if rows[0] else self._held), None
        self._hidden[rows], found = prefill_together(self._model, prompts, view, request.known, held)
        self._held = None if rows[0] else found
        noise = torch.zeros(self._model.num_codebooks, self._model.config.audio_vocab_size)
        speaking = Speaking(request, request.sampling.noise_generator(), noise, rows)
        self._num_used += len(rows)
        self._speaking.append(speaking)
        self._is_arranged = False
        return speaking

    def step(self) -> list[tuple[Speaking, Tensor | None]]:
        """The next frame of every request that is not over, `[K]` int64 on the CPU; None where it ends instead.

        One that raises (out of memory, say) may be repeated when somebody has left, and gives the same frames.
        """
        going = [speaking for speaking in self._speaking if speaking.stop_reason is None]
        if not going:
            return []
        # Cloned out of inference mode: what a caller gets is an ordinary tensor.
        drawn = self._draw().clone()  # [B, K]
        ended = is_end(drawn).tolist()
        items: list[tuple[Speaking, Tensor | None]] = []
        for index, speaking in enumerate(self._speaking):
            if speaking.stop_reason is not None:
                continue
            if ended[index]:
                speaking.stop_reason = "end"
                items.append((speaking, None))
                continue
            speaking.frames.append(drawn[index])
            if len(speaking.frames) >= speaking.request.max_frames:
                speaking.stop_reason = "cap"
            items.append((speaking, drawn[index].clone()))
        return items

    def prefix(self, speaking: Speaking) -> Prefix:
        """What the backbone has read of a request in the batch: its prompt, and its frames but perhaps the last."""
        rows, frames = speaking.request.rows, speaking.frames[: speaking.num_read]
        if frames:
            rows = join_rows([rows, audio_rows(torch.stack(frames, dim=1), end=False)])
        prefix = Prefix.of(rows, self._state.rows(speaking.rows[0], speaking.rows[0] + 1))
        if len(self._speaking) == 1:
            prompts = prompts_of(self._model, speaking.request)
            self._held = Held(prefix, len(rows), num_shared(prompts) if len(prompts) > 1 else 0)
        return prefix

    @torch.inference_mode()
    def leave(self, speaking: Speaking) -> None:
        """Frees the rows of a request; harmless when it has left."""
        if speaking not in self._speaking:
            return
        self._speaking.remove(speaking)
        for row in sorted(speaking.rows, reverse=True):
            self._num_used -= 1
            self._move(self._num_used, row)
        speaking.rows = []
        self._is_arranged = False

    def _move(self, source: int, target: int) -> None:
        """Takes what is in one row into another, which is free."""
        for other in self._speaking:
            if source in other.rows and source != target:
                other.rows[other.rows.index(source)] = target
                self._held = None
                self._state.rows(target, target + 1).take(self._state.rows(source, source + 1), other.length)
                self._hidden[target] = self._hidden[source]
                self._tokens[target] = self._tokens[source]

    def _arrange(self) -> None:
        """What a step needs to know of who is in the batch; made by the step, which may fail and be repeated."""
        model, device = self._model, self._hidden.device
        self._used = self._state.rows(0, self._num_used)
        lengths = {speaking.length for speaking in self._speaking}
        self._used.extent, self._used.is_even = max(lengths, default=0), len(lengths) < 2
        guided = [speaking.rows[1] for speaking in self._speaking if len(speaking.rows) == 2]
        order = [speaking.rows[0] for speaking in self._speaking] + guided
        self._order = torch.tensor(order, dtype=torch.int64, device=device)
        if self._speaking:
            sampling = BatchSampling.of(
                [speaking.request.sampling for speaking in self._speaking],
                model.config.codebook_size,
                device,
                default_guidance=model.config.guidance,
                end_bias=[speaking.request.end_bias for speaking in self._speaking],
            )
            self._frame_step = FrameStep(model, sampling, self._backend, self._depth)
        self._is_arranged = True

    @torch.inference_mode()
    def _draw(self) -> Tensor:
        """The next frame of every request, `[B, K]` int64 on the CPU; that of one that is over means nothing."""
        if not self._is_arranged:
            self._arrange()
        self._read()
        for speaking in self._speaking:
            if not speaking.has_noise and speaking.stop_reason is None and speaking.request.sampling.temperature > 0:
                draw_gumbel(speaking.noise, speaking.generator)
                speaking.has_noise = True
        noise = torch.stack([speaking.noise for speaking in self._speaking]).to(self._hidden.device)  # [B, K, V]
        drawn = self._frame_step(self._hidden[self._order], noise)
        for speaking in self._speaking:
            speaking.has_noise = False
        self._tokens[self._order, 0, :-1] = drawn[self._frame_step.follows]
        return drawn.cpu()

    def _read(self) -> None:
        """Gives the backbone the newest frame of every request that has one it has not read."""
        unread = [s for s in self._speaking if s.stop_reason is None and s.num_read < len(s.frames)]
        if not unread:
            return
        reading = [row for speaking in unread for row in speaking.rows]
        num_valid = None
        if len(reading) < self._num_used:
            num_valid = torch.zeros(self._num_used, dtype=torch.int64, device=self._hidden.device)
            num_valid[reading] = 1
        tokens, mask = self._tokens[: self._num_used], self._mask[: self._num_used]
        hidden = self._backend.read_frames(self._model, tokens, mask, self._used, num_valid)  # [rows in use, D]
        self._hidden[reading] = hidden[reading]
        for speaking in unread:
            speaking.num_read = len(speaking.frames)


def prompts_of(model: CSM, request: FrameRequest) -> list[Rows]:
    """What each row of the batch that a request owns begins with; of one length."""
    strength = request.sampling.guidance
    is_guided = (model.config.guidance if strength is None else strength) != 1
    return [request.rows, without_text(request.rows)] if is_guided else [request.rows]
