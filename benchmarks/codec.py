"""Mimi at full size in four programs, on one file of random weights: ours, transformers', moshi's and rustymimi's.

`python -m benchmarks.codec` encodes and decodes a recording at once, and decodes and encodes it frame by frame, ours
also in chunks that grow, and with the compiled backend, which takes a C++ compiler.
Milliseconds a frame of 80 ms; each way is taken in turns, and the middle of several rounds counts: of the rounds'
times in the table, of the ratios within a round below it. transformers has no streaming decoder. rustymimi
(`pip install --no-deps rustymimi`) is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.reporting import add_options, finish, header, table
from duologue.checkpoints import load_codec, save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS
from duologue.engine.backends import find_backend
from duologue.engine.bench import bandwidth
from duologue.engine.layout import lay_out
from duologue.engine.native import load_operators
from duologue.engine.packed import pack_products
from duologue.engine.pages import large_pages
from duologue.engine.warming import warm_up_codec
from duologue.train.codec import initialise

CHUNK_FRAMES = 16
WAYS = ("encode", "decode", "streaming encode", "streaming decode")


@dataclass(frozen=True)
class Recording:
    """`pcm [1, 1, S]` and some codes `[1, K, T]` of the same length."""

    pcm: Tensor
    codes: Tensor

    @property
    def num_frames(self) -> int:
        return self.codes.shape[-1]


Work = Callable[[Recording], object]


def ours(codec: Mimi) -> dict[str, Work]:
    """Duologue's."""

    def encode(recording: Recording) -> None:
        state = codec.init_encoder_state(1)
        for piece in recording.pcm.split(codec.frame_size, dim=-1):
            codec.encode(piece, state)

    def decode(recording: Recording) -> None:
        state = codec.init_decoder_state(1)
        for piece in recording.codes.split(1, dim=-1):
            codec.decode(piece, state)

    return {
        "encode": lambda recording: codec.encode(recording.pcm),
        "decode": lambda recording: codec.decode(recording.codes),
        "streaming encode": encode,
        "streaming decode": decode,
    }


def ours_in_chunks(codec: Mimi) -> dict[str, Work]:
    """Duologue's with chunks that double up to `CHUNK_FRAMES`, as `Generator.stream` makes them where they may grow."""

    def decode(recording: Recording) -> None:
        state = codec.init_decoder_state(1)
        start, size = 0, 1
        while start < recording.num_frames:
            codec.decode(recording.codes[..., start : start + size], state)
            start, size = start + size, min(2 * size, CHUNK_FRAMES)

    return {"streaming decode": decode}


def ours_compiled(codec: Mimi, recording: Recording, num_frames: int) -> dict[str, Work]:
    """What duologue's compiled backend decodes a stream with, so many frames at a time.

    Fails where that is not the sound of the whole.
    """
    backend = find_backend("compiled")
    warm_up_codec(codec, backend)

    def decode(recording: Recording) -> Tensor:
        with torch.inference_mode(False):  # another kind of state would be compiled anew
            state = codec.init_decoder_state(1)
        pieces = [backend.decode_frames(codec, piece, state) for piece in recording.codes.split(num_frames, dim=-1)]
        return torch.cat(pieces, dim=-1)

    torch.testing.assert_close(decode(recording), codec.decode(recording.codes), atol=1e-5, rtol=1e-4)
    return {"streaming decode": decode}


def transformers_mimi(folder: Path, num_codebooks: int) -> dict[str, Work]:
    """transformers'."""
    import transformers

    theirs: Any = transformers.MimiModel.from_pretrained(folder)
    theirs = theirs.eval()
    return {
        "encode": lambda recording: theirs.encode(recording.pcm, num_quantizers=num_codebooks),
        "decode": lambda recording: theirs.decode(recording.codes),
    }


def moshi_mimi(path: Path, num_codebooks: int) -> dict[str, Work]:
    """moshi's."""
    from moshi.models import loaders

    theirs: Any = loaders.get_mimi(path, device="cpu", num_codebooks=num_codebooks)

    def encode(recording: Recording) -> None:
        with theirs.streaming(1):
            for piece in recording.pcm.split(theirs.frame_size, dim=-1):
                theirs.encode(piece)

    def decode(recording: Recording) -> None:
        with theirs.streaming(1):
            for piece in recording.codes.split(1, dim=-1):
                theirs.decode(piece)

    return {
        "encode": lambda recording: theirs.encode(recording.pcm),
        "decode": lambda recording: theirs.decode(recording.codes),
        "streaming encode": encode,
        "streaming decode": decode,
    }


def rusty_mimi(path: Path, num_codebooks: int) -> dict[str, Work]:
    """rustymimi's, which has threads of its own."""
    theirs: Any = importlib.import_module("rustymimi").Tokenizer(str(path), num_codebooks=num_codebooks)

    def encode(recording: Recording) -> None:
        theirs.reset()
        pcm = recording.pcm.numpy()
        for start in range(0, pcm.shape[-1], 1920):
            theirs.encode_step(np.ascontiguousarray(pcm[..., start : start + 1920]))

    def decode(recording: Recording) -> None:
        theirs.reset()
        codes = recording.codes.numpy().astype(np.uint32)
        for index in range(codes.shape[-1]):
            theirs.decode_step(np.ascontiguousarray(codes[..., index : index + 1]))

    return {
        "encode": lambda recording: theirs.encode(recording.pcm.numpy()),
        "decode": lambda recording: theirs.decode(recording.codes.numpy().astype(np.uint32)),
        "streaming encode": encode,
        "streaming decode": decode,
    }


@torch.inference_mode()
def measure(programs: dict[str, dict[str, Work]], recording: Recording, rounds: int) -> dict[tuple[str, str], Tensor]:
    """Milliseconds a frame `[rounds]` of every program and way, after a round that is not counted."""
    spent: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds + 1):
        for name, ways in programs.items():
            for way, work in ways.items():
                started = time.perf_counter()
                work(recording)
                seconds = time.perf_counter() - started
                spent.setdefault((name, way), []).append(1000 * seconds / recording.num_frames)
    return {key: torch.tensor(found[1:]) for key, found in spent.items()}


def compare(spent: dict[tuple[str, str], Tensor], programs: Sequence[str]) -> list[str]:
    """Ratios of the same round, the middle of the rounds'."""

    def ratio(slower: tuple[str, str], faster: tuple[str, str]) -> str:
        return f"{(spent[slower] / spent[faster]).quantile(0.5).item():.2f}"

    offline, streamed = ("duologue", "decode"), [name for name in programs if name.startswith("duologue")]
    lines = [f"{name}, streaming decode over offline decode: {ratio((name, WAYS[-1]), offline)}" for name in streamed]
    lines += [
        f"moshi over {name}, streaming decode: {ratio(('moshi', WAYS[-1]), (name, WAYS[-1]))}" for name in streamed
    ]
    for name in programs:
        if name not in streamed:
            shares = [f"{way} {ratio((name, way), ('duologue', way))}" for way in WAYS if (name, way) in spent]
            lines.append(f"{name} over duologue: {', '.join(shares)}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codec", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of the recording (default: 8)")
    parser.add_argument("--rounds", type=int, default=5, help="how often, in turns (default: 5)")
    parser.add_argument("--codebooks", type=int, default=32, help="codebooks in use (default: 32)")
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    count = arguments.codebooks
    torch.manual_seed(0)
    codec = Mimi(MIMI_PRESETS["mimi"])
    initialise(codec)
    for name, buffer in codec.named_buffers():
        if name.endswith("embedding_sum"):
            buffer.normal_()
    with tempfile.TemporaryDirectory() as folder:
        moshi = save_checkpoint(Path(folder) / "moshi", "moshi-mimi", codec=codec)
        plain = save_checkpoint(Path(folder) / "transformers", "transformers-mimi", codec=codec)
        (file,) = moshi.glob("*.safetensors")
        frames = max(1, round(arguments.seconds * codec.frame_rate))
        generator = torch.Generator().manual_seed(0)
        recording = Recording(
            0.1 * torch.randn(1, 1, frames * codec.frame_size, generator=generator),
            torch.randint(0, codec.config.codebook_size, (1, count, frames), generator=generator),
        )
        with large_pages():  # as duologue.load gives it for either backend
            mimi = pack_products(load_codec(moshi, num_codebooks=count).eval())
            laid_out = lay_out(load_codec(moshi, num_codebooks=count).eval(), by_output=load_operators())
        programs = {
            "duologue": ours(mimi),
            f"duologue, chunks of up to {CHUNK_FRAMES}": ours_in_chunks(mimi),
            "duologue, compiled": ours_compiled(laid_out, recording, 1),
            "duologue, compiled, two frames at once": ours_compiled(laid_out, recording, 2),
            "transformers": transformers_mimi(plain, count),
            "moshi": moshi_mimi(file, count),
        }
        if importlib.util.find_spec("rustymimi") is not None:
            programs["rustymimi"] = rusty_mimi(file, count)
        spent = measure(programs, recording, arguments.rounds)
    read = bandwidth()
    parts = (mimi.upsample, mimi.decoder_transformer, mimi.decoder)
    weights = sum(weight.nbytes for part in parts for weight in part.state_dict().values())
    rows = [
        [name, *(spent[name, way].quantile(0.5).item() if (name, way) in spent else "-" for way in WAYS)]
        for name in programs
    ]
    finish(
        [
            *header("Mimi at full size", arguments.threads, ["transformers", "moshi", "rustymimi"]),
            *table(["ms a frame", *WAYS], rows),
            *(f"- {line}" for line in compare(spent, list(programs))),
            "",
            f"Memory reads {read / 1e9:.1f} GB/s: the decoder's weights, {weights / 1e6:.0f} MB, read once a frame "
            f"take {1000 * weights / read:.1f} ms.",
        ],
        arguments.out,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
