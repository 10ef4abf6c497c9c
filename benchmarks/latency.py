"""What one listener waits for: first audio and the time between chunks, by how much was said before.

`python -m benchmarks.latency --quantize int8 --backend compiled`. Cold, the voice prompt and the whole conversation are
read for the turn; known, the model has just spoken in it. `rows` are those of the prompt, which has the newest turns of
a history that is longer than the model. Medians and 95th percentiles; a turn of every line comes before the next one of
any. `speak` makes a sentence as a whole, the codec in growing chunks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch

import duologue
from benchmarks.reporting import add_options, finish, header, table
from duologue.engine.bench import (
    Case,
    Latency,
    bandwidth,
    frame_bytes,
    measure_latency,
    measure_speaking,
    percentile,
)
from duologue.errors import DuologueError


def row(one: Latency) -> list[object]:
    """A line of the table, in milliseconds."""
    first, gaps = ([1000 * percentile(values, p) for p in (50, 95)] for values in (one.first_s, one.gaps_s))
    name = "cold" if one.case.is_cold else "known"
    return [name, f"{one.case.history_s:g}", str(one.num_rows), *first, *gaps, one.real_time_factor]


def ratios(found: Sequence[Latency]) -> list[str]:
    """First audio after the longest history over that after the shortest, cold and known."""
    lines = []
    for name, is_cold in (("cold", True), ("known", False)):
        ranked = sorted((one for one in found if one.case.is_cold is is_cold), key=lambda one: one.case.history_s)
        if len(ranked) > 1:
            least, most = ranked[0], ranked[-1]
            ratio = percentile(most.first_s, 50) / percentile(least.first_s, 50)
            lines.append(
                f"- first audio, {name}, after {most.case.history_s:g} s over that after {least.case.history_s:g} s: "
                f"{ratio:.2f}"
            )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--model", default="parlor", help="what speaks (default: the bundled model)")
    parser.add_argument("--quantize", help="int8 (default: as it is)")
    parser.add_argument("--backend", default="eager", help="eager or compiled (default: eager)")
    parser.add_argument("--history", type=float, nargs="+", default=[0, 10, 30, 60, 90], metavar="S")
    parser.add_argument("--repeats", type=int, default=9, help="turns for each line (default: 9)")
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        generator = duologue.load(arguments.model, quantize=arguments.quantize, backend=arguments.backend)
        measure_latency(generator, repeats=2)
        measure_speaking(generator, repeats=1)
        cases = [Case(seconds, is_cold) for seconds in arguments.history for is_cold in (True, False)]
        found = measure_latency(generator, cases, repeats=arguments.repeats)
        factors = measure_speaking(generator, repeats=arguments.repeats)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    read = bandwidth()
    weight = 1.0 if arguments.quantize == "int8" else float(generator.model.dtype.itemsize)
    limit = 1000 * frame_bytes(generator.model, weight) / read
    columns = ["", "history, s", "rows", "first p50, ms", "first p95", "gap p50, ms", "gap p95", "real-time factor"]
    finish(
        [
            *header(
                f"Latency of {arguments.model}, quantize={arguments.quantize}, {arguments.backend}", arguments.threads
            ),
            *table(columns, [row(one) for one in found]),
            *ratios(found),
            f"- `speak`, {len(factors)} sentences, real-time factor: median {percentile(factors, 50):.3f}, "
            f"{min(factors):.3f} to {max(factors):.3f}",
            "",
            f"Memory reads {read / 1e9:.1f} GB/s; a frame's weights of the speech model, read once for each use, take "
            f"{limit:.1f} ms at that speed (a model that fits the caches can be faster).",
        ],
        arguments.out,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
