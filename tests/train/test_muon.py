"""Muon's orthogonalisation against a singular value decomposition, and that it learns."""

import pytest
import torch
from torch import nn

from duologue.train.muon import Muon, _by_gram, _directly, orthogonalise


@pytest.mark.parametrize("is_rough", [False, True])
@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_singular_values_are_near_one_and_directions_kept(shape: tuple[int, int], is_rough: bool) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    made = orthogonalise(matrix, is_rough=is_rough)
    values = torch.linalg.svdvals(made)
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.4
    exact = left @ right
    assert float((made * exact).sum() / (made.norm() * exact.norm())) > 0.95


def test_it_descends_a_least_squares_problem() -> None:
    torch.manual_seed(0)
    target, x = torch.randn(12, 6), torch.randn(64, 6)
    weight = nn.Parameter(torch.zeros(12, 6))
    optimizer = Muon([weight], lr=0.1)
    losses = []
    for _ in range(200):
        loss = (x @ weight.T - x @ target.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 50


def test_wide_matrices_take_a_shorter_way_to_the_same_result() -> None:
    torch.manual_seed(0)
    x = torch.randn(24, 96) @ torch.diag(torch.logspace(0, -4, 96))
    x = x / x.norm()
    torch.testing.assert_close(_by_gram(x, 5), _directly(x, 5), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_many_matrices_at_once_are_as_good_as_each_alone(shape: tuple[int, int]) -> None:
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    for made, matrix in zip(orthogonalise(matrices), matrices, strict=True):
        torch.testing.assert_close(made, orthogonalise(matrix), atol=1e-4, rtol=1e-4)
