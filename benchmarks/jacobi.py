"""Can the depth decoder's codes be found together instead of one by one? Passes of a Jacobi iteration, counted.

With the noise of a frame drawn first (Gumbel-max), its codes are a function of the hidden vector: code `i` is the best
of logits that the codes before it give, plus noise. All can be guessed and corrected together by the teacher-forced
decoder, until a pass changes nothing; that fixed point is what drawing one by one gives, after at most `K - 1` passes,
and each pass reads the weights once. It pays where it needs far fewer passes than there are codebooks.

`python -m benchmarks.jacobi --recordings FOLDER` counts on the model's own speech and on recordings that it reads.
Source of the idea: Song et al., "Accelerating Feedforward Computation via Parallel Nonlinear Equation Solving" (2021);
Santilli et al., "Accelerating Transformer Inference for Translation via Parallel Decoding" (2023).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import duologue
from benchmarks.reporting import add_options, finish, header, table
from duologue.audio import read_audio, resample
from duologue.engine.generator import Generator
from duologue.engine.sampling import DEFAULT_TOPK, draw_gumbel, sample
from duologue.engine.stopping import NO_POLICY
from duologue.errors import DuologueError, DuologueWarning
from duologue.frames import audio_rows
from duologue.model.csm import CSM

LINES = (
    "The train to the coast leaves a little later than usual.",
    "Did you remember to bring the tickets for tonight?",
    "I would rather stay at home and read a book, to be honest.",
)
GUESSES = ("frame before", "likeliest alone", "zeros")


@dataclass(frozen=True)
class Frames:
    """Hidden vectors `[N, D]`, codebook 0 of the frames that follow them `[N]`, and the frames before `[N, K]`."""

    hidden: Tensor
    first: Tensor
    before: Tensor


def drawn(logits: Tensor, noise: Tensor, temperature: float, num_valid: int) -> Tensor:
    """Codes `[N, K - 1]` from logits `[N, K - 1, V]` and noise of that shape."""
    flat = sample(logits.flatten(0, 1), noise.flatten(0, 1), temperature, DEFAULT_TOPK, num_valid)
    return flat.view(logits.shape[:2])


def one_by_one(model: CSM, frames: Frames, noise: Tensor, temperature: float) -> Tensor:
    """The codes `[N, K]` as the engine finds them: each after those before it."""
    codes = torch.zeros(len(frames.first), model.num_codebooks, dtype=torch.int64)
    codes[:, 0] = frames.first
    for index in range(1, model.num_codebooks):
        logits = model.depth_logits(frames.hidden, codes)
        codes[:, index] = drawn(logits, noise, temperature, model.config.codebook_size)[:, index - 1]
    return codes


def passes(model: CSM, frames: Frames, noise: Tensor, temperature: float, guess: str) -> tuple[Tensor, Tensor]:
    """The codes `[N, K]` of the iteration, and `[N]` after how many passes they were right."""
    codes = torch.zeros(len(frames.first), model.num_codebooks, dtype=torch.int64)
    codes[:, 0] = frames.first
    if guess == "frame before":
        codes[:, 1:] = frames.before[:, 1:]
    elif guess == "likeliest alone":
        codes[:, 1:] = model.depth_logits(frames.hidden, codes)[..., : model.config.codebook_size].argmax(dim=-1)
    used = torch.full((len(codes),), int(guess == "likeliest alone"))
    for number in range(1, model.num_codebooks):
        found = drawn(model.depth_logits(frames.hidden, codes), noise, temperature, model.config.codebook_size)
        changed = (found != codes[:, 1:]).any(dim=-1)
        used[changed] = number + int(guess == "likeliest alone")
        codes[:, 1:] = found
        if not bool(changed.any()):
            break
    return codes, used


@torch.inference_mode()
def frames_of(model: CSM, codes: Tensor) -> Frames:
    """What precedes each frame but the first of `codes [K, T]`, read as audio alone."""
    rows = audio_rows(codes, end=False)
    hidden = model(rows.tokens[None], rows.mask[None])[0, :-1]
    return Frames(hidden, codes[0, 1:], codes.T[:-1])


def spoken(generator: Generator, seed: int) -> Tensor:
    """Codes `[K, T]` of the model's own speech."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DuologueWarning)
        return torch.cat(
            [
                generator.speak(line, index, max_audio_length_ms=6000, seed=seed, stopping=NO_POLICY).codes
                for index, line in enumerate(LINES)
            ],
            dim=1,
        )


def recorded(generator: Generator, folder: Path, count: int) -> Tensor:
    """Codes `[K, T]` of the first recordings in a folder."""
    paths = sorted(path for path in folder.iterdir() if path.suffix in {".opus", ".wav", ".flac"})[:count]
    pcm = torch.cat([resample(*read_audio(path), generator.sample_rate) for path in paths])
    return generator.codec.encode(pcm[None, None], num_codebooks=generator.model.num_codebooks)[0]


@torch.inference_mode()
def count_passes(model: CSM, codes: Tensor, temperature: float) -> list[list[object]]:
    """A line of the table for every first guess."""
    frames = frames_of(model, codes)
    shape = (len(frames.first), model.num_codebooks - 1, model.config.audio_vocab_size)
    noise = draw_gumbel(torch.empty(shape), torch.Generator().manual_seed(0))
    expected = one_by_one(model, frames, noise, temperature)
    rows: list[list[object]] = []
    for guess in GUESSES:
        found, used = passes(model, frames, noise, temperature, guess)
        counts = sorted(used.tolist())
        exact = float((found == expected).all(dim=-1).float().mean())
        rows.append([guess, len(counts), statistics.mean(counts), counts[len(counts) // 2], counts[-1], exact])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.jacobi", description=__doc__)
    parser.add_argument("--model", default="parlor", help="what speaks (default: the bundled model)")
    parser.add_argument("--recordings", type=Path, help="a folder of recordings to read")
    parser.add_argument("--count", type=int, default=6, help="recordings (default: 6)")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 0.9])
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[list[object]] = []
    try:
        generator = duologue.load(arguments.model)
        sources = {"own speech": spoken(generator, seed=1)}
        if arguments.recordings is not None:
            sources["recordings"] = recorded(generator, arguments.recordings, arguments.count)
        for name, codes in sources.items():
            for temperature in arguments.temperatures:
                found = count_passes(generator.model, codes, temperature)
                rows += [[name, f"{temperature:g}", *row] for row in found]
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    columns = ["", "temperature", "first guess", "frames", "passes, mean", "median", "most", "exact"]
    title = f"Jacobi iteration of the depth decoder, {generator.model.num_codebooks} codebooks"
    lines = [
        *header(title, arguments.threads),
        *table(columns, rows),
        f"One by one takes {generator.model.num_codebooks - 1} passes of one position each. A pass that shows that "
        "nothing changes any more comes on top of those counted.",
    ]
    finish(lines, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
