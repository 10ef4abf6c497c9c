"""What a codec costs beside Mimi at its full size: encoding and decoding, offline and frame by frame, in one run.

`python -m benchmarks.codec_cost --codec parlor`. Mimi has random weights: its cost is that of its shape. Both are laid
out and steadied as `duologue.load_codec` does it (Mimi then is in float32 throughout, a decoder of harmonics in
float64) and run through the same code in turns, so that the machine's moods fall on both alike; figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import duologue
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS, MimiConfig
from duologue.engine.machine import processor_name
from duologue.engine.packed import pack_products
from duologue.errors import DuologueError


@dataclass(frozen=True)
class Cost:
    """Seconds of computing for the same recording."""

    encode_s: float
    decode_s: float
    streaming_encode_s: float
    streaming_decode_s: float

    @property
    def offline_s(self) -> float:
        """Encoding and decoding at once."""
        return self.encode_s + self.decode_s

    @property
    def streaming_s(self) -> float:
        """Encoding and decoding frame by frame."""
        return self.streaming_encode_s + self.streaming_decode_s


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def stream_encode(codec: Mimi, pcm: Tensor) -> None:
    """Every frame through one state."""
    state = codec.init_encoder_state(1)
    for piece in pcm.split(codec.frame_size, dim=-1):
        codec.encode(piece, state)


def stream_decode(codec: Mimi, codes: Tensor) -> None:
    """Every frame through one state."""
    state = codec.init_decoder_state(1)
    for piece in codes.split(1, dim=-1):
        codec.decode(piece, state)


def one_round(codec: Mimi, pcm: Tensor) -> Cost:
    """All four ways once."""
    codes = codec.encode(pcm[..., : codec.frame_size]).expand(-1, -1, pcm.shape[-1] // codec.frame_size)
    return Cost(
        timed(lambda: codec.encode(pcm)),
        timed(lambda: codec.decode(codes)),
        timed(lambda: stream_encode(codec, pcm)),
        timed(lambda: stream_decode(codec, codes)),
    )


def as_loaded(config: MimiConfig) -> Mimi:
    """A codec of that shape with random weights, in the form in which `duologue.load_codec` gives one."""
    torch.manual_seed(0)
    return pack_products(Mimi(config).eval().steadied())


@torch.inference_mode()
def compare(first: Mimi, second: Mimi, *, frames: int, rounds: int) -> tuple[Cost, Cost]:
    """Medians of both over `rounds`, in turns, after one that is not counted."""
    pcm = 0.1 * torch.randn(1, 1, frames * first.frame_size, generator=torch.Generator().manual_seed(0))
    costs: tuple[list[Cost], list[Cost]] = ([], [])
    for number in range(rounds + 1):
        for codec, found in zip((first, second), costs, strict=True):
            cost = one_round(codec, pcm)
            if number:
                found.append(cost)
    ours, theirs = ([list(vars(cost).values()) for cost in found] for found in costs)
    return (
        Cost(*(statistics.median(column) for column in zip(*ours, strict=True))),
        Cost(*(statistics.median(column) for column in zip(*theirs, strict=True))),
    )


def markdown(first: Cost, second: Cost, seconds: float) -> str:
    """The table, in real-time factors, and the ratios."""
    lines = ["| | the codec | Mimi's size | ratio |", "|---|---|---|---|"]
    for name in ("encode_s", "decode_s", "offline_s", "streaming_encode_s", "streaming_decode_s", "streaming_s"):
        ours, theirs = getattr(first, name), getattr(second, name)
        title = name.removesuffix("_s").replace("_", " ")
        lines.append(
            f"| {title}, real-time factor | {ours / seconds:.4f} | {theirs / seconds:.4f} | {ours / theirs:.3f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec_cost", description=__doc__)
    parser.add_argument("--codec", default="parlor", help="a checkpoint with a codec (default: the bundled one)")
    parser.add_argument("--seconds", type=float, default=10, help="length of the recording (default: 10)")
    parser.add_argument("--rounds", type=int, default=5, help="times each is measured (default: 5)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        codec = duologue.load_codec(arguments.codec)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    mimi = as_loaded(MIMI_PRESETS["mimi"])
    frames = max(1, round(arguments.seconds * codec.frame_rate))
    ours, theirs = compare(codec, mimi, frames=frames, rounds=arguments.rounds)
    print(f"{processor_name()}, {arguments.threads} threads, torch {torch.__version__}\n")
    print(markdown(ours, theirs, frames / codec.frame_rate))
    return 0


if __name__ == "__main__":
    sys.exit(main())
