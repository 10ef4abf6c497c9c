"""How many listeners one engine serves: streams that begin at the same moment, through the scheduler.

`python -m benchmarks.throughput --quantize int8`. An underrun is a chunk that came after a player that began with the
stream's first chunk would have needed it.
"""

from __future__ import annotations

import argparse
import sys

import torch

import duologue
from benchmarks.reporting import add_options, finish, header, table
from duologue.engine.bench import measure_load
from duologue.errors import DuologueError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--model", default="parlor", help="what speaks (default: the bundled model)")
    parser.add_argument("--quantize", help="int8 (default: as it is)")
    parser.add_argument("--backend", default="eager", help="eager or compiled (default: eager)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], metavar="N")
    parser.add_argument("--seconds", type=float, default=4.0, help="speech of each stream (default: 4)")
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[list[object]] = []
    try:
        generator = duologue.load(arguments.model, quantize=arguments.quantize, backend=arguments.backend)
        measure_load(generator, 1, seconds=1.0)
        one_s = None
        for count in arguments.streams:
            load = measure_load(generator, count, seconds=arguments.seconds)
            one_s = one_s or load.aggregate / count
            rows.append(
                [
                    count,
                    load.aggregate,
                    load.aggregate / one_s,
                    load.real_time_factor,
                    1000 * min(load.first_s),
                    1000 * max(load.first_s),
                    load.underruns,
                ]
            )
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = [
        "streams",
        "audio s/s",
        "of one",
        "real-time factor of each",
        "first audio, first, ms",
        "last",
        "underruns",
    ]
    title = f"Throughput of {arguments.model}, quantize={arguments.quantize}, {arguments.backend}"
    finish([*header(title, arguments.threads), *table(columns, rows)], arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
