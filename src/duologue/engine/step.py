"""One frame at a time: the prompt read by the backbone, and the depth loop of a frame.

Sources: Sesame, `csm/models.py` (`Model.generate_frame`) and `csm/generator.py`. The backbone's hidden at the newest
row gives codebook 0; the depth decoder, its cache begun afresh, gives the others one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from duologue.engine.prefix import Prefix, restore
from duologue.engine.sampling import BatchSampling, sample
from duologue.frames import END_CODE, Rows
from duologue.model.csm import CSM
from duologue.nn.transformer import TransformerState

# Prompts enter the backbone in pieces of this many rows: the embeddings of all slots of a piece are held at once.
_PREFILL_ROWS = 256


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
        batch = len(self.follows)
        self._depth = model.init_depth_state(batch)
        self._first = torch.zeros(batch, 2, model.config.backbone.dim, device=model.device, dtype=model.dtype)

    def __call__(self, hidden: Tensor, noise: Tensor) -> Tensor:
        """`hidden [B + G, D]` of the newest rows, Gumbel `noise [B, K, V]` `->` the next frame `[B, K]` int64."""
        model, depth = self.model, self._depth
        # What the cache still holds lies beyond every row's length, where nothing looks.
        depth.lengths.zero_()
        depth.extent, depth.is_even = 0, True
        codes = [self._draw(model.codebook0_logits(hidden), noise[:, 0], self.sampling.end_bias)]
        self._first[:, 0] = hidden
        self._first[:, 1] = model.embed_audio(codes[0][self.follows], 0)
        inputs = self._first
        for codebook in range(1, model.num_codebooks):
            output = model.depth_step(inputs, depth)  # [B, depth dim]
            codes.append(self._draw(model.depth_head(output, codebook), noise[:, codebook]))
            inputs = model.embed_audio(codes[-1][self.follows], codebook)[:, None]  # [B + G, 1, D]
        return torch.stack(codes, dim=1)

    def _draw(self, logits: Tensor, noise: Tensor, end_bias: Tensor | None = None) -> Tensor:
        options = self.sampling
        logits = options.guide(logits)
        if end_bias is not None:
            logits = logits.float().clone()
            logits[:, END_CODE] += end_bias
        return sample(
            logits,
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
    hidden = torch.empty(0)
    for start in range(restore(rows, state, known) if known else 0, len(rows), _PREFILL_ROWS):
        hidden = read_rows(model, rows[start : start + _PREFILL_ROWS], state)
    return hidden


@torch.inference_mode()
def read_rows(model: CSM, rows: Rows, state: TransformerState) -> Tensor:
    """Appends `rows` to a one-row `state` in one pass, in place; returns the last hidden, `[1, D]`."""
    device = state.lengths.device
    return model(rows.tokens[None].to(device), rows.mask[None].to(device), state)[:, -1]  # type: ignore[no-any-return]
