"""Memory of a process that speaks: after loading, and at its most while loading and speaking.

`python -m benchmarks.memory --model FOLDER --quantize int8`. Each line is a process of its own.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from multiprocessing import get_context

import torch

import duologue
from benchmarks.reporting import add_options, finish, header, table
from duologue.engine.stopping import NO_POLICY
from duologue.errors import DuologueError, DuologueWarning
from duologue.eval import memory


def measured(model: str, quantize: str | None, seconds: float, threads: int) -> list[float | None]:
    """MB: at the start of a process, at its most while loading, after that, and at its most while speaking."""
    torch.set_num_threads(threads)
    memory.reset_peak()
    before = memory.peak_mb()
    generator = duologue.load(model, quantize=quantize)
    loading = memory.peak_mb()
    memory.reset_peak()
    after = memory.peak_mb()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DuologueWarning)
        generator.speak("Hello there.", max_audio_length_ms=1000 * seconds, seed=1, stopping=NO_POLICY)
    return [before, loading, after, memory.peak_mb()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--model", default="parlor", help="what speaks (default: the bundled model)")
    parser.add_argument("--quantize", nargs="+", default=["none", "int8"], choices=["none", "int8"])
    parser.add_argument("--seconds", type=float, default=4.0, help="speech (default: 4)")
    add_options(parser)
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    try:
        for quantize in arguments.quantize:
            how = None if quantize == "none" else quantize
            with get_context("spawn").Pool(1) as pool:
                found = pool.apply(measured, (arguments.model, how, arguments.seconds, arguments.threads))
            rows.append([quantize, *("-" if value is None else f"{value:.0f}" for value in found)])
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = ["quantize", "before, MB", "most while loading", "after loading", "most while speaking"]
    finish([*header(f"Memory of {arguments.model}", arguments.threads), *table(columns, rows)], arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
