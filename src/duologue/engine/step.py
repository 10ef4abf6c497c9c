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

from duologue.engine.sampling import BatchSampling, SamplingOptions, draw_gumbel, sample
from duologue.frames import Rows, is_end, without_text
from duologue.model.csm import CSM
from duologue.nn.transformer import TransformerState

StopReason = Literal["end", "cap"]

# Prompts enter the backbone in pieces of this many rows: the embeddings of all slots of a piece are held at once.
_PREFILL_ROWS = 256


@dataclass(frozen=True)
class FrameRequest:
    """A prompt `rows`, how to draw, and the most frames to generate (at least 1)."""

    rows: Rows
    sampling: SamplingOptions
    max_frames: int


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
def prefill(model: CSM, prompts: Sequence[Rows], state: TransformerState) -> Tensor:
    """Appends each prompt (at least one row) to its row of `state`, in place; returns the last hiddens, `[B, D]`.

    Prompts of unequal length are padded on the right; the padding leaves no trace.
    """
    device = state.lengths.device
    lengths = [len(rows) for rows in prompts]
    slots = model.num_codebooks + 1
    hidden = torch.zeros(
        len(prompts), model.config.backbone.dim, device=device, dtype=model.codebook0_head.weight.dtype
    )
    for start in range(0, max(lengths), _PREFILL_ROWS):
        stop = min(start + _PREFILL_ROWS, max(lengths))
        tokens = torch.zeros(len(prompts), stop - start, slots, dtype=torch.int64)
        mask = torch.zeros(len(prompts), stop - start, slots, dtype=torch.bool)
        num_valid = [min(max(length - start, 0), stop - start) for length in lengths]
        for row, (prompt, count) in enumerate(zip(prompts, num_valid, strict=True)):
            tokens[row, :count] = prompt.tokens[start : start + count]
            mask[row, :count] = prompt.mask[start : start + count]
        ragged = None if min(num_valid) == stop - start else torch.tensor(num_valid, device=device)
        outputs = model(tokens.to(device), mask.to(device), state, ragged)  # [B, T, D]
        for row, length in enumerate(lengths):
            if start < length <= stop:
                hidden[row] = outputs[row, length - 1 - start]
    return hidden


class FrameIterator(Iterator[list[Tensor | None]]):
    """The frames of a batch of requests: each item has one entry a request, `[K]` int64 on the CPU or None.

    None stands for a request that is over: its end frame was drawn (which is not given out), or its cap is reached.
    The iteration ends when all are; `stop_reasons` then says why each did (None: closed before its end).
    """

    def __init__(self, model: CSM, requests: Sequence[FrameRequest]) -> None:
        self.stop_reasons: list[StopReason | None] = [None] * len(requests)
        self._model = model
        self._requests = list(requests)
        self._counts = [0] * len(requests)
        self._generators = [request.sampling.noise_generator() for request in requests]
        self._state: TransformerState | None = None
        self._hidden: Tensor | None = None
        self._closed = False
        self.num_codebooks = model.num_codebooks

    def __next__(self) -> list[Tensor | None]:
        if self._closed or all(self.stop_reasons):
            self.close()
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
            self._counts[index] += 1
            if self._counts[index] >= request.max_frames:
                self.stop_reasons[index] = "cap"
        if not any(item is not None for item in items):
            self.close()
            raise StopIteration
        return items

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
        prompts = [request.rows for request in requests]
        prompts += [without_text(prompts[row]) for row in sampling.guided.tolist()]
        self._state = model.init_state(len(prompts), capacity)
        self._hidden = prefill(model, prompts, self._state)
        self._frame_step = FrameStep(model, sampling)
        self._noise = torch.zeros(batch, config.num_codebooks, config.audio_vocab_size)
        self._tokens = torch.zeros(len(prompts), 1, config.num_codebooks + 1, dtype=torch.int64, device=self._device)
        self._mask = torch.ones_like(self._tokens, dtype=torch.bool)
        self._mask[..., -1] = False


def generate_frames(
    model: CSM, prompts: Sequence[Rows], options: Sequence[SamplingOptions], max_frames: Sequence[int]
) -> FrameIterator:
    """Generates for several prompts at once; each gets the frames that it would get alone (up to rounding).

    `max_frames[b]` (at least 1) is the cap of request `b`; `len(prompts[b]) + max_frames[b]` should be at most the
    model's `max_positions`.
    """
    return FrameIterator(
        model,
        [FrameRequest(*request) for request in zip(prompts, options, max_frames, strict=True)],
    )
