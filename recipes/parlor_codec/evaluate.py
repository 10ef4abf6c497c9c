"""The trade-off table of a codec: what is left of recordings with 1, 2, 4, ... codebooks.

Prints word error rate (whisper-base), likeness of the voice to the original's (resemblyzer), DNSMOS, bitrate, and the
perplexity of every codebook over the recordings. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import tempfile
from collections.abc import Iterable, Sequence
from multiprocessing import get_context
from pathlib import Path

import torch

import duologue
from duologue.codec.mimi import Mimi
from duologue.errors import DuologueError, OptionError
from duologue.eval.instruments import Instruments
from duologue.train.codebooks import perplexity
from recipes.parlor_codec.listening import HELD_OUT, Ear, Heard, Line, gather, summary, through_codes

_AT_A_TIME = 8  # recordings


def counts_to_try(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})


def perplexities(heard: Sequence[Heard]) -> list[float]:
    """Of each codebook over all frames of the round trips."""
    codes = [torch.tensor(one.row.codes) for one in heard if one.row.codes]
    joined = torch.cat(codes, dim=1)  # [K, frames]
    return [perplexity(torch.bincount(row).float()) for row in joined]


class Listening:
    """A codec and the instruments of one process."""

    def __init__(self, codec: Mimi) -> None:
        self.codec = codec
        self._instruments = Instruments(Path(tempfile.gettempdir()), offline=True)

    def hear(self, lines: Sequence[Line], counts: Sequence[int]) -> list[list[Heard]]:
        """The lines as they are, then after a round trip with each number of codebooks."""
        ear = Ear(self._instruments, lines)
        return [ear.originals(), *(ear.after(through_codes(self.codec, count)) for count in counts)]


def hear_all(
    codec: str, own: Listening, lines: Sequence[Line], counts: Sequence[int], workers: int
) -> list[list[Heard]]:
    """`Listening.hear` over all lines, a few at a time, in `workers` processes; says on stderr how far it is."""
    groups = [(lines[start : start + _AT_A_TIME], counts) for start in range(0, len(lines), _AT_A_TIME)]
    heard: list[list[Heard]] = [[] for _ in range(1 + len(counts))]
    with contextlib.ExitStack() as stack:
        if workers > 1:
            pool = stack.enter_context(get_context("spawn").Pool(workers, _begin, (codec,)))
            found: Iterable[list[list[Heard]]] = pool.imap(_hear, groups)
        else:
            found = (own.hear(*group) for group in groups)
        for one in found:
            for together, part in zip(heard, one, strict=True):
                together += part
            print(f"{len(heard[0])} of {len(lines)} recordings", file=sys.stderr, flush=True)
    return heard


def _begin(codec: str) -> None:
    """In a worker: what it hears with."""
    global _listening
    torch.set_num_threads(1)
    _listening = Listening(duologue.load_codec(codec))


def _hear(group: tuple[Sequence[Line], Sequence[int]]) -> list[list[Heard]]:
    assert _listening is not None
    return _listening.hear(*group)


_listening: Listening | None = None


def table(codec: Mimi, heard: Sequence[Sequence[Heard]], counts: Sequence[int]) -> list[dict[str, object]]:
    """One entry for the originals, then one for each number of codebooks."""
    bits = math.log2(codec.config.codebook_size) * codec.frame_rate / 1000
    entries: list[dict[str, object]] = [{"codebooks": 0, "kbps": 0.0, **summary(heard[0])}]
    for count, own in zip(counts, heard[1:], strict=True):
        entry: dict[str, object] = {"codebooks": count, "kbps": bits * count, **summary(own)}
        if count == codec.num_codebooks:
            entry["perplexities"] = perplexities(own)
        entries.append(entry)
    return entries


def markdown(entries: Sequence[dict[str, object]]) -> str:
    """The table for docs."""
    lines = ["| codebooks | kbit/s | WER % | SIM | DNSMOS OVRL |", "|---|---|---|---|---|"]
    for entry in entries:
        name = entry["codebooks"] or "original"
        rate = f"{entry['kbps']:.2f}" if entry["codebooks"] else ""
        lines.append(f"| {name} | {rate} | {entry['wer']:.1f} | {entry['sim']:.2f} | {entry['ovrl']:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor_codec.evaluate", description=__doc__)
    parser.add_argument("--codec", default="parlor", help="a checkpoint with a codec (default: the bundled one)")
    parser.add_argument(
        "--recordings",
        nargs="+",
        metavar="FOLDER[#PATTERN]",
        default=HELD_OUT,
        help="recordings with a manifest*.jsonl, or another pattern after #",
    )
    parser.add_argument("--limit", type=int, help="only so many recordings of each folder (default: all)")
    parser.add_argument("--codebooks", type=int, nargs="+", help="how many to try (default: 1, 2, 4, ... all)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that listen (default: 1)")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    try:
        codec = duologue.load_codec(arguments.codec)
        counts = arguments.codebooks or counts_to_try(codec.num_codebooks)
        if not all(1 <= count <= codec.num_codebooks for count in counts):
            raise OptionError(f"--codebooks must be 1 to {codec.num_codebooks}")
        own = Listening(codec)
        figures = {}
        for address in arguments.recordings:
            lines = gather([address], limit=arguments.limit)
            entries = table(codec, hear_all(arguments.codec, own, lines, counts, arguments.workers), counts)
            figures[address] = {"recordings": len(lines), "table": entries}
            print(f"{address}, {len(lines)} recordings\n\n{markdown(entries)}\n")
            found = entries[-1].get("perplexities")
            if isinstance(found, list):
                print("perplexities: " + ", ".join(f"{value:.0f}" for value in found) + "\n")
        if arguments.out is not None:
            arguments.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
