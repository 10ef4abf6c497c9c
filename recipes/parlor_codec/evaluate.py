"""The trade-off table of a codec: what is left of recordings with 1, 2, 4, ... codebooks.

Prints word error rate (whisper-base), likeness of the voice to the original's (resemblyzer), DNSMOS, bitrate, and the
perplexity of every codebook over the recordings. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

import duologue
from duologue.codec.mimi import Mimi
from duologue.errors import DuologueError, OptionError
from duologue.eval.instruments import Instruments
from duologue.train.codebooks import perplexity
from recipes.parlor_codec.listening import HELD_OUT, Ear, Heard, gather, summary, through_codes


def counts_to_try(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})


def perplexities(heard: Sequence[Heard]) -> list[float]:
    """Of each codebook over all frames of the round trips."""
    codes = [torch.tensor(one.row.codes) for one in heard if one.row.codes]
    joined = torch.cat(codes, dim=1)  # [K, frames]
    return [perplexity(torch.bincount(row).float()) for row in joined]


def table(codec: Mimi, ear: Ear, counts: Sequence[int]) -> list[dict[str, object]]:
    """One entry for the originals, then one for each number of codebooks."""
    bits = math.log2(codec.config.codebook_size) * codec.frame_rate / 1000
    entries: list[dict[str, object]] = [{"codebooks": 0, "kbps": 0.0, **summary(ear.originals())}]
    for count in counts:
        heard = ear.after(through_codes(codec, count))
        entry: dict[str, object] = {"codebooks": count, "kbps": bits * count, **summary(heard)}
        if count == codec.num_codebooks:
            entry["perplexities"] = perplexities(heard)
        entries.append(entry)
        print(json.dumps(entry), file=sys.stderr, flush=True)
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
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    arguments = parser.parse_args()
    try:
        codec = duologue.load_codec(arguments.codec)
        counts = arguments.codebooks or counts_to_try(codec.num_codebooks)
        if not all(1 <= count <= codec.num_codebooks for count in counts):
            raise OptionError(f"--codebooks must be 1 to {codec.num_codebooks}")
        instruments = Instruments(Path(tempfile.gettempdir()), offline=True)
        figures = {}
        for address in arguments.recordings:
            lines = gather([address], limit=arguments.limit)
            entries = table(codec, Ear(instruments, lines), counts)
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
