"""Held-out losses of runs that went on from one another, and what more of the same would bring.

`python -m benchmarks.learning_curves --run first=LOG --run then=LOG` reads the `log.jsonl` of each run in order, draws
the held-out losses against all computing time so far, and prints them. Only the ends of runs can be compared, where the
rates have come down: between the last two of them a loss falls by so much for each doubling of the time, and the
extrapolation goes on like that. It is a straight line through two points, no more; a loss that falls as a power of time
minus a floor falls more slowly later.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.reporting import add_options, finish, header, table

_LOSSES = {"eval_codebook0": "codebook 0", "eval_depth": "depth decoder"}
_TIMES = (2, 4, 8)


@dataclass(frozen=True)
class Point:
    """Held-out losses at a step, `minutes` of computing after the first run began; `at_end` of its run."""

    run: str
    step: int
    minutes: float
    losses: dict[str, float]
    at_end: bool


def read_run(name: str, log: Path, before_minutes: float) -> list[Point]:
    """The evaluations of one run that began after so many minutes of others. Raises `ValueError` for a log without."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    found = [entry for entry in entries if all(key in entry for key in _LOSSES)]
    if not found:
        raise ValueError(f"{log} has no held-out losses")
    return [
        Point(
            name,
            entry["step"],
            before_minutes + entry["elapsed_s"] / 60,
            {key: entry[key] for key in _LOSSES},
            at_end=entry is found[-1],
        )
        for entry in found
    ]


def per_doubling(ends: Sequence[Point], loss: str) -> float:
    """How much the loss falls while the computing time doubles, from the last two ends."""
    before, after = ends[-2:]
    return (before.losses[loss] - after.losses[loss]) / math.log2(after.minutes / before.minutes)


def extrapolation(ends: Sequence[Point]) -> list[str]:
    """A table of the last end, and of what the same slope says of later ones."""
    last = ends[-1]
    rows: list[list[object]] = [["measured", last.minutes / 60, *last.losses.values()]]
    for times in _TIMES:
        later = [value - per_doubling(ends, loss) * math.log2(times) for loss, value in last.losses.items()]
        rows.append([f"{times} times as long", times * last.minutes / 60, *later])
    return table(["", "hours", *(f"{name}, nats" for name in _LOSSES.values())], rows)


def draw(points: Sequence[Point], path: Path) -> None:
    """Losses against hours, a line for each run."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    for axes, (loss, name) in zip(figure.subplots(1, 2), _LOSSES.items(), strict=True):
        for run in dict.fromkeys(point.run for point in points):
            own = [point for point in points if point.run == run]
            axes.plot(
                [point.minutes / 60 for point in own], [point.losses[loss] for point in own], marker=".", label=run
            )
        axes.set_xlabel("hours of computing")
        axes.set_ylabel(f"{name}, held out, nats")
        axes.legend()
    figure.savefig(path, dpi=100)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_curves", description=__doc__)
    parser.add_argument("--run", action="append", required=True, metavar="NAME=LOG", help="a run, in order; repeatable")
    add_options(parser)
    arguments = parser.parse_args()
    points: list[Point] = []
    try:
        for given in arguments.run:
            name, _, log = given.partition("=")
            points += read_run(name, Path(log), points[-1].minutes if points else 0.0)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = [[point.run, point.step, point.minutes, *point.losses.values()] for point in points]
    columns = ["run", "step", "minutes in all", *(f"{name}, nats" for name in _LOSSES.values())]
    lines = [*header("Learning curves", arguments.threads), *table(columns, rows)]
    ends = [point for point in points if point.at_end]
    if len(ends) > 1:
        lines += extrapolation(ends)
    finish(lines, arguments.out)
    if arguments.out is not None:
        draw(points, arguments.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
