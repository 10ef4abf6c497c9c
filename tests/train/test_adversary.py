"""Discriminators, the losses of the game, and the balance of gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from duologue.errors import TrainingError
from duologue.train.adversary import Adversary, AdversaryConfig
from duologue.train.balancer import Balancer, GradientShare
from duologue.train.discriminator import Judgement, PeriodDiscriminator, STFTDiscriminator

SMALL = AdversaryConfig(windows=(256, 128), filters=4, periods=(3,), period_filters=2)


class Fixed(nn.Module):
    """Finds the mean of a waveform and calls it logits; its one feature is the waveform."""

    def forward(self, pcm: torch.Tensor) -> Judgement:
        return Judgement(pcm.mean(dim=(1, 2)), [pcm])


def fixed_adversary(**changes: object) -> Adversary:
    adversary = Adversary(AdversaryConfig(windows=(), **changes))  # type: ignore[arg-type]
    adversary.judges = nn.ModuleList([Fixed()])
    return adversary


def test_losses_by_hand() -> None:
    made, true = torch.full((2, 1, 8), 0.5), torch.full((2, 1, 8), 2.0)
    verdict = fixed_adversary()(made, true)
    assert verdict.adversarial.item() == -0.5
    assert verdict.discrimination.item() == pytest.approx((1 + 0.5) + 0.0)  # the recordings are beyond the margin
    assert verdict.features.item() == pytest.approx(1.5 / 2.0)


def test_a_discriminator_that_is_never_wrong_ends_the_run() -> None:
    adversary = fixed_adversary(lost_below=0.2)
    made, true = torch.full((1, 1, 8), -3.0), torch.full((1, 1, 8), 3.0)
    with pytest.raises(TrainingError, match=r"the discriminators win.*0\.\d+ \(2 is a draw\).*learning_rate"):
        for _ in range(400):
            adversary(made, true)
    assert 0.15 < float(adversary.mean_loss) < 0.2
    adversary.eval()
    before = float(adversary.mean_loss)
    adversary(made, true)
    assert float(adversary.mean_loss) == before


def test_a_spectral_discriminator_sees_time_and_frequency() -> None:
    torch.manual_seed(0)
    judgement = STFTDiscriminator(256, 4)(torch.randn(2, 1, 24_000))
    frames = 24_000 // 64 + 1
    assert judgement.logits.shape[:3] == (2, 1, frames)
    assert [feature.shape[1:3] for feature in judgement.features] == [(4, frames)] * 5


def test_a_period_discriminator_folds_the_waveform() -> None:
    torch.manual_seed(0)
    judge = PeriodDiscriminator(3, 2)
    pcm = torch.randn(1, 1, 300)
    folded = judge(pcm).logits  # [1, 1, H, 3]: one column a phase
    other = pcm.clone()
    other[..., 1::3] += 1.0
    changed = (judge(other).logits - folded).abs().amax(dim=(0, 1, 2)) > 0
    assert changed.tolist() == [False, True, False]
    assert judge(torch.randn(1, 1, 301)).logits.shape[-1] == 3


def test_each_side_of_the_game_learns() -> None:
    """Against a copy that lacks the upper half of the band, the discriminators learn to tell, and say in which way."""
    torch.manual_seed(0)
    adversary = Adversary(SMALL)
    optimizer = torch.optim.AdamW(adversary.parameters(), 3e-3)
    seen = []
    for _ in range(40):
        true = 0.3 * torch.randn(4, 1, 2400)
        made = F.avg_pool1d(true, 3, 1, 1).requires_grad_()
        verdict = adversary(made, true)
        (towards,) = torch.autograd.grad(verdict.adversarial, made, retain_graph=True)
        assert bool(towards.isfinite().all()) and bool(towards.any())
        gradients = torch.autograd.grad(verdict.discrimination, list(adversary.parameters()))
        for parameter, gradient in zip(adversary.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        seen.append(verdict.discrimination.item())
    assert seen[-1] < 0.6 * seen[0]


def test_gradients_are_balanced_at_the_output() -> None:
    torch.manual_seed(0)
    balancer = Balancer({"loud": 2.0, "quiet": 0.5})
    output = torch.randn(3, 5, requires_grad=True)
    direction = torch.randn(3, 5)
    reference = 7 * (output * direction).sum()
    losses = {"loud": 1e4 * output.sum(), "quiet": 1e-3 * output[0].sum(), "unused": output.sum()}
    loss = balancer(reference, losses, output)
    assert loss.item() == pytest.approx(reference.item())
    (gradient,) = torch.autograd.grad(loss, output)
    size = 7 * direction.norm()
    ones, row = torch.ones(3, 5) / 15**0.5, torch.zeros(3, 5)
    row[0] = 1 / 5**0.5
    torch.testing.assert_close(gradient, 7 * direction + size * (2.0 * ones + 0.5 * row))


def test_the_balance_follows_a_running_mean() -> None:
    balancer = Balancer({"other": 1.0})
    output = torch.zeros(1, requires_grad=True)

    def pull(size: float) -> float:
        loss = balancer(output.sum(), {"other": size * output.sum()}, output)
        return float(torch.autograd.grad(loss, output)[0])

    assert pull(1.0) == pytest.approx(2.0)
    assert pull(100.0) == pytest.approx(1 + 100 / ((0.99 + 100) / 1.99))
    balancer.eval()
    before = balancer.norms.clone()
    pull(5.0)
    assert torch.equal(balancer.norms, before)


def test_shares_of_a_gradient_have_their_weights_whatever_the_losses() -> None:
    loud, quiet = GradientShare(1.0), GradientShare(0.5)
    x = torch.randn(4, 3, requires_grad=True)
    hidden = 2 * x
    assert torch.equal(loud(hidden), hidden)
    loss = (1e5 * loud(hidden)[0]).sum() + (1e-4 * quiet(hidden)[1]).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    torch.testing.assert_close(gradient[0].norm(), torch.tensor(2.0))
    torch.testing.assert_close(gradient[1].norm(), torch.tensor(1.0))
    loud.eval()
    assert loud(hidden) is hidden
