"""Frames a second beside transformers, at csm-1b's full shape, with the same random weights and the same greedy frames.

`python -m benchmarks.vs_transformers` needs about 20 GB of memory and 8 GB of disk. Prompts are text alone; a frame's
time is that of many frames after the first ones. In float32 both have to say the same frames.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.reporting import add_options, finish, header, table
from duologue.checkpoints import load_checkpoint
from duologue.config import CSM_PRESETS
from duologue.engine.backends import EAGER, Backend, find_backend, weights_built_in
from duologue.engine.batch import FrameBatch, FrameRequest
from duologue.engine.bench import bandwidth, frame_bytes
from duologue.engine.layout import lay_out
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
    with weights_built_in(model):
        for _ in range(_WARM_FRAMES):
            batch.step()
    started = time.perf_counter()
    for _ in range(count):
        batch.step()
    seconds = time.perf_counter() - started
    return torch.stack(speaking.frames), seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vs_transformers", description=__doc__)
    parser.add_argument("--frames", type=int, default=12, help="frames that are timed (default: 12)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="how often, in turns; the best of each counts (default: 2)"
    )
    parser.add_argument("--layers", type=int, help="of the backbone (default: csm-1b's 16)")
    parser.add_argument("--bfloat16", action="store_true", help="time it in bfloat16 too")
    parser.add_argument("--compiled", action="store_true", help="time int8 compiled too, which takes a C++ compiler")
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
    """Both models in turns, in float32 and then ours in eight bits, so that a slow minute is everybody's."""
    theirs = build_theirs(arguments.layers)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        # Nothing is read in words here; any tokenizer will do.
        build_symbol_tokenizer("a").save(str(Path(folder) / "tokenizer.json"))
        with large_pages():
            ours = lay_out(load_checkpoint(Path(folder)).model.eval())
    ids = torch.randint(10, 70, (1, 24), generator=torch.Generator().manual_seed(0))
    read, num_bytes = bandwidth(), frame_bytes(ours, 1.0)
    best: dict[str, float] = {}

    def in_turns(runs: dict[str, Callable[[], tuple[Tensor, float]]]) -> dict[str, Tensor]:
        made = {}
        for _ in range(arguments.rounds):
            for name, run in runs.items():
                made[name], seconds = run()
                best[name] = min(best.get(name, math.inf), seconds / arguments.frames)
                print(f"{name}: {1000 * seconds / arguments.frames:.0f} ms a frame", file=sys.stderr, flush=True)
        return made

    count = arguments.frames
    exact = {THEIRS: lambda: their_frames(theirs, ids, count), OURS: lambda: our_frames(ours, ids, count)}
    made = in_turns(exact)
    is_same = torch.equal(made[OURS], made[THEIRS].to(made[OURS]))
    if arguments.bfloat16:
        weights = [(model, model.state_dict()) for model in (theirs, ours)]  # of float32, while the models have others
        for model, _ in weights:
            model.bfloat16()
        in_turns({name.replace("float32", "bfloat16"): run for name, run in exact.items()})
        for model, state in weights:
            model.float().load_state_dict(state)
        del weights, model, state
    with large_pages():
        packed = Int8CSM(ours)
        gc.collect()
    runs = {THEIRS: exact[THEIRS], "duologue, int8": lambda: our_frames(packed, ids, count)}
    if arguments.compiled:
        backend = find_backend("compiled")
        runs["duologue, int8, compiled"] = lambda: our_frames(packed, ids, count, backend)
    in_turns(runs)
    theirs = None  # its memory is not ours
    gc.collect()
    memory.reset_peak()
    our_frames(packed, ids, count)
    peak = memory.peak_mb()
    rows = [
        [name, 1000 * seconds, 1 / seconds, best[THEIRS] / seconds, 1000 * num_bytes * _width(name) / read]
        for name, seconds in best.items()
    ]
    columns = ["", "ms a frame", "frames/s", "of transformers' float32", "limit, ms"]
    return [
        *table(columns, rows),
        f"The greedy frames of both in float32 are {'the same' if is_same else 'NOT the same'}. The limit is the "
        f"weights that a frame reads over {read / 1e9:.1f} GB/s, the memory's measured bandwidth.",
        "" if peak is None else f"While speaking in int8 the process holds at most {peak:.0f} MB (without a codec).",
    ]


def _width(name: str) -> float:
    """Bytes of a weight."""
    return {"int8": 1.0, "bfloat16": 2.0, "float32": 4.0}[name.split(", ")[1]]


if __name__ == "__main__":
    sys.exit(main())
