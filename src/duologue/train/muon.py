"""Muon: momentum whose update is orthogonalised, for matrices; AdamW for everything else.

Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the scale of the update follows
Liu et al., "Muon is Scalable for LLM Training" (2025), so that one learning rate serves both halves. Convolution
kernels count as matrices of their output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from duologue.train.distributed import like, local, whole

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Values of the matrices that are orthogonalised at once.
_MOST_TOGETHER = 2**24


def orthogonalise(matrix: Tensor, steps: int = 5, *, is_rough: bool = False) -> Tensor:
    """About `U V^T` of each matrix `[..., M, N]` by Newton-Schulz iteration; same shape and dtype.

    In float32, or where `is_rough` in bfloat16, which is enough for training.
    """
    x = matrix.bfloat16() if is_rough else matrix.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    is_wide = x.shape[-1] >= 2 * x.shape[-2]
    x = _by_gram(x, steps) if is_wide and not is_rough else _directly(x, steps)
    made: Tensor = x.mT if tall else x
    return made.to(matrix.dtype)


def _directly(x: Tensor, steps: int) -> Tensor:
    a, b, c = _COEFFICIENTS
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def _by_gram(x: Tensor, steps: int) -> Tensor:
    """The same iteration: every step multiplies by a polynomial of the Gram matrix, which commutes with the others.

    So they are multiplied first, in the smaller dimension. That needs more precision than bfloat16 has.
    """
    a, b, c = _COEFFICIENTS
    gram = x @ x.mT  # [..., M, M]
    eye = torch.eye(gram.shape[-1], dtype=x.dtype, device=x.device)
    product = eye
    for step in range(steps):
        polynomial = a * eye + b * gram + c * gram @ gram
        product = polynomial @ product if step else polynomial
        if step + 1 < steps:
            gram = polynomial @ gram @ polynomial
    return product @ x


class Muon(torch.optim.Optimizer):
    """Updates parameters of two and more dimensions; the root mean square of a step is about `0.2 * lr`."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        is_rough: bool = False,
    ) -> None:
        """`is_rough` orthogonalises in bfloat16."""
        self._is_rough = is_rough
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update from the gradients; `closure` is not used."""
        for group in self.param_groups:
            for parameters in _together([p for p in group["params"] if p.grad is not None]):
                matrices = [self._ahead(parameter, group["momentum"]) for parameter in parameters]
                scale = 0.2 * max(matrices[0].shape) ** 0.5
                for parameter, step in zip(parameters, self._orthogonalised(matrices), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(like(step.view(parameter.shape), parameter), alpha=-group["lr"] * scale)

    def _ahead(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov's momentum as a matrix; of a sharded parameter every process takes the whole."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        velocity = state["momentum"]
        local(velocity).lerp_(local(parameter.grad), 1 - momentum)
        return whole(parameter.grad.lerp(velocity, momentum)).flatten(1)

    def _orthogonalised(self, matrices: list[Tensor]) -> list[Tensor]:
        if len(matrices) == 1:
            return [orthogonalise(matrices[0], is_rough=self._is_rough)]
        return list(orthogonalise(torch.stack(matrices), is_rough=self._is_rough).unbind())


def _together(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    """In groups: on a GPU those of one shape, of no more than `_MOST_TOGETHER` values; elsewhere each alone.

    A GPU takes about as long for many matrices at once as for a single one; a processor is slower at it.
    """
    by_shape: dict[tuple[torch.Size, torch.device], list[Tensor]] = {}
    for parameter in parameters:
        by_shape.setdefault((parameter.shape, parameter.device), []).append(parameter)
    groups = []
    for (shape, device), alike in by_shape.items():
        count = max(1, _MOST_TOGETHER // shape.numel()) if device.type == "cuda" else 1
        groups += [alike[first : first + count] for first in range(0, len(alike), count)]
    return groups
