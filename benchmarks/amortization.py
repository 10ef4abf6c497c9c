"""What compute amortization saves and what it costs: the depth decoder on all, 1/4, 1/16 or 1/64 of the frames.

`python -m benchmarks.amortization --data FOLDER` trains the same model from the same weights on the same batches once
for each share, and prints seconds a step, memory, and held-out losses (the depth decoder then sees every frame). The
first table is of csm-1b's shape: bytes that a forward pass keeps for the backward pass, counted without computing
anything. On a GPU a second one gives seconds and memory of real steps at that shape. FOLDER is what `duologue prepare`
wrote with the bundled model's codec.

The claim (Sesame, "Crossing the uncanny valley of conversational voice", 2025): 1/16 costs no audible quality.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import duologue
from duologue.checkpoints import load_checkpoint
from duologue.config import CSM_PRESETS, CSMConfig
from duologue.data.conversations import SequenceSampler
from duologue.data.shards import TurnStore, first_codebooks
from duologue.engine.load import bundled_model, find_device
from duologue.engine.machine import processor_name
from duologue.engine.voices import codec_fingerprint
from duologue.errors import DuologueError
from duologue.frames import RowBatch
from duologue.model.csm import CSM
from duologue.model.loss import csm_loss
from duologue.train.csm import CSMTrainConfig, train_csm, validation_losses
from duologue.train.loop import LoopConfig

SHARES = (1.0, 1 / 4, 1 / 16, 1 / 64)
_HELD_OUT_EVERY = 20
_VALIDATION_BATCHES = 8
_LENGTHS = (96, 144, 208, 304)


@dataclass(frozen=True)
class Kept:
    """Bytes kept for the backward pass of a batch, by the part that keeps them."""

    backbone: int
    depth: int


def kept_bytes(config: CSMConfig, *, rows: int, share: float, dtype: torch.dtype) -> Kept:
    """Activations of one sequence of `rows` frames, counted on torch's meta device."""
    with torch.device("meta"):
        model = CSM(config).to(dtype)
        tokens = torch.zeros(1, rows, config.num_codebooks + 1, dtype=torch.int64)
        mask = torch.ones(1, rows, config.num_codebooks + 1, dtype=torch.bool)
        own = {id(parameter) for parameter in model.parameters()}
        count = max(1, round(rows * share))

        def of(work: Callable[[], Tensor]) -> tuple[int, Tensor]:
            sizes: dict[int, int] = {}
            held = []  # so that no two have the same id

            def keep(tensor: Tensor) -> Tensor:
                base = tensor if tensor._base is None else tensor._base
                if id(base) not in own:
                    held.append(base)
                    sizes[id(base)] = base.numel() * base.element_size()
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
                result = work()
            return sum(sizes.values()), result

        backbone, hidden = of(lambda: model(tokens, mask))
        depth, _ = of(lambda: model.depth_logits(hidden[0, :count], tokens[0, :count, :-1]))
    return Kept(backbone, depth)


@dataclass(frozen=True)
class Measured:
    """A training step: median seconds, the most memory it took, and the part that any step needs.

    That part is weights, gradients and AdamW's moments. Bytes; 0 where the device does not count them.
    """

    seconds: float
    peak_bytes: int
    state_bytes: int


def measured_step(config: CSMConfig, *, rows: int, share: float, device: torch.device, repeats: int = 8) -> Measured:
    """Steps of AdamW on one sequence of `rows` random frames: float32 weights, bfloat16 products."""
    torch.manual_seed(0)
    with device:
        model = CSM(config)
        tokens = torch.randint(1, config.codebook_size, (1, rows, config.num_codebooks + 1))
        tokens[..., -1] = 0
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[..., -1] = False
        scored = torch.arange(rows)[None] > 0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    on_gpu = device.type == "cuda"
    seconds, state = [], 0
    for repeat in range(2 + repeats):
        if repeat == 2 and on_gpu:
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            state = torch.cuda.memory_allocated(device)
        started = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            hidden = model(tokens, mask)
            loss = csm_loss(model, tokens, mask, scored, depth_share=share, hidden=hidden).total(0.5)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)  # the gradients stay, and count as state
        if on_gpu:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated(device) if on_gpu else 0
    return Measured(statistics.median(seconds[2:]), peak, state)


def step_table(config: CSMConfig, shares: Sequence[float], rows: int, device: torch.device) -> str:
    """Measured steps of every share."""
    lines = ["| share | s a step | peak | of it weights, gradients, moments |", "|---|---|---|---|"]
    for share in shares:
        one = measured_step(config, rows=rows, share=share, device=device)
        sizes = (f"{size / 2**30:.2f} GiB" for size in (one.peak_bytes, one.state_bytes))
        lines.append(f"| {_fraction(share)} | {one.seconds:.3f} | {' | '.join(sizes)} |")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return "\n".join(lines)


def small_model(base: CSMConfig) -> CSMConfig:
    """The bundled model's shape at two thirds of its layers, so that four runs take an hour of two cores."""
    backbone = dataclasses.replace(base.backbone, num_layers=max(1, base.backbone.num_layers * 2 // 3))
    return dataclasses.replace(base, backbone=backbone)


def train_share(
    share: float, data: Path, folder: Path, steps: int, rows: int, threads: int, evaluations: int = 10
) -> dict[str, Any]:
    """One run in a process of its own: `step_s`, `peak_mb`, and the held-out losses so many times."""
    torch.set_num_threads(threads)
    base = load_checkpoint(bundled_model())
    store = TurnStore(data, fingerprint=codec_fingerprint(base.codec))
    conversations = first_codebooks(store.conversations, base.model.num_codebooks)

    def encode(text: str, speaker: int) -> list[int]:
        return base.tokenizer.encode(text, speaker)

    def sampler(held_out: bool) -> SequenceSampler:
        chosen = [c for i, c in enumerate(conversations) if (i % _HELD_OUT_EVERY == 0) == held_out]
        return SequenceSampler(chosen, encode, batch_rows=rows, lengths=_LENGTHS, seed=0)

    draw, draw_held_out = sampler(False), sampler(True)
    device = find_device("auto")
    validation = [draw_held_out(index).to(device) for index in range(_VALIDATION_BATCHES)]
    loop = LoopConfig(
        num_steps=steps,
        learning_rate=2e-3,
        muon_learning_rate=4e-3,
        weight_decay=0.1,
        warmup_steps=50,
        autocast="auto",
        ema_decay=0.99,
        log_every=10,
        save_every=steps,
        evaluate_every=max(1, steps // evaluations),
    )
    config = CSMTrainConfig(
        model=small_model(base.model.config),
        loop=loop,
        depth_share=share,
        dropout=0.1,
        history_masking=0.2,
        alignment_weight=0.3,
        alignment_until=0.35,
    )
    ticks: list[float] = []

    def batches(index: int, progress: float) -> RowBatch:
        ticks.append(time.perf_counter())
        return draw(index)

    train_csm(
        config,
        batches,
        folder,
        codebooks=base.codec.codebook_vectors(),
        evaluate=lambda model, step: validation_losses(model, validation),
        device=device,
        quiet=True,
    )
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    curve = [
        (entry["step"], entry["elapsed_s"], entry["eval_codebook0"], entry["eval_depth"])
        for entry in log
        if "eval_depth" in entry
    ]
    gaps = [after - before for before, after in pairwise(ticks)]
    return {"share": share, "step_s": statistics.median(gaps), "peak_mb": peak, "curve": curve}


def shape_table(shares: Sequence[float], rows: int) -> str:
    """The memory of csm-1b's shape."""
    config = CSM_PRESETS["csm-1b"]
    lines = ["| share | depth decoder keeps | backbone keeps |", "|---|---|---|"]
    for share in shares:
        kept = kept_bytes(config, rows=rows, share=share, dtype=torch.bfloat16)
        lines.append(f"| {_fraction(share)} | {kept.depth / 2**30:.2f} GiB | {kept.backbone / 2**30:.2f} GiB |")
    return "\n".join(lines)


def run_table(results: Sequence[dict[str, Any]]) -> str:
    """Steps, memory and the last losses of all runs."""
    lines = ["| share | s a step | peak MB | codebook 0, nats | depth, nats |", "|---|---|---|---|---|"]
    for one in results:
        _, _, codebook0, depth = one["curve"][-1]
        cells = (_fraction(one["share"]), f"{one['step_s']:.2f}", f"{one['peak_mb']:.0f}")
        lines.append(f"| {' | '.join(cells)} | {codebook0:.3f} | {depth:.3f} |")
    return "\n".join(lines)


def draw_curves(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Held-out losses against steps and against time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for one in results:
        steps, seconds, codebook0, depth = zip(*one["curve"], strict=True)
        minutes = [value / 60 for value in seconds]
        for row, losses in zip(axes, (codebook0, depth), strict=True):
            for cell, places in zip(row, (steps, minutes), strict=True):
                cell.plot(places, losses, marker=".", label=_fraction(one["share"]))
    for row, name in zip(axes, ("codebook 0", "depth decoder"), strict=True):
        for cell, unit in zip(row, ("steps", "minutes"), strict=True):
            cell.set_xlabel(unit)
            cell.set_ylabel(f"{name}, nats")
            cell.legend(title="share")
    figure.savefig(path, dpi=100)


def _fraction(share: float) -> str:
    return "1" if share == 1 else f"1/{round(1 / share)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.amortization", description=__doc__)
    parser.add_argument("--data", type=Path, help="a folder of duologue prepare (without: csm-1b's memory alone)")
    parser.add_argument("--work", type=Path, default=Path("runs/amortization"), help="where the runs go")
    parser.add_argument("--out", type=Path, help="a .md file for the tables; the plot goes beside it")
    parser.add_argument("--steps", type=int, default=600, help="steps of each run (default: 600)")
    parser.add_argument("--evaluations", type=int, default=10, help="held-out losses of each run (default: 10)")
    parser.add_argument("--rows", type=int, default=2400, help="rows a batch (default: 2400)")
    parser.add_argument("--shape-rows", type=int, default=2048, help="frames of csm-1b's sequence (default: 2048)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    text = [
        f"{device}, {arguments.threads} threads, torch {torch.__version__}, duologue {duologue.__version__}",
        f"csm-1b's shape in bfloat16, one sequence of {arguments.shape_rows} frames",
        shape_table(SHARES, arguments.shape_rows),
    ]
    if find_device("auto").type == "cuda":
        table = step_table(CSM_PRESETS["csm-1b"], SHARES, arguments.shape_rows, find_device("auto"))
        text += ["steps at that shape: AdamW, float32 weights, bfloat16 products", table]
    try:
        if arguments.data is not None:
            results = []
            for share in SHARES:
                folder = arguments.work / _fraction(share).replace("/", "-")
                # In a process of its own, whose peak of memory is that of this run.
                with get_context("spawn").Pool(1) as pool:
                    options = (
                        share,
                        arguments.data,
                        folder,
                        arguments.steps,
                        arguments.rows,
                        arguments.threads,
                        arguments.evaluations,
                    )
                    results.append(pool.apply(train_share, options))
                print(json.dumps(results[-1]), file=sys.stderr, flush=True)
            text += [f"trained from scratch, {arguments.steps} steps of {arguments.rows} rows", run_table(results)]
            if arguments.out is not None:
                draw_curves(results, arguments.out.with_suffix(".png"))
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    page = "\n\n".join(text) + "\n"
    print(page)
    if arguments.out is not None:
        arguments.out.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
