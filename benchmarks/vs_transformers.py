"""Frames a second beside transformers, at csm-1b's full shape, with the same random weights and the same greedy frames.

`python -m benchmarks.vs_transformers` needs about 22 GB of memory and 8 GB of disk. Prompts are text alone; a frame's
time is that of many frames after the first ones. In float32 both have to say the same frames.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.reporting import add_options, finish, header, table
from duologue.checkpoints import load_checkpoint
from duologue.config import CSM_PRESETS
from duologue.engine.backends import EAGER, Backend, find_backend
from duologue.engine.batch import FrameBatch, FrameRequest
from duologue.engine.bench import bandwidth, frame_bytes
from duologue.engine.compiling import compiling
from duologue.engine.layout import lay_out
from duologue.engine.native import load_operators
from duologue.engine.pages import large_pages
from duologue.engine.quantization import Int8CSM
from duologue.engine.sampling import SamplingOptions
from duologue.errors import DuologueError
from duologue.eval import memory
from duologue.frames import text_rows
from duologue.model.csm import CSM
from duologue.text import build_symbol_tokenizer

THEIRS, OURS = "transformers, float32", "duologue, float32"
_WARM_FRAMES = 3


def build_theirs(layers: int | None) -> Any:
    """transformers' model of csm-1b's shape, weights as it initializes them; fewer `layers` for a quick look."""
    import transformers

    torch.manual_seed(0)
    options: dict[str, Any] = {} if layers is None else {"num_hidden_layers": layers}
    config = transformers.CsmConfig(text_vocab_size=CSM_PRESETS["csm-1b"].text_vocab_size, **options)
    theirs: Any = transformers.CsmForConditionalGeneration(config)
    return theirs.eval()


@torch.inference_mode()
def their_frames(theirs: Any, ids: Tensor, count: int) -> tuple[Tensor, float]:
    """Greedy frames `[count, K]` and the seconds of all after the first."""

    def generate(frames: int) -> tuple[Tensor, float]:
        started = time.perf_counter()
        made = theirs.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=frames,
            do_sample=False,
            depth_decoder_do_sample=False,
        )
        return made, time.perf_counter() - started

    _, begun = generate(_WARM_FRAMES)
    made, total = generate(_WARM_FRAMES + count)
    return made[0, -(_WARM_FRAMES + count) :], total - begun


@torch.inference_mode()
def our_frames(model: CSM, ids: Tensor, count: int, backend: Backend = EAGER) -> tuple[Tensor, float]:
    """Greedy frames `[count, K]` and the seconds of all after the first."""
    rows = text_rows(ids[0].tolist(), model.num_codebooks)
    total = _WARM_FRAMES + count
    request = FrameRequest(rows, SamplingOptions(0.0, 1, 0, guidance=1.0), total)
    batch, speaking = FrameBatch.alone(model, request, backend)
    with nullcontext() if backend is EAGER else compiling(long_loops=False):
        for _ in range(_WARM_FRAMES):
            batch.step()
    started = time.perf_counter()
    for _ in range(count):
        batch.step()
    seconds = time.perf_counter() - started
    return torch.stack(speaking.frames), seconds


def exact_frames(model: CSM, ids: Tensor, count: int, backend: str) -> tuple[Tensor, float]:
    """`our_frames` in float32: one model for both backends, laid out anew, for two are more than fits."""
    with large_pages():
        lay_out(model, by_output=_is_native(backend))
    return our_frames(model, ids, count, find_backend(backend))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vs_transformers", description=__doc__)
    parser.add_argument("--frames", type=int, default=12, help="frames that are timed (default: 12)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="how often, in turns; the middle ratio counts (default: 3)"
    )
    parser.add_argument("--layers", type=int, help="of the backbone (default: csm-1b's 16)")
    parser.add_argument("--bfloat16", action="store_true", help="time it in bfloat16 too")
    parser.add_argument(
        "--compiled", action="store_true", help="time ours compiled too, which takes a C++ compiler and minutes"
    )
    add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        lines = compare(arguments)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    title = "csm-1b's shape beside transformers"
    finish([*header(title, arguments.threads, ["transformers"]), *lines], arguments.out)
    return 0


def compare(arguments: argparse.Namespace) -> list[str]:
    """All models in turns, so that a slow minute is everybody's; the ratios are those of a round, the middle ones."""
    theirs = build_theirs(arguments.layers)
    backends = ("eager", "compiled")[: 1 + arguments.compiled]
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        # Nothing is read in words here; any tokenizer will do.
        build_symbol_tokenizer("a").save(str(Path(folder) / "tokenizer.json"))
        peaks = {  # first, while there is room for another process
            backend: peak_of(Path(folder), backend, arguments.frames) for backend in backends
        }
        # Those in eight bits first, while there is room for what they are made of.
        packed = [load_ours(Path(folder), backend, quantize=True) for backend in backends]
        ours = load_ours(Path(folder), "eager", quantize=False)
    ids = _prompt()
    read, num_bytes, count = bandwidth(), frame_bytes(ours, 1.0), arguments.frames
    runs = {
        THEIRS: partial(their_frames, theirs, ids, count),
    }
    for backend, small in zip(backends, packed, strict=True):
        name = "" if backend == "eager" else f", {backend}"
        runs[f"{OURS}{name}"] = partial(exact_frames, ours, ids, count, backend)
        runs[f"duologue, int8{name}"] = partial(our_frames, small, ids, count, find_backend(backend))
    made, seconds = in_turns(runs, arguments.rounds, count)
    is_same = all(torch.equal(made[name], made[THEIRS].to(made[name])) for name in made if "float32" in name)
    if arguments.bfloat16:
        exact = {name: run for name, run in runs.items() if name in (THEIRS, OURS)}
        theirs.bfloat16()
        ours.bfloat16()
        halves = {name.replace("float32", "bfloat16"): run for name, run in exact.items()}
        seconds |= in_turns(halves, arguments.rounds, count)[1]
    rows = [
        [
            name,
            1000 * statistics.median(taken),
            1000 * min(taken),
            statistics.median(whole / part for whole, part in zip(seconds[THEIRS], taken, strict=True)),
            1000 * num_bytes * _width(name) / read,
        ]
        for name, taken in seconds.items()
    ]
    columns = ["", "ms a frame", "best", "times transformers' float32", "limit, ms"]
    return [
        *table(columns, rows),
        f"Middle values of {arguments.rounds} rounds, a ratio being that of a round. The greedy frames in float32 are "
        f"{'the same' if is_same else 'NOT the same'}. The limit is the weights that a frame reads over "
        f"{read / 1e9:.1f} GB/s, the memory's measured bandwidth.",
        *(
            f"While speaking in int8, {backend}, a process of its own holds at most {peak:.0f} MB (without a codec)."
            for backend, peak in peaks.items()
            if peak is not None
        ),
    ]


def load_ours(folder: Path, backend: str, *, quantize: bool) -> CSM:
    """The checkpoint as `duologue.load` prepares it, without a codec."""
    native = _is_native(backend)
    with large_pages():
        model = load_checkpoint(folder).model.eval()
        model = Int8CSM(model, native=native) if quantize else lay_out(model, by_output=native)
        gc.collect()
        return model


def peak_of(folder: Path, backend: str, count: int) -> float | None:
    """MB of 10^6 bytes that a new process holds at most while it speaks in int8, loaded and compiled before."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_speak_in_eight_bits, folder, backend, count).result()


def _speak_in_eight_bits(folder: Path, backend: str, count: int) -> float | None:
    packed, ids = load_ours(folder, backend, quantize=True), _prompt()
    our_frames(packed, ids, count, find_backend(backend))
    memory.reset_peak()
    our_frames(packed, ids, count, find_backend(backend))
    return memory.peak_mb()


def _is_native(backend: str) -> bool:
    return backend == "compiled" and load_operators()


def _prompt() -> Tensor:
    return torch.randint(10, 70, (1, 24), generator=torch.Generator().manual_seed(0))


def in_turns(
    runs: Mapping[str, Callable[[], tuple[Tensor, float]]], rounds: int, count: int
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """The frames of each, and the seconds that one of `count` frames took in each round."""
    made: dict[str, Tensor] = {}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            made[name], total = run()
            seconds[name].append(total / count)
            print(f"{name}: {1000 * total / count:.0f} ms a frame", file=sys.stderr, flush=True)
    return made, seconds


def _width(name: str) -> float:
    """Bytes of a weight."""
    return {"int8": 1.0, "bfloat16": 2.0, "float32": 4.0}[name.split(", ")[1]]


if __name__ == "__main__":
    sys.exit(main())
