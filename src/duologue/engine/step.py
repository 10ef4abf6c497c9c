"""One frame at a time: the depth loop, and a batch of requests driven to their ends.

Sources: Sesame, `csm/models.py` (`Model.generate_frame`) and `csm/generator.py`. The backbone's hidden at the newest
row gives codebook 0; the depth decoder, its cache begun afresh, gives the others one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from duologue.engine.prefix import Prefix, restore
from duologue.engine.sampling import BatchSampling, SamplingOptions, draw_gumbel, sample
from duologue.frames import Rows, audio_rows, is_end, join_rows, without_text
from duologue.model.csm import CSM
from duologue.nn.transformer import TransformerState

StopReason = Literal["end", "cap", "interrupted"]

# Prompts enter the backbone in pieces of this many rows: the embeddings of all slots of a piece are held at once.
_PREFILL_ROWS = 256


@dataclass(frozen=True)
class FrameRequest:
    """A prompt `rows`, how to draw, and the most frames to generate (at least 1).

    What the prompt and one of the `known` prefixes begin with is not read again.
    """

    rows: Rows
    sampling: SamplingOptions
    max_frames: int
    known: Sequence[Prefix] = ()


class FrameStep:
    """The depth loop of one frame for a batch of `B` requests, with the buffers that it needs.

    A guided request has a second row, which follows the same frames without having read the text; `follows [B + G]`
    says which request each row belongs to.
    """

    def __init__(self, model: CSM, sampling: BatchSampling) -> None:
        self.model = model
        self.sampling = sampling
        self.follows = torch.cat(
            (torch.arange(len(sampling.temperature), device=sampling.guided.device), sampling.guided)
        )
        batch, weight = len(self.follows), model.codebook0_head.weight
        self._depth = model.init_depth_state(batch)
        self._first = torch.zeros(batch, 2, model.config.backbone.dim, device=weight.device, dtype=weight.dtype)

    def __call__(self, hidden: Tensor, noise: Tensor) -> Tensor:
        """`hidden [B + G, D]` of the newest rows, Gumbel `noise [B, K, V]` `->` the next frame `[B, K]` int64."""
        model, depth = self.model, self._depth
        # What the cache still holds lies beyond every row's length, where nothing looks.
        depth.lengths.zero_()
        depth.extent = 0
        codes = [self._draw(model.codebook0_logits(hidden), noise[:, 0])]
        self._first[:, 0] = hidden
        self._first[:, 1] = model.embed_audio(codes[0][self.follows], 0)
        inputs = self._first
        for codebook in range(1, model.num_codebooks):
            output = model.depth_step(inputs, depth)  # [B, depth dim]
            codes.append(self._draw(model.depth_head(output, codebook), noise[:, codebook]))
            inputs = model.embed_audio(codes[-1][self.follows], codebook)[:, None]  # [B + G, 1, D]
        return torch.stack(codes, dim=1)

    def _draw(self, logits: Tensor, noise: Tensor) -> Tensor:
        options = self.sampling
        return sample(
            options.guide(logits),
            noise,
            options.temperature,
            options.topk,
            self.model.config.codebook_size,
            options.max_topk,
        )


@torch.inference_mode()
def prefill(model: CSM, rows: Rows, state: TransformerState, known: Sequence[Prefix] = ()) -> Tensor:
    """Appends `rows` (at least one) to a one-row `state`, in place; returns the last hidden, `[1, D]`.

    Into an empty state, the rows that a known prefix begins with are copied instead of computed.
    """
    device = state.lengths.device
    hidden = torch.empty(0)
    for start in range(restore(rows, state, known) if known else 0, len(rows), _PREFILL_ROWS):
        piece = rows[start : start + _PREFILL_ROWS]
        hidden = model(piece.tokens[None].to(device), piece.mask[None].to(device), state)[:, -1]
    return hidden


class FrameIterator(Iterator[list[Tensor | None]]):
    """The frames of a batch of requests: each item has one entry a request, `[K]` int64 on the CPU or None.

    None stands for a request that is over: its end frame was drawn (which is not given out), or its cap is reached.
    The iteration ends when all are; `stop_reasons` then says why each did (None: closed before its end). The caches
    stay until `close`.
    """

    def __init__(self, model: CSM, requests: Sequence[FrameRequest]) -> None:
        self.stop_reasons: list[StopReason | None] = [None] * len(requests)
        self._model = model
        self._requests = list(requests)
        self._frames: list[list[Tensor]] = [[] for _ in requests]
        self._generators = [request.sampling.noise_generator() for request in requests]
        self._state: TransformerState | None = None
        self._hidden: Tensor | None = None
        self._closed = False
        self.num_codebooks = model.num_codebooks

    def __next__(self) -> list[Tensor | None]:
        if self._closed or all(self.stop_reasons):
            raise StopIteration
        # Cloned out of inference mode: what a caller gets is an ordinary tensor.
        frame = self._step().clone()  # [B, K]
        ended = is_end(frame).tolist()
        items: list[Tensor | None] = []
        for index, request in enumerate(self._requests):
            if self.stop_reasons[index] is None and ended[index]:
                self.stop_reasons[index] = "end"
            if self.stop_reasons[index] is not None:
                items.append(None)
                continue
            items.append(frame[index])
            self._frames[index].append(frame[index].clone())
            if len(self._frames[index]) >= request.max_frames:
                self.stop_reasons[index] = "cap"
        if not any(item is not None for item in items):
            raise StopIteration
        return items

    def prefix(self, index: int) -> Prefix | None:
        """What the backbone has read of a request: its prompt and the frames up to the last but one, or to the end.

        None before the first frame and after `close`.
        """
        if self._state is None:
            return None
        prompt, frames = self._requests[index].rows, self._frames[index]
        state = self._state.row(index)
        num_read = int(state.lengths) - len(prompt)
        if num_read:
            prompt = join_rows([prompt, audio_rows(torch.stack(frames[:num_read], dim=1), end=False)])
        return Prefix.of(prompt, state)

    def close(self) -> None:
        """Frees the caches; the iteration is over."""
        self._closed = True
        self._state = self._hidden = None

    @torch.inference_mode()
    def _step(self) -> Tensor:
        """The next frame of every row, `[B, K]` int64 on the CPU; that of a row that is over means nothing."""
        if self._state is None:
            self._begin()
        else:
            alive = torch.tensor([reason is None for reason in self.stop_reasons])
            num_valid = None if bool(alive.all()) else alive.to(self._device, torch.int64)[self._frame_step.follows]
            hidden = self._model(self._tokens, self._mask, self._state, num_valid)
            self._hidden = hidden[:, -1]
        for index, reason in enumerate(self.stop_reasons):
            if reason is None and self._requests[index].sampling.temperature > 0:
                draw_gumbel(self._noise[index], self._generators[index])
        assert self._hidden is not None
        frame = self._frame_step(self._hidden, self._noise.to(self._device))
        self._tokens[:, 0, :-1] = frame[self._frame_step.follows]
        return frame.cpu()

    def _begin(self) -> None:
        model, requests = self._model, self._requests
        config, batch = model.config, len(requests)
        self._device = model.codebook0_head.weight.device
        capacity = max(len(request.rows) + request.max_frames for request in requests)
        sampling = BatchSampling.of(
            [request.sampling for request in requests],
            config.codebook_size,
            self._device,
            default_guidance=config.guidance,
        )
        guided = sampling.guided.tolist()
        self._state = state = model.init_state(batch + len(guided), capacity)
        hidden = []
        # One after the other: a prompt gives the same rows beside others as alone, and its length is its own.
        for index, request in enumerate(requests):
            hidden.append(prefill(model, request.rows, view := state.row(index), request.known))
            state.extent = max(state.extent, view.extent)
        for row, index in enumerate(guided, start=batch):
            rows = requests[index].rows
            hidden.append(prefill(model, without_text(rows), state.row(row), [Prefix(rows, state.row(index))]))
        self._hidden = torch.cat(hidden)  # [B + G, D]
        self._frame_step = FrameStep(model, sampling)
        self._noise = torch.zeros(batch, config.num_codebooks, config.audio_vocab_size)
        self._tokens = torch.zeros(len(hidden), 1, config.num_codebooks + 1, dtype=torch.int64, device=self._device)
        self._mask = torch.ones_like(self._tokens, dtype=torch.bool)
        self._mask[..., -1] = False
