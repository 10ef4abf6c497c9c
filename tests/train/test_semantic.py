"""The semantic codebook as a classifier of units."""

import pytest
import torch

from duologue.codec.mimi import Mimi
from duologue.train.codebooks import nearest
from duologue.train.semantic import SemanticTeacher, find_units


def test_units_are_the_centres_of_their_points() -> None:
    torch.manual_seed(0)
    points = torch.randn(200, 3)
    found = find_units(points, 6, seed=0, iterations=50)
    labels = nearest(points, found)
    assert torch.equal(labels, torch.cdist(points, found).argmin(dim=1))
    means = torch.stack([points[labels == unit].mean(dim=0) for unit in range(6)])
    assert torch.allclose(found, means, atol=1e-4)


def test_a_written_codebook_chooses_what_the_classifier_chooses(codec: Mimi) -> None:
    torch.manual_seed(1)
    teacher = SemanticTeacher(torch.randn(16, 7), codebook_dim=8)
    with torch.no_grad():
        teacher.vectors.normal_()
    stack = codec.quantizer.semantic
    teacher.write(stack)
    (codebook,) = stack
    x = 3 * torch.randn(200, 8)
    nearest_vector = torch.cdist(x, teacher.vectors).argmin(dim=1)  # [200]
    assert torch.equal(codebook.encode(x), nearest_vector)
    assert torch.equal(teacher.logits(x).argmax(dim=1), nearest_vector)


def test_losses_by_hand() -> None:
    teacher = SemanticTeacher(torch.eye(2), codebook_dim=2)
    with torch.no_grad():
        teacher.vectors.copy_(2 * torch.eye(2))
        teacher.head.weight.copy_(torch.eye(2))
        teacher.head.bias.zero_()
    projected = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]])
    features = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]])  # nothing is known of the last frame
    codes, losses = teacher(projected, features)
    assert codes.tolist() == [[0, 1, 0]]
    # Logits (0, -2) and (-2, 0); the unit is 0 both times.
    expected = (torch.tensor([0.0, -2.0]).logsumexp(0) - 0.0 + torch.tensor([-2.0, 0.0]).logsumexp(0) + 2.0) / 2
    assert losses.unit.item() == pytest.approx(expected.item())
    assert losses.unit_accuracy.item() == 0.5
    assert losses.distillation.item() == pytest.approx(0.5)  # cosines 1 and 0


def test_a_batch_in_which_nothing_is_known_teaches_nothing() -> None:
    teacher = SemanticTeacher(torch.eye(2), codebook_dim=2)
    projected = torch.randn(1, 3, 2, requires_grad=True)
    _, losses = teacher(projected, torch.zeros(1, 3, 2))
    (losses.unit + losses.distillation).backward()
    assert projected.grad is not None
    assert not projected.grad.any()
