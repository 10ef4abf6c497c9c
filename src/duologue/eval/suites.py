"""What is asked of every system, and which figures are made of the answers.

A suite is a fixed, versioned list of requests and the metrics that count in it. Requests depend on the suite, the seed
and the voices of the system alone, so that a second run asks the same again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from duologue.errors import EvaluationError
from duologue.eval.clips import OwnLine, Request, System
from duologue.eval.lines import Line, load_lines

_SEED_BITS = 31


@dataclass(frozen=True)
class Suite:
    """`lists` are those it draws from (all groups, or `groups`); `metrics` are names of `metrics.METRICS`.

    `voices` spreads the lines over all voices of the system in turn; otherwise all are spoken in the default voice.
    """

    name: str
    title: str
    lists: tuple[str, ...]
    metrics: tuple[str, ...]
    groups: tuple[str, ...] | None = None
    voices: bool = False
    needs: Callable[[System], str | None] = field(default=lambda system: None)

    def requests(self, system: System, *, limit: int | None, seed: int) -> list[Request]:
        """The first `limit` requests of each group (None: all), or the system's own lines where it has only those."""
        own = system.own_lines()
        if own is not None:
            return [self._own(line, seed) for line in own[:limit]]
        lines = [
            line
            for name in self.lists
            for line in load_lines(name).limited(limit).lines
            if self.groups is None or line.group in self.groups
        ]
        voices = system.voices() if self.voices else []
        return [
            self._request(line, voices[index % len(voices)] if voices else None, seed)
            for index, line in enumerate(lines)
        ]

    def _request(self, line: Line, voice: str | None, seed: int) -> Request:
        return Request(
            line.id,
            line.group,
            line.text,
            request_seed(seed, line.text),
            voice=voice,
            facts={"accepted": line.accepted},
        )

    def _own(self, line: OwnLine, seed: int) -> Request:
        return Request(
            line.id,
            "own",
            line.text,
            request_seed(seed, line.text),
            voice=line.voice,
            facts={"own_line": line.id},
        )


def request_seed(seed: int, text: str) -> int:
    """A seed of the text's own: neither the order of the lines nor the other suites of a run change what is drawn."""
    digest = hashlib.blake2b(f"{seed}:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % (1 << _SEED_BITS)


_WORDS = ("failed", "wer", "cer", "misunderstood")
_STOPS = ("cap", "trailing_silence", "long_silence", "cut", "loops", "stops_badly")

_ALL = (
    Suite("intelligibility", "Is it understood?", ("intelligibility",), (*_WORDS, "pace")),
    Suite("robustness", "Does it read what people write?", ("robustness",), (*_WORDS, "loops")),
    Suite(
        "similarity",
        "Is it the voice that was asked for?",
        ("similarity",),
        ("failed", "similarity", "right_voice", "pitch"),
        groups=("single",),
        voices=True,
    ),
    Suite(
        "naturalness",
        "How does it sound?",
        ("intelligibility",),
        ("failed", "overall", "signal", "background", "p808"),
        groups=("conversational", "plain"),
    ),
    Suite("stopping", "Does it end where the text ends?", ("stopping",), ("failed", *_STOPS, "wer")),
    Suite(
        "speed",
        "How fast is it?",
        ("intelligibility",),
        ("failed", "rtf_p50", "rtf_p95", "first_audio_p50", "first_audio_p95", "underruns"),
        groups=("conversational", "long"),
        needs=lambda system: None if system.is_timed else "its recordings were not made in this run",
    ),
)

SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}
ALL = "all"


def find_suites(names: Sequence[str]) -> list[Suite]:
    """The suites by name, each once, in the order of the table; "all" stands for every one.

    Raises `EvaluationError` for a name that is none.
    """
    unknown = [name for name in names if name not in SUITES and name != ALL]
    if unknown:
        raise EvaluationError(f"unknown suite {unknown[0]!r}; expected {ALL} or some of {', '.join(SUITES)}")
    return [suite for suite in SUITES.values() if ALL in names or suite.name in names]
