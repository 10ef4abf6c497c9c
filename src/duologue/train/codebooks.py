"""How codebooks learn: k-means at the start, exponential moving averages after, dead codes revived.

Sources: van den Oord et al., "Neural Discrete Representation Learning" (2017), appendix A.1; Zeghidour et al.,
"SoundStream" (2021), section 3.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from duologue.codec.quantizer import Codebook
from duologue.train.distributed import World


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """`[..., D] -> [...]` int64: which of the `centres [V, D]` is nearest to each point."""
    return (points @ centres.T - centres.square().sum(-1) / 2).argmax(-1)


@torch.no_grad()
def kmeans(points: Tensor, size: int, *, iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Centres `[size, D]` and the number of points at each `[size]` for `points [N, D]`.

    Empty clusters start over from random points; fewer points than centres are used more than once.
    """
    count = points.shape[0]
    draw = torch.randperm(count, generator=generator)
    centres = points[draw.repeat(-(-size // count))[:size].to(points.device)].clone()
    usage = points.new_ones(size)
    for _ in range(iterations):
        chosen = nearest(points, centres)  # [N]
        usage = torch.bincount(chosen, minlength=size).float()
        sums = torch.zeros_like(centres).index_add_(0, chosen, points)
        fresh = points[torch.randint(count, (size,), generator=generator).to(points.device)]
        centres = torch.where(usage[:, None] > 0, sums / usage.clamp(min=1)[:, None], fresh)
    return centres, usage.clamp(min=1)


@torch.no_grad()
def start_codebook(codebook: Codebook, points: Tensor, *, generator: torch.Generator, iterations: int = 10) -> None:
    """Sets the codebook to the k-means centres of `points [N, D]`; every code starts with a usage of one."""
    centres, _ = kmeans(points, codebook.cluster_usage.shape[0], iterations=iterations, generator=generator)
    codebook.embedding_sum.copy_(centres)
    codebook.cluster_usage.fill_(1.0)


@torch.no_grad()
def update_codebook(
    codebook: Codebook,
    points: Tensor,
    codes: Tensor,
    *,
    decay: float,
    revive_below: float,
    generator: torch.Generator,
    world: World | None = None,
) -> Tensor:
    """Moves each vector towards the mean of the `points [N, D]` that chose it (`codes [N]`), over all processes.

    A code whose average use falls below `revive_below` points a step is set to a random point of this batch, the first
    process's. Returns how many were, a scalar: nothing here waits for the device.
    """
    world = world or World()
    size = codebook.cluster_usage.shape[0]
    usage = world.total(torch.bincount(codes, minlength=size).to(codebook.cluster_usage))
    sums = torch.zeros_like(codebook.embedding_sum).index_add_(0, codes, points.to(codebook.embedding_sum.dtype))
    codebook.cluster_usage.lerp_(usage, 1 - decay)
    codebook.embedding_sum.lerp_(world.total(sums), 1 - decay)
    dead = codebook.cluster_usage < revive_below  # [V]
    fresh = points[torch.randint(len(points), (size,), generator=generator).to(points.device)]
    # The revived code counts as used a little above the limit: it has some steps to find points of its own.
    kept = 2 * revive_below
    codebook.cluster_usage.masked_fill_(dead, kept)
    codebook.embedding_sum.copy_(torch.where(dead[:, None], fresh.to(sums) * kept, codebook.embedding_sum))
    world.share([codebook.embedding_sum])
    return dead.sum()


def perplexity(usage: Tensor) -> float:
    """Effective number of codes in use, 1 to `V`, from counts `[V]`."""
    share = usage.float() / usage.sum().clamp(min=1e-9)
    return float((-(share * share.clamp(min=1e-12).log()).sum()).exp())
