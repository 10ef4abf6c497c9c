"""Split residual vector quantization: one semantic codebook beside a residual stack of acoustic ones.

Source: Defossez et al., "Moshi" (2024), section 3.3.1, and Kyutai, `moshi/quantization/`. Codebooks are stored as the
running sums that training keeps (`embedding_sum`, `cluster_usage`), so that every published file loads and writes back
exactly; the vectors are their ratio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.nn.linear import Linear

_MIN_USAGE = 1e-5


class Codebook(nn.Module):
    """One table of vectors; nearest neighbour in Euclidean distance."""

    embedding_sum: Tensor
    cluster_usage: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("embedding_sum", torch.zeros(size, dim))
        self.register_buffer("cluster_usage", torch.ones(size))
        self._cached: tuple[tuple[object, ...], Tensor, Tensor] | None = None

    def _tables(self) -> tuple[Tensor, Tensor]:
        """Vectors `[V, D]` and half their squared norms `[V]`; rebuilt when the sums have changed."""
        sums, usage = self.embedding_sum, self.cluster_usage
        if sums.is_inference():
            key: tuple[object, ...] = (sums.data_ptr(), usage.data_ptr())
        else:
            key = (sums.data_ptr(), sums._version, usage.data_ptr(), usage._version)
        if self._cached is None or self._cached[0] != key:
            vectors = sums / usage.clamp(min=_MIN_USAGE)[:, None]
            self._cached = key, vectors, vectors.square().sum(dim=-1) / 2
        return self._cached[1], self._cached[2]

    @property
    def vectors(self) -> Tensor:
        """The codebook, `[V, D]`."""
        return self._tables()[0]

    def lie_in(self, vectors: Tensor) -> None:
        """Has its own in `vectors [V, D]` from now on, which are equal, so that they are in memory once."""
        own, half_norms = self._tables()
        assert self._cached is not None and vectors.shape == own.shape
        self._cached = self._cached[0], vectors, half_norms

    def encode(self, x: Tensor) -> Tensor:
        """`[..., D] -> [...]` int64: index of the nearest vector."""
        vectors, half_norms = self._tables()
        return (F.linear(x.to(vectors.dtype), vectors) - half_norms).argmax(dim=-1)

    def decode(self, codes: Tensor) -> Tensor:
        """`[...]` int64 `-> [..., D]`."""
        return F.embedding(codes, self.vectors)


@dataclass
class Quantized:
    """What training needs of one pass.

    `output [B, T, D']` carries gradients straight through to the input; `codes [B, K, T]`; `inputs[k] [B, T, C]` is
    what codebook `k` was asked to quantize; `commitment` sums the mean squared distances between the projected input
    and the partial sums of vectors, relative to the power of that input, so that its weight does not depend on a scale.
    """

    output: Tensor
    codes: Tensor
    inputs: list[Tensor]
    commitment: Tensor


class ResidualVQ(nn.Module):
    """A stack of codebooks, each quantizing what the ones before left over, between two linear projections."""

    def __init__(self, dim: int, codebook_dim: int, codebook_size: int, num_codebooks: int) -> None:
        super().__init__()
        self.input_proj = Linear(dim, codebook_dim, bias=False)
        self.output_proj = Linear(codebook_dim, dim, bias=False)
        self.codebooks = nn.ModuleList(Codebook(codebook_size, codebook_dim) for _ in range(num_codebooks))
        self._joined: tuple[list[Tensor], Tensor] | None = None

    def __iter__(self) -> Iterator[Codebook]:
        return (codebook for codebook in self.codebooks if isinstance(codebook, Codebook))

    def encode(self, x: Tensor, num_codebooks: int) -> Tensor:
        """`[B, T, D] -> [B, num_codebooks, T]` int64."""
        residual, codes = self.input_proj(x), []
        for codebook, _ in zip(self, range(num_codebooks), strict=False):
            codes.append(codebook.encode(residual))
            residual = residual - codebook.decode(codes[-1])
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """`[B, K, T]` int64, `K` at most the number of codebooks, `-> [B, T, D]`."""
        return self.look_up(codes, self.table())

    def look_up(self, codes: Tensor, table: Tensor) -> Tensor:
        """`decode` with the table at hand."""
        size = len(table) // len(self.codebooks)
        places = codes + size * torch.arange(codes.shape[1], device=codes.device)[:, None]
        chosen = F.embedding(places, table)  # [B, K, T, C]
        return self.output_proj(chosen.to(self.output_proj.weight.dtype).sum(dim=1))  # type: ignore[no-any-return]

    def table(self) -> Tensor:
        """The codebooks one after the other, `[K * V, C]`; made anew when one of them has changed."""
        vectors = [codebook.vectors for codebook in self]
        if self._joined is None or any(now is not then for now, then in zip(vectors, self._joined[0], strict=True)):
            joined = torch.cat(vectors)
            parts = list(joined.split(len(vectors[0])))
            for codebook, part in zip(self, parts, strict=True):
                codebook.lie_in(part)
            self._joined = parts, joined
        return self._joined[1]

    def project(self, x: Tensor) -> Tensor:
        """`[B, T, D] -> [B, T, D]` through both projections, nothing quantized between: what decoding approaches."""
        return self.output_proj(self.input_proj(x))  # type: ignore[no-any-return]

    def quantize(self, x: Tensor, active: Tensor, bypass: Tensor) -> Quantized:
        """The pass of training over `x [B, T, D]`.

        Row `b` uses its first `active[b]` codebooks (quantizer dropout); rows where `bypass [B]` is true skip
        quantization in the output, as Mimi's training does for a share of them.
        """
        with torch.autocast(x.device.type, enabled=False):
            projected = F.linear(x.float(), self.input_proj.weight.float())
            residual, total = projected.detach(), torch.zeros_like(projected)
            codes, inputs = [], []
            commitment = projected.new_zeros(())
            power = projected.detach().square().mean().clamp(min=1e-6)
            for index, codebook in enumerate(self):
                inputs.append(residual)
                codes.append(codebook.encode(residual))
                vectors = codebook.decode(codes[-1])
                used = (index < active)[:, None, None]
                total = total + torch.where(used, vectors, 0.0)
                # Each partial sum pulls the projection towards it, as in the stack's own nested residuals.
                error = (projected - total.detach()).square().mean(dim=-1, keepdim=True)
                commitment = commitment + torch.where(used, error, 0.0).mean() / power
                residual = residual - vectors
            straight = projected + (total - projected).detach()
            mixed = torch.where(bypass[:, None, None], projected, straight)
        return Quantized(self.output_proj(mixed), torch.stack(codes, dim=1), inputs, commitment)


class SplitRVQ(nn.Module):
    """The semantic codebook (a stack of one) and the acoustic stack see the same input; their outputs add up."""

    def __init__(self, dim: int, codebook_dim: int, codebook_size: int, num_codebooks: int) -> None:
        super().__init__()
        self.semantic = ResidualVQ(dim, codebook_dim, codebook_size, 1)
        self.acoustic = ResidualVQ(dim, codebook_dim, codebook_size, num_codebooks - 1)

    def encode(self, x: Tensor, num_codebooks: int) -> Tensor:
        """`[B, T, D] -> [B, num_codebooks, T]` int64, the semantic code first."""
        codes = self.semantic.encode(x, 1)
        if num_codebooks > 1:
            codes = torch.cat((codes, self.acoustic.encode(x, num_codebooks - 1)), dim=1)
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """`[B, K, T]` int64 `-> [B, T, D]`."""
        return self.look_up(codes, self.tables())

    def tables(self) -> tuple[Tensor, Tensor]:
        """All vectors of either stack, `[K * V, C]`."""
        return self.semantic.table(), self.acoustic.table()

    def look_up(self, codes: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """`decode` with the tables at hand."""
        latent = self.semantic.look_up(codes[:, :1], tables[0])
        return latent + self.acoustic.look_up(codes[:, 1:], tables[1]) if codes.shape[1] > 1 else latent
