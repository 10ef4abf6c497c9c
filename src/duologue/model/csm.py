"""The Conversational Speech Model: a backbone over rows of text and audio, a depth decoder over the codes of one frame.

Sources: Sesame, `csm/models.py` and "Crossing the uncanny valley of conversational voice" (2025). A row has `K` audio
slots and one text slot; the unmasked ones are embedded and summed. The backbone's hidden at row `t` predicts codebook 0
of the frame in row `t + 1`; the depth decoder reads that hidden and the codes so far, and predicts the next codebook.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from duologue.config import CSMConfig
from duologue.nn.linear import Linear, multiply
from duologue.nn.transformer import Transformer, TransformerState


class CSM(nn.Module):
    """Backbone, depth decoder, embeddings and heads; weights are random until a checkpoint is loaded."""

    def __init__(self, config: CSMConfig, *, dropout: float = 0.0) -> None:
        """`dropout` is for training; it acts on the residual branches of both transformers."""
        super().__init__()
        self.config = config
        width = config.backbone.dim
        self.backbone = Transformer(config.backbone, dropout=dropout)
        self.depth = Transformer(config.depth, dropout=dropout)
        self.text_embeddings = nn.Embedding(config.text_vocab_size, width)
        self.audio_embeddings = nn.Embedding(config.audio_vocab_size * config.num_codebooks, width)
        self.projection = Linear(width, config.depth.dim, bias=False)
        self.codebook0_head = Linear(width, config.audio_vocab_size, bias=False)
        self.audio_head = nn.Parameter(torch.empty(config.num_codebooks - 1, config.depth.dim, config.audio_vocab_size))
        nn.init.normal_(self.audio_head, std=config.depth.dim**-0.5)

    @property
    def num_codebooks(self) -> int:
        """Audio codes per frame, `K`."""
        return self.config.num_codebooks

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.backbone.device

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in, its caches and hidden vectors too."""
        return self.backbone.dtype

    def init_state(
        self,
        batch: int = 1,
        capacity: int | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TransformerState:
        """A backbone cache for `batch` conversations of up to `capacity` rows (the model's longest by default)."""
        return self.backbone.init_state(batch, capacity, device=device, dtype=dtype)

    def embed_audio(self, codes: Tensor, codebook: int | Tensor) -> Tensor:
        """Codes `[...]` of one codebook (or of one each, as an index tensor that broadcasts) `-> [..., D]`."""
        return self.audio_embeddings(codes + codebook * self.config.audio_vocab_size)  # type: ignore[no-any-return]

    def embed(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Rows `[B, T, K+1]` int64 with their mask (bool, same shape) `-> [B, T, D]`: masked first, then summed."""
        codebooks = torch.arange(self.num_codebooks, device=tokens.device)
        # A masked slot may hold anything; id 0 stands in, and its embedding is multiplied away.
        audio = self.embed_audio(tokens[..., :-1] * mask[..., :-1], codebooks)  # [B, T, K, D]
        text = self.text_embeddings(tokens[..., -1] * mask[..., -1])  # [B, T, D]
        weights = mask.to(audio.dtype)
        summed = torch.einsum("btkd,btk->btd", audio, weights[..., :-1])
        return summed + text * weights[..., -1:]  # type: ignore[no-any-return]

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor,
        state: TransformerState | None = None,
        num_valid: Tensor | None = None,
        *,
        newest: bool = False,
        alike: bool = False,
    ) -> Tensor:
        """Rows `tokens [B, T, K+1]` int64 and `mask` (bool, same shape) `-> [B, T, D]` after the final norm.

        With a state (see `init_state`; updated in place) the rows continue each conversation; `num_valid [B]` says how
        many of the `T` rows are real where conversations are padded on the right. `newest` gives the last row's alone,
        `[B, 1, D]`, for less; `alike` promises that all conversations are the same so far.
        """
        embedded = self.embed(tokens, mask)
        return self.backbone(embedded, state, num_valid, newest=newest, alike=alike)  # type: ignore[no-any-return]

    def codebook0_logits(self, hidden: Tensor) -> Tensor:
        """`[..., D] -> [..., V]` for the next frame's codebook 0."""
        return self.codebook0_head(hidden)  # type: ignore[no-any-return]

    def depth_logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Teacher-forced depth decoder: `hidden [N, D]`, the frames' codes `[N, K]` `-> [N, K-1, V]`.

        `hidden[n]` is the backbone's at the row before frame `n`; output `i` scores the code of codebook `i + 1`, given
        codes `0..i`.
        """
        outputs = self.depth_outputs(hidden, codes)
        return torch.einsum("nkd,kdv->nkv", outputs, self.audio_head.to(outputs.dtype))

    def depth_outputs(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """What `depth_logits` gives to the heads: `[N, K-1, depth dim]`."""
        codebooks = torch.arange(self.num_codebooks - 1, device=codes.device)
        embedded = self.embed_audio(codes[:, :-1], codebooks)  # [N, K-1, D]
        inputs = self.projection(torch.cat((hidden[:, None], embedded), dim=1))  # [N, K, depth dim]
        return self.depth(inputs)[:, 1:]  # type: ignore[no-any-return]

    def init_depth_state(self, batch: int) -> TransformerState:
        """The depth decoder's cache for one frame; reset it before each."""
        return self.depth.init_state(batch, self.num_codebooks)

    def depth_step(self, inputs: Tensor, state: TransformerState) -> Tensor:
        """Runs the depth decoder over backbone-wide `inputs [B, T, D]` and returns its last output `[B, depth dim]`.

        The first call of a frame gives the hidden and code 0's embedding (`T = 2`), each later one the next code's.
        """
        return self.depth(self.projection(inputs), state)[:, -1]  # type: ignore[no-any-return]

    def depth_head(self, output: Tensor, codebook: int) -> Tensor:
        """Logits `[B, V]` of `codebook` (1 to K-1) from the depth decoder's output `[B, depth dim]`."""
        return multiply(output, self.audio_head.select(0, codebook - 1).T)
