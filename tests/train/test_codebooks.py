"""Codebook learning: k-means, moving averages, revival, perplexity."""

import pytest
import torch

from duologue.codec.quantizer import Codebook
from duologue.train.codebooks import kmeans, perplexity, start_codebook, update_codebook


def clusters(count: int = 8, per: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(count, 4, generator=generator)
    points = centres.repeat_interleave(per, 0) + 0.05 * torch.randn(count * per, 4, generator=generator)
    return centres, points


def test_kmeans_finds_separate_clusters() -> None:
    centres, points = clusters()
    found, usage = kmeans(points, 16, iterations=20, generator=torch.Generator().manual_seed(1))
    assert float(torch.cdist(centres, found).min(dim=1).values.max()) < 0.2
    assert usage.shape == (16,)


def test_kmeans_with_fewer_points_than_centres() -> None:
    points = torch.randn(3, 4)
    found, _ = kmeans(points, 8, iterations=3, generator=torch.Generator().manual_seed(0))
    assert found.shape == (8, 4)
    assert bool(found.isfinite().all())


def test_updates_follow_the_mean_of_what_chose_a_code() -> None:
    codebook = Codebook(2, 4)
    codebook.embedding_sum.copy_(torch.tensor([[0.0] * 4, [10.0] * 4]))
    points = torch.full((32, 4), 2.0)
    for _ in range(48):
        codes = codebook.encode(points)
        update_codebook(
            codebook, points, codes, decay=0.8, revive_below=0.0, generator=torch.Generator().manual_seed(0)
        )
    torch.testing.assert_close(codebook.vectors[0], points[0], atol=1e-3, rtol=0.0)
    torch.testing.assert_close(codebook.vectors[1], torch.full((4,), 10.0))


def test_a_dead_code_is_revived_from_the_batch() -> None:
    codebook = Codebook(4, 2)
    start_codebook(codebook, torch.randn(64, 2), generator=torch.Generator().manual_seed(0))
    codebook.embedding_sum[3] = 1e6
    codebook.cluster_usage[3] = 1e-6
    points = torch.randn(16, 2)
    revived = update_codebook(
        codebook, points, codebook.encode(points), decay=0.99, revive_below=0.01, generator=torch.Generator()
    )
    assert revived == 1
    assert float((codebook.vectors[3] - points).norm(dim=-1).min()) < 1e-5


@pytest.mark.parametrize(("usage", "expected"), [([1, 1, 1, 1], 4.0), ([5, 0, 0, 0], 1.0), ([1, 1, 0, 0], 2.0)])
def test_perplexity(usage: list[int], expected: float) -> None:
    assert perplexity(torch.tensor(usage)) == pytest.approx(expected, rel=1e-4)
