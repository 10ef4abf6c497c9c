"""The steps of the recipe, each a function of the work folder that the ones before it filled."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from duologue.checkpoints import load_codec, save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.data.corpus import PcmStore
from duologue.data.crops import CropSampler
from duologue.data.prefetch import Prefetched
from duologue.data.teacher import feature_statistics
from duologue.errors import TrainingError
from duologue.train.board import Board
from duologue.train.codec import BatchFunction, CodecBatch, CodecTrainConfig, start_codebooks, train_codec
from duologue.train.distributed import World
from duologue.train.semantic import SemanticTeacher, find_units
from recipes.parlor_codec.configs import CodecPlan
from recipes.parlor_codec.listening import Listener
from recipes.work import Report, Work

ModuleType = TypeVar("ModuleType", bound=nn.Module)
TEACHER_FILE = "teacher.safetensors"
UNITS_FROM_EVERY = 3
UNIT_POINTS = 100_000
# The corpus is mostly one voice shifted; these shares, by folder, let every voice be heard.
FOLDER_WEIGHTS = {"train": 3.0, "kathleen": 1.5, "train_joe": 0.4}


def make_codec(
    work: Work,
    plan: CodecPlan,
    store: PcmStore,
    features: Path | None,
    *,
    continue_from: Path | None = None,
    listener: Listener | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    world: World | None = None,
    is_watched: bool = False,
    compiled: bool = False,
    report: Report = print,
) -> Mimi:
    """Steps `latent`, `codes` and `decoder`: trains, or resumes; gives the finished codec as it is shipped, in `model`.

    Without `features` the semantic codebook is one more acoustic one. `continue_from` holds a codec to start from, with
    its teacher where there are `features` (see `read_teacher`). `listener` measures round trips on the way; with
    `is_watched` each run writes for TensorBoard. The runs take place on `device`, and `workers` processes prepare their
    batches. `compiled` runs are faster after a minute or two.
    """
    finished = work.path("model")
    if (finished / "config.json").exists():
        return load_codec(finished)
    world = world or World()
    codec = None if continue_from is None else load_codec(continue_from)
    teacher = None
    if features is not None and continue_from is not None:
        teacher = read_teacher(continue_from / TEACHER_FILE)
    elif features is not None:
        units = work_units(work.path("units.npy"), features, plan.latent.model.codebook_size)
        teacher = SemanticTeacher(units, plan.latent.model.codebook_dim)
    for number, (name, config) in enumerate(plan.runs().items()):
        folder = work.path(name)
        seed = config.loop.seed + 1000 * number + world.rank
        if config.learn == "decoder":
            assert codec is not None
            codec = quantized(work, plan, codec, store, features, device=device, world=world, report=report)
        if (folder / "model" / "config.json").exists():
            codec = load_codec(folder / "model")
            if teacher is not None and config.learn == "all":
                teacher = read_teacher(folder / TEACHER_FILE)
            continue
        board = Board(folder / "board") if is_watched and world.is_first else None
        codec = train_codec(
            config,
            batches(plan, config, store, features, seed=seed, workers=workers),
            folder,
            initial=codec,
            teacher=teacher,
            evaluate=None if listener is None else listener.of_run(config, board),
            device=device,
            world=world,
            board=board,
            compiled=compiled,
        )
        if world.is_first:
            if teacher is not None and config.learn == "all":
                save_file(teacher.state_dict(), folder / TEACHER_FILE)
            save_checkpoint(folder / "model", "native", codec=codec)
        world.wait()
        report(f"{name}: trained")
    assert codec is not None
    if world.is_first:
        save_checkpoint(finished, "native", codec=rounded_codec(codec))
        if teacher is not None:
            save_file(teacher.state_dict(), finished / TEACHER_FILE)
    world.wait()
    return load_codec(finished)


def quantized(
    work: Work,
    plan: CodecPlan,
    latent: Mimi,
    store: PcmStore,
    features: Path | None,
    *,
    device: torch.device | str,
    world: World,
    report: Report,
) -> Mimi:
    """Step `codes`: codebooks for a trained latent, by k-means. The first process makes them, for all."""
    folder = work.path("codes") / "model"
    if world.is_first and not (folder / "config.json").exists():
        report(f"codes: k-means of {plan.kmeans_points} latents")
        draw = batches(plan, plan.decoder, store, None, seed=plan.decoder.loop.seed + 500)
        codec = deepcopy(latent).to(device)
        start_codebooks(
            codec,
            lambda index: draw(index).to(device),
            plan.kmeans_points,
            seed=plan.decoder.loop.seed,
            with_semantic=features is None,
        )
        save_checkpoint(folder, "native", codec=codec.cpu())
        report("codes: codebooks found")
    world.wait()
    return load_codec(folder)


def read_teacher(path: Path) -> SemanticTeacher:
    """The teacher that a codec was trained with. Raises `TrainingError` where there is none."""
    if not path.exists():
        raise TrainingError(
            f"no {path.name} beside the codec in {path.parent}: give a finished `model`, or train without features"
        )
    state = load_file(path)
    teacher = SemanticTeacher(state["centres"], state["vectors"].shape[1])
    teacher.load_state_dict(state)
    return teacher


def batches(
    plan: CodecPlan,
    config: CodecTrainConfig,
    store: PcmStore,
    features: Path | None,
    *,
    seed: int,
    workers: int = 0,
) -> BatchFunction:
    """Random crops of a run, with the recogniser's features where the run learns from them.

    They are cut in this process, or by `workers` others ahead of time.
    """
    listens = features is not None and config.learn == "all"
    draw = CropSampler(
        store,
        frame_size=config.model.frame_size,
        num_frames=plan.crop_frames,
        batch_size=plan.crops_per_batch,
        seed=seed,
        weights=[FOLDER_WEIGHTS.get(Path(name).parent.name, 1.0) for name in store.names],
        features=features if listens else None,
        feature_statistics=feature_statistics(features) if features is not None and listens else None,
        shifted=plan.shifted,
    )
    prefetched = Prefetched(draw, workers)
    return lambda index: CodecBatch(*prefetched(index))


def work_units(path: Path, features: Path, count: int, *, seed: int = 0) -> Tensor:
    """The units of the recogniser's features `[count, F]`, standardized as the crops are; kept in `path`."""
    if path.exists():
        return torch.from_numpy(np.load(path))
    mean, deviation = feature_statistics(features)
    chosen = sorted(features.glob("*.npy"))[::UNITS_FROM_EVERY]
    points = (np.concatenate([np.load(file) for file in chosen]).astype(np.float32) - mean) / deviation
    order = np.random.default_rng(seed).permutation(len(points))[:UNIT_POINTS]
    units = find_units(torch.from_numpy(points[order]), count, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, units.numpy())
    return units


def rounded(module: ModuleType) -> ModuleType:
    """A copy whose parameters are bfloat16; buffers, the codebooks among them, keep their precision."""
    copy = deepcopy(module)
    for parameter in copy.parameters():
        parameter.data = parameter.data.bfloat16()
    return copy


@torch.no_grad()
def rounded_codec(codec: Mimi) -> Mimi:
    """A copy in bfloat16 whose codebooks are vectors, each with a usage of one, instead of running sums in float32."""
    shipped = rounded(codec)
    for stack in (shipped.quantizer.semantic, shipped.quantizer.acoustic):
        for codebook in stack:
            vectors = codebook.vectors.bfloat16()
            codebook.embedding_sum = vectors
            codebook.cluster_usage = torch.ones_like(codebook.cluster_usage, dtype=torch.bfloat16)
    return shipped
