"""Key tables: how the tensors of a foreign format correspond to ours, and the one engine that applies them both ways.

A format is a list of `Rule`s. The engine reads our names and shapes off a module (on the `meta` device), so that the
rules also say exactly which foreign names and shapes a file must hold: nothing is guessed from the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from duologue.errors import CheckpointError

# How many names an error lists of each kind; the rest is a count.
_LISTED = 10


class Transform(Protocol):
    """What happens to a tensor between the two formats; `save` undoes `load`."""

    def load(self, foreign: Tensor) -> list[Tensor]:
        """One foreign tensor to ours, one for each name that the rule has on our side."""
        ...

    def save(self, ours: Sequence[Tensor]) -> Tensor:
        """Our tensors to the foreign one."""
        ...


@dataclass(frozen=True)
class Same:
    """The tensor as it is."""

    def load(self, foreign: Tensor) -> list[Tensor]:
        return [foreign]

    def save(self, ours: Sequence[Tensor]) -> Tensor:
        return ours[0]


@dataclass(frozen=True)
class HalfSplit:
    """Rotary channels of q or k: theirs in two halves, ours in interleaved pairs.

    Source: `permute_for_rope` in transformers' `convert_csm.py`, applied head by head.
    """

    head_size: int

    def load(self, foreign: Tensor) -> list[Tensor]:
        halves = foreign.unflatten(0, (-1, 2, self.head_size // 2))  # [H, 2, head_dim / 2, D]
        return [halves.transpose(1, 2).reshape(foreign.shape)]

    def save(self, ours: Sequence[Tensor]) -> Tensor:
        pairs = ours[0].unflatten(0, (-1, self.head_size // 2, 2))  # [H, head_dim / 2, 2, D]
        rows: Tensor = pairs.transpose(1, 2).reshape(ours[0].shape)
        return rows


@dataclass(frozen=True)
class Pointwise:
    """A linear map that they store as a convolution of kernel size 1: `[out, in, 1]`."""

    def load(self, foreign: Tensor) -> list[Tensor]:
        return [foreign.squeeze(-1)]

    def save(self, ours: Sequence[Tensor]) -> Tensor:
        return ours[0].unsqueeze(-1)


@dataclass(frozen=True)
class Fused:
    """Several maps of equal size that they store as one, stacked along the output."""

    count: int

    def load(self, foreign: Tensor) -> list[Tensor]:
        return [part.clone() for part in foreign.chunk(self.count)]

    def save(self, ours: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(ours))


@dataclass(frozen=True)
class Rule:
    """One correspondence. `{n}` on our side stands for a number; on theirs so may `{3n+1}`.

    `foreign` is the name that is written; a file may hold the tensor under one of `aliases` instead. `copies` are names
    under which it may hold the same tensor again (tied weights): whatever is there must be equal. `marker` names a
    tensor of one element, written as 1, that says nothing to us and may be missing.
    """

    ours: str | tuple[str, ...]
    foreign: str
    transform: Transform = Same()
    aliases: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    marker: str | None = None


@dataclass(frozen=True)
class TensorInfo:
    """What a file says about a tensor: the dtype that it is read in, and its shape.

    `stored` is the file's own dtype where that is another one.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    stored: torch.dtype | None = None


class TensorSource(Protocol):
    """Somewhere that tensors can be read from one at a time."""

    @property
    def where(self) -> str:
        """The place in words, for messages."""
        ...

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Names of all tensors, with dtype and shape."""
        ...

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        ...


@dataclass(frozen=True)
class Link:
    """A rule applied to one set of our tensors: all names spelled out, and the foreign shape."""

    ours: tuple[str, ...]
    foreign: str
    shape: tuple[int, ...]
    transform: Transform
    aliases: tuple[str, ...]
    copies: tuple[str, ...]
    marker: str | None

    def spellings(self) -> tuple[str, ...]:
        """Every name under which a file may hold the tensor, the written one first."""
        return (self.foreign, *self.aliases, *self.copies)


def module_shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes of what `module` stores."""
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def link(rules: Iterable[Rule], shapes: Mapping[str, torch.Size]) -> list[Link]:
    """Applies a table to all of our tensors; every one of them is matched by exactly one rule."""
    links: list[Link] = []
    taken: set[str] = set()
    for rule in rules:
        ours = (rule.ours,) if isinstance(rule.ours, str) else rule.ours
        pattern = re.compile(re.escape(ours[0]).replace(r"\{n\}", r"(\d+)"))
        for name in shapes:
            match = pattern.fullmatch(name)
            if match is None:
                continue
            number = int(match[1]) if pattern.groups else 0
            names = tuple(_fill(part, number) for part in ours)
            assert taken.isdisjoint(names), f"two rules for {names}"
            taken.update(names)
            like = [torch.empty(shapes[part], device="meta") for part in names]
            links.append(
                Link(
                    ours=names,
                    foreign=_fill(rule.foreign, number),
                    shape=tuple(rule.transform.save(like).shape),
                    transform=rule.transform,
                    aliases=tuple(_fill(part, number) for part in rule.aliases),
                    copies=tuple(_fill(part, number) for part in rule.copies),
                    marker=_fill(rule.marker, number) if rule.marker is not None else None,
                )
            )
    assert taken == set(shapes), f"no rule for {sorted(set(shapes) - taken)}"
    return links


def _fill(pattern: str, number: int) -> str:
    def value(match: re.Match[str]) -> str:
        return str(int(match[1] or 1) * number + int(match[2] or 0))

    return re.sub(r"\{(\d*)n(?:\+(\d+))?\}", value, pattern)


def check(links: Sequence[Link], infos: Mapping[str, TensorInfo], where: str) -> None:
    """Holds the names, shapes and dtypes of a file against the table.

    Raises `CheckpointError` that lists what is missing, doubled, unknown, misshapen, or not floating point.
    """
    problems: dict[str, list[str]] = {"missing": [], "doubled": [], "unknown": [], "misshapen": [], "not float": []}
    known: set[str] = set()
    for item in links:
        spelled = [name for name in (item.foreign, *item.aliases) if name in infos]
        copies = [name for name in item.copies if name in infos]
        if not spelled and not copies:
            problems["missing"].append(item.foreign)
        if len(spelled) > 1:
            problems["doubled"].append(" and ".join(spelled))
        known.update(spelled, copies)
        if item.marker is not None:
            known.add(item.marker)
        for name in spelled + copies:
            info = infos[name]
            if info.shape != item.shape:
                problems["misshapen"].append(f"{name} {list(info.shape)} instead of {list(item.shape)}")
            elif not info.dtype.is_floating_point:
                problems["not float"].append(f"{name} of {str(info.dtype).removeprefix('torch.')}")
    problems["unknown"] = sorted(set(infos) - known)
    found = [f"{len(names)} {kind} ({_listing(names)})" for kind, names in problems.items() if names]
    if found:
        raise CheckpointError(f"{where}: tensors do not fit the model: {'; '.join(found)}")


def _listing(names: Sequence[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


def read(links: Sequence[Link], source: TensorSource, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Streams those of our tensors that are among `names`, in the dtype of the file. Call `check` first.

    Raises `CheckpointError` where tensors that should be tied differ.
    """
    wanted = set(names)
    for item in links:
        if wanted.isdisjoint(item.ours):
            continue
        present = [name for name in item.spellings() if name in source.infos]
        tensor = source.read(present[0])
        for other in present[1:]:
            if not torch.equal(tensor, source.read(other)):
                raise CheckpointError(
                    f"{source.where}: {present[0]} and {other} differ, but the model has one tensor for both (tied)"
                )
        for name, ours in zip(item.ours, item.transform.load(tensor), strict=True):
            if name in wanted:
                yield name, ours


def fill(
    module: nn.Module, tensors: Iterable[tuple[str, Tensor]], *, device: torch.device, dtype: torch.dtype | None
) -> None:
    """Gives a module built on the `meta` device its tensors, one at a time; all of them must come.

    They are converted to `dtype`, or stay as they come when it is None.
    """
    state = {name: tensor.to(device=device, dtype=dtype) for name, tensor in tensors}
    module.load_state_dict(state, strict=True, assign=True)


def expected(links: Iterable[Link]) -> dict[str, tuple[int, ...]]:
    """Names and shapes that `write` gives: what a file in the foreign format holds."""
    shapes = {}
    for item in links:
        shapes[item.foreign] = item.shape
        if item.marker is not None:
            shapes[item.marker] = (1,)
    return shapes


def write(links: Iterable[Link], state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Foreign names and tensors for ours, one at a time, in our dtype and contiguous."""
    for item in links:
        ours = [state[name].detach() for name in item.ours]
        yield item.foreign, item.transform.save(ours).contiguous()
        if item.marker is not None:
            yield item.marker, torch.ones(1)
