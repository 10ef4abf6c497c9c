"""How many listeners one engine serves: streams that begin at the same moment, through the scheduler.

`python -m benchmarks.throughput --quantize int8`. Every number of streams is measured in each round; figures are the
middle of the rounds', and so is the gain over one stream in the same round (over its share, where the first number is
more). An underrun is a chunk that came after a player that began with the stream's first chunk would have needed it.
"""

from __future__ import annotations

import argparse
import statistics
import sys

import torch

import duologue
from benchmarks.reporting import add_options, finish, header, table
from duologue.engine.bench import Load, measure_load
from duologue.errors import DuologueError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--model", default="parlor", help="what speaks (default: the bundled model)")
    parser.add_argument("--quantize", help="int8 (default: as it is)")
    parser.add_argument("--backend", default="eager", help="eager or compiled (default: eager)")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], metavar="N")
    parser.add_argument("--seconds", type=float, default=4.0, help="speech of each stream (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="how often, in turns (default: 3)")
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        generator = duologue.load(arguments.model, quantize=arguments.quantize, backend=arguments.backend)
        measure_load(generator, 1, seconds=1.0)
        rounds = [
            [measure_load(generator, count, seconds=arguments.seconds) for count in arguments.streams]
            for _ in range(arguments.rounds)
        ]
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
    rows = [_row(place, rounds) for place in range(len(arguments.streams))]
    title = f"Throughput of {arguments.model}, quantize={arguments.quantize}, {arguments.backend}"
    finish([*header(title, arguments.threads), *table(columns, rows)], arguments.out)
    return 0


def _row(place: int, rounds: list[list[Load]]) -> list[object]:
    loads = [loads[place] for loads in rounds]
    return [
        loads[0].num_streams,
        statistics.median(load.aggregate for load in loads),
        statistics.median(loads[place].aggregate / (loads[0].aggregate / loads[0].num_streams) for loads in rounds),
        statistics.median(load.real_time_factor for load in loads),
        1000 * statistics.median(min(load.first_s) for load in loads),
        1000 * statistics.median(max(load.first_s) for load in loads),
        statistics.median(load.underruns for load in loads),
    ]


if __name__ == "__main__":
    sys.exit(main())
