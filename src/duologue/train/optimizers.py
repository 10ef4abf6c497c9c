"""Who descends which loss, with which optimizer: the model, and the discriminators where it has some."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from duologue.train.distributed import World, like, local, norm, whole
from duologue.train.muon import Muon

# A count of steps, which AdamW keeps on the CPU.
_COUNT = "step"

# Betas of a discriminator's AdamW: little momentum, since what it judges changes with every step.
_RIVAL_BETAS = (0.5, 0.9)


@dataclass(frozen=True)
class Rates:
    """Learning rates and what belongs to them; `muon` at 0 leaves everything to AdamW.

    `is_rough` lets Muon compute in bfloat16.
    """

    adamw: float
    muon: float = 0.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    is_rough: bool = False


@dataclass(frozen=True)
class Rival:
    """Parameters, by the prefix of their names, that descend the loss called `loss` and not the model's."""

    prefix: str
    loss: str
    learning_rate: float


class Player:
    """Parameters that descend one loss together."""

    def __init__(
        self,
        loss: str,
        parameters: Mapping[str, nn.Parameter],
        rates: Rates,
        hidden: Collection[str] = (),
        factors: Mapping[str, float] | None = None,
        world: World | None = None,
    ) -> None:
        """`hidden` names the matrices that Muon trains where `rates.muon` is not 0.

        `factors` multiply AdamW's rate, by the name of the parameter; its weights decay as all do.
        """
        self.loss, self.parameters, self.world = loss, dict(parameters), world or World()
        muons = set(hidden) & set(parameters) if rates.muon else set()
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in parameters.items():
            if name not in muons:
                factor = (factors or {}).get(name, 1.0)
                decay = rates.weight_decay / factor if parameter.dim() >= 2 else 0.0
                groups.setdefault((rates.adamw * factor, decay), []).append(parameter)
        adamw = torch.optim.AdamW(
            [{"params": members, "lr": rate, "weight_decay": decay} for (rate, decay), members in groups.items()],
            betas=rates.betas,
        )
        self.optimizers: list[torch.optim.Optimizer] = [adamw]
        if muons:
            chosen = [parameter for name, parameter in parameters.items() if name in muons]
            self.optimizers.append(Muon(chosen, rates.muon, weight_decay=rates.weight_decay, is_rough=rates.is_rough))
        self._rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self._place = {
            parameter: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for parameter in group["params"]
        }

    def gradients(self, loss: Tensor, *, keep_graph: bool) -> list[Tensor]:
        """The gradients of `loss` for the parameters, in order; zero for one that it does not depend on.

        Where the world is sharding, those of all processes' losses, averaged.
        """
        parameters = list(self.parameters.values())
        if self.world.is_sharding:  # which happens in hooks of a plain backward pass
            loss.backward(retain_graph=keep_graph)
            taken = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
            for parameter in parameters:
                parameter.grad = None
            return taken
        found = torch.autograd.grad(loss, parameters, retain_graph=keep_graph, allow_unused=True)
        return [
            torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(parameters, found, strict=True)
        ]

    def step(self, gradients: list[Tensor], factor: float, clip_norm: float) -> None:
        """One update with every learning rate times `factor`; gradients are clipped to `clip_norm` together.

        They are taken over, and scaled in place.
        """
        size = norm(gradients, self.world)
        torch._foreach_mul_([local(gradient) for gradient in gradients], (clip_norm / (size + 1e-6)).clamp(max=1.0))
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            parameter.grad = gradient
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The optimizers' tensors as `<parameter>.<key>`."""
        return {
            f"{name}.{key}": whole(value.detach()).clone()
            for name, parameter in self.parameters.items()
            for key, value in self._place[parameter].state.get(parameter, {}).items()
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        for name, parameter in self.parameters.items():
            values = {key.rpartition(".")[2]: value for key, value in tensors.items() if key.rpartition(".")[0] == name}
            if values:
                self._place[parameter].state[parameter] = {
                    key: like(value, parameter) if key != _COUNT else value for key, value in values.items()
                }


def make_players(
    module: nn.Module,
    rates: Rates,
    hidden: Collection[str],
    rivals: Collection[Rival],
    factors: Mapping[str, float] | None = None,
    world: World | None = None,
) -> list[Player]:
    """The model first, which descends `loss`, then each rival with the parameters of its prefix."""
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    prefixes = tuple(rival.prefix for rival in rivals)
    own = {name: parameter for name, parameter in trained.items() if not (prefixes and name.startswith(prefixes))}
    players = [Player("loss", own, rates, hidden, factors, world)]
    for rival in rivals:
        theirs = {name: parameter for name, parameter in trained.items() if name.startswith(rival.prefix)}
        players.append(Player(rival.loss, theirs, Rates(rival.learning_rate, betas=_RIVAL_BETAS), world=world))
    return players
