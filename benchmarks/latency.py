"""What one listener waits for: first audio and the time between chunks, by how much was said before.

`python -m benchmarks.latency --quantize int8 --backend compiled`. Cold, the voice prompt and the whole conversation are
read for the turn; known, the conversation has read them, as it has after its first turn. Medians and 95th percentiles.
"""

from __future__ import annotations

import argparse
import sys

import torch

import duologue
from benchmarks.reporting import add_options, finish, header, table
from duologue.engine.bench import Latency, bandwidth, frame_bytes, measure_latency, percentile
from duologue.errors import DuologueError


def row(name: str, one: Latency) -> list[object]:
    """A line of the table, in milliseconds."""
    first, gaps = ([1000 * percentile(values, p) for p in (50, 95)] for values in (one.first_s, one.gaps_s))
    return [name, f"{one.history_s:g}", *first, *gaps, one.real_time_factor]


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
        rows = []
        for seconds in arguments.history:
            for is_cold in (True, False):
                one = measure_latency(generator, history_s=seconds, repeats=arguments.repeats, is_cold=is_cold)
                rows.append(row("cold" if is_cold else "known", one))
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    read = bandwidth()
    weight = 1.0 if arguments.quantize == "int8" else float(generator.model.dtype.itemsize)
    limit = 1000 * frame_bytes(generator.model, weight) / read
    columns = ["", "history, s", "first p50, ms", "first p95", "gap p50, ms", "gap p95", "real-time factor"]
    finish(
        [
            *header(
                f"Latency of {arguments.model}, quantize={arguments.quantize}, {arguments.backend}", arguments.threads
            ),
            *table(columns, rows),
            f"Memory reads {read / 1e9:.1f} GB/s; a frame's weights of the speech model, read once for each use, take "
            f"{limit:.1f} ms at that speed (a model that fits the caches can be faster).",
        ],
        arguments.out,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
