"""The semantic codebook as a classifier of units, and the stage that teaches it."""

from pathlib import Path

import pytest
import torch

from duologue.codec.mimi import Mimi
from duologue.train.codebooks import nearest
from duologue.train.codec import CodecBatch
from duologue.train.loop import LoopConfig
from duologue.train.units import UnitClassifier, UnitTrainConfig, find_units, train_units


def test_units_are_the_centres_of_their_points() -> None:
    torch.manual_seed(0)
    points = torch.randn(200, 3)
    found = find_units(points, 6, seed=0, iterations=50)
    labels = nearest(points, found)
    assert torch.equal(labels, torch.cdist(points, found).argmin(dim=1))
    means = torch.stack([points[labels == unit].mean(dim=0) for unit in range(6)])
    assert torch.allclose(found, means, atol=1e-4)


def test_a_written_codebook_chooses_what_the_classifier_chooses(codec: Mimi) -> None:
    """Of its 16 codes only the 5 units are ever chosen, whatever the latent."""
    torch.manual_seed(1)
    classifier = UnitClassifier(torch.randn(5, 7), dim=8)
    with torch.no_grad():
        classifier.vectors.normal_()
    stack = codec.quantizer.semantic
    x = 40 * torch.randn(200, 8)
    classifier.fit_scale(x)
    classifier.write(stack)
    (codebook,) = stack
    distances = torch.cdist(x / classifier.scale, classifier.vectors)  # [200, 5]
    assert torch.equal(codebook.encode(x), distances.argmin(dim=1))


def test_loss_and_accuracy_by_hand() -> None:
    classifier = UnitClassifier(torch.eye(2), dim=2)
    with torch.no_grad():
        classifier.vectors.copy_(2 * torch.eye(2))
    projected, teacher = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [5.0, 5.0]]]), torch.eye(2)[[0, 0, 0]][None]
    loss, right = classifier(projected, teacher, torch.tensor([[True, True, False]]))
    # Logits (0, -2) and (-2, 0), the unit is 0 both times.
    expected = (torch.tensor([0.0, -2.0]).logsumexp(0) - 0.0 + torch.tensor([-2.0, 0.0]).logsumexp(0) + 2.0) / 2
    assert loss.item() == pytest.approx(expected.item())
    assert right.item() == 0.5
    nothing, _ = classifier(projected, teacher, torch.zeros(1, 3, dtype=torch.bool))
    assert nothing.item() == 0.0


def batch_of(index: int) -> CodecBatch:
    """Crops of a low or a high tone; the teacher knows which."""
    generator = torch.Generator().manual_seed(index)
    kinds = torch.randint(0, 2, (8,), generator=generator)
    phase = torch.arange(4 * 1920) * torch.tensor([0.02, 0.3])[kinds][:, None]
    pcm = 0.3 * torch.sin(phase)[:, None] + 0.003 * torch.randn(8, 1, 4 * 1920, generator=generator)
    return CodecBatch(pcm, torch.eye(6)[kinds][:, None].repeat(1, 4, 1))


def test_it_learns_units_and_keeps_the_acoustic_codes(codec: Mimi, tmp_path: Path) -> None:
    config = UnitTrainConfig(loop=LoopConfig(num_steps=60, learning_rate=3e-3, warmup_steps=5, ema_decay=0.5))
    before = {name: t.clone() for name, t in codec.state_dict().items()}
    taught = train_units(config, codec, torch.eye(6)[:2], batch_of, tmp_path, quiet=True)
    assert all(torch.equal(t, codec.state_dict()[name]) for name, t in before.items())
    batch = batch_of(1000)
    codes, old = taught.encode(batch.pcm), codec.encode(batch.pcm)
    kinds = batch.teacher[:, 0].argmax(dim=-1)  # [B]
    # The first frame has no past to tell a low tone by.
    assert (codes[:, 0, 1:] == kinds[:, None]).float().mean() > 0.95
    assert (codes[:, 1] == old[:, 1]).float().mean() > 0.8
    frozen = [name for name in before if name.startswith("decoder.")]
    assert frozen and all(torch.equal(before[name], taught.state_dict()[name]) for name in frozen)
