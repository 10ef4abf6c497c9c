"""What a suite is: a fixed, versioned list of requests, and the metrics that count in it.

Requests depend on the suite, the seed and the voices of the system alone, so that a second run asks the same again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from duologue.eval.clips import OwnLine, Recoder, Request, System
from duologue.eval.lines import Line, load_lines
from duologue.eval.measure import Measure

_SEED_BITS = 31
Kind = Literal["lines", "speech", "speed", "codec"]


class Build(Protocol):
    """The requests of a suite for a system: `limit` lines of each group, all for None."""

    def __call__(self, system: System, *, limit: int | None, seed: int) -> list[Request]: ...


def _no_notes() -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Suite:
    """A question and how it is answered.

    `build` makes the requests and `lists` names the lists of lines that it draws from; `metrics` are names of
    `metrics.METRICS`, the first the one that a reader looks for. `kind` says what a system has to be able to do:
    "lines" takes recordings of other lines too, "speech" wants these lines spoken, "speed" in this very run, and
    "codec" wants a codec. `besides` measures what not every suite wants to know; without `listens` nobody listens to
    the clips. `has_conditions` marks groups that are one thing in several conditions: a figure over all of them would
    say nothing. `notes` says what a reader has to know of the instruments.
    """

    name: str
    title: str
    lists: tuple[str, ...]
    metrics: tuple[str, ...]
    build: Build
    kind: Kind = "lines"
    besides: tuple[Measure, ...] = ()
    listens: bool = True
    has_conditions: bool = False
    notes: Callable[[], tuple[str, ...]] = _no_notes

    @property
    def headline(self) -> str:
        """The metric that a reader looks for first."""
        return self.metrics[0]

    def unfit(self, system: System) -> str | None:
        """Why the system is left out of this suite; None where it is not."""
        if self.kind == "codec":
            return None if isinstance(system, Recoder) else "it gives no access to a codec"
        if not system.speaks:
            return "it is a codec and does not speak"
        if self.kind == "speed" and not system.is_timed:
            return "its recordings were not made in this run"
        if self.kind == "speech" and system.own_lines() is not None:
            return "it has recordings of other lines only"
        return None

    def requests(self, system: System, *, limit: int | None, seed: int) -> list[Request]:
        """What is asked of the system: the suite's lines, or the system's own where it has only those."""
        own = system.own_lines()
        if own is not None and self.kind == "lines":
            return [_own(line, seed) for line in own[:limit]]
        return self.build(system, limit=limit, seed=seed)


def _own(line: OwnLine, seed: int) -> Request:
    facts = {"own_line": line.id, "is_prompt": line.is_prompt}
    return Request(line.id, "own", line.text, request_seed(seed, line.text), voice=line.voice, facts=facts)


def each_line(name: str, groups: Sequence[str] | None = None, *, in_all_voices: bool = False) -> Build:
    """Every line of a list (all groups, or `groups`), in the default voice or in all voices of the system in turn."""

    def build(system: System, *, limit: int | None, seed: int) -> list[Request]:
        lines = [line for line in load_lines(name).limited(limit) if groups is None or line.group in groups]
        voices = system.voices() if in_all_voices else []
        return [
            line_request(line, seed, voice=voices[index % len(voices)] if voices else None)
            for index, line in enumerate(lines)
        ]

    return build


def together(*builds: Build) -> Build:
    """The requests of several, one after the other."""

    def build(system: System, *, limit: int | None, seed: int) -> list[Request]:
        return [request for part in builds for request in part(system, limit=limit, seed=seed)]

    return build


def line_request(line: Line, seed: int, *, voice: str | None = None) -> Request:
    """The line by itself."""
    return Request(
        line.id,
        line.group,
        line.text,
        request_seed(seed, line.text),
        voice=voice,
        facts={"accepted": line.accepted},
    )


def request_seed(seed: int, text: str) -> int:
    """A seed of the text's own: neither the order of the lines nor the other suites of a run change what is drawn."""
    digest = hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % (1 << _SEED_BITS)


def default_voices(system: System) -> tuple[str | None, str | None]:
    """The voices of the two sides of a conversation: the system's default, and another if it has one."""
    voices = system.voices()
    return (voices[0], voices[1 % len(voices)]) if voices else (None, None)
