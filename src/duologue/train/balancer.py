"""Weights that mean sizes of gradients, whatever the losses' own scales.

Source: Defossez et al., "High Fidelity Neural Audio Compression" (EnCodec, 2022), section 3.4, "Balancer"; here one
loss keeps its gradient, and the others are measured by it: what else the model learns keeps its proportion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from duologue.train.distributed import World

_MEMORY = 0.99


class Balancer(nn.Module):
    """Scales losses so that their gradients at the output have, on average, `weight` times the reference's norm."""

    norms: Tensor
    seen: Tensor

    def __init__(self, weights: Mapping[str, float], *, world: World | None = None) -> None:
        """`weights` by the name of the loss; `world` holds the processes that share each batch."""
        super().__init__()
        self.weights, self.world = dict(weights), world or World()
        self.register_buffer("norms", torch.zeros(len(weights) + 1))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, reference: Tensor, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """A scalar of the value of `reference` whose gradient for `output` is the balanced sum of all gradients.

        The running norms follow where the module is in training mode. The graphs of the losses are kept. Where no
        gradients are recorded there is only the value.
        """
        if not torch.is_grad_enabled():
            return reference
        terms = [reference, *(losses[name] for name in self.weights)]
        gradients = [torch.autograd.grad(term, output, retain_graph=True)[0].float() for term in terms]
        if self.training:
            self.seen.lerp_(torch.ones_like(self.seen), 1 - _MEMORY)
            self.norms.lerp_(_norms(gradients, self.world), 1 - _MEMORY)
        means = self.norms / self.seen.clamp(min=1e-12)  # no bias towards the zeros of the start
        scales = means[:1] / means[1:].clamp(min=1e-12) * torch.tensor(list(self.weights.values())).to(means)
        total = gradients[0] + sum(scale * gradient for scale, gradient in zip(scales, gradients[1:], strict=True))
        pull = (output.float() * total).sum()
        balanced: Tensor = reference.detach() + pull - pull.detach()
        return balanced


class GradientShare(nn.Module):
    """Gives back what it is given, and scales the gradient that comes back to norm `weight` on average.

    Where several losses meet in one tensor, each through a share of its own, none drowns the others.
    """

    norm: Tensor
    seen: Tensor

    def __init__(self, weight: float, *, world: World | None = None) -> None:
        super().__init__()
        self.weight, self.world = weight, world or World()
        self.register_buffer("norm", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Identity; the running norm follows in training mode, in the backward pass."""
        if not (self.training and x.requires_grad):
            return x
        branch = x.view_as(x)
        branch.register_hook(self._scaled)
        return branch

    def _scaled(self, gradient: Tensor) -> Tensor:
        self.seen.lerp_(torch.ones_like(self.seen), 1 - _MEMORY)
        self.norm.lerp_(_norms([gradient.float()], self.world)[0], 1 - _MEMORY)
        return gradient * (self.weight * self.seen / self.norm.clamp(min=1e-12)).to(gradient.dtype)


def _norms(gradients: Sequence[Tensor], world: World) -> Tensor:
    """Of each gradient of the whole batch, of which this process has a share: that of a mean over the share alone."""
    squares = world.total(torch.stack([gradient.square().sum() for gradient in gradients]))
    return squares.sqrt() / world.size
