"""Trains a CSM on row sequences: schedule, amortized loss, an early alignment term for small data.

Source: Sesame, "Crossing the uncanny valley of conversational voice" (2025), for the loss; see `alignment` for the
rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from duologue.config import CSMConfig, JsonConfig
from duologue.errors import TrainingError
from duologue.frames import RowBatch
from duologue.model.csm import CSM
from duologue.model.loss import csm_loss
from duologue.train.alignment import alignment_loss, probing
from duologue.train.board import Board
from duologue.train.distributed import World, whole
from duologue.train.loop import WEIGHT, LoopConfig, TrainingLoop, described, weights_digest
from duologue.train.lora import Adapters, LoraConfig


@dataclass(frozen=True)
class CSMTrainConfig(JsonConfig):
    """What is learned and how the terms are weighed.

    With `lora` adapters learn, and are merged in the end; without, everything does. `learn` says whether all turns of
    a sequence are learned or the `last` alone, the others being its context. `checkpointing` computes layers twice and
    keeps less of them in memory. `depth_share` of the frames go through the depth decoder, drawn afresh each step.
    `history_masking` is the share of audio rows that the backbone does not get to see, so that it reads the text
    instead of continuing what it knows by heart; `text_masking` the share of turns whose text it does not get to see,
    which teaches it the speech that guidance steers away from. The alignment term acts on one head of backbone layer
    `alignment_layer` and fades out linearly until progress `alignment_until`; a weight of 0 turns it off.
    """

    model: CSMConfig
    loop: LoopConfig
    lora: LoraConfig | None = None
    learn: Literal["all", "last"] = "all"
    checkpointing: bool = False
    depth_share: float = 1 / 16
    depth_weight: float = 0.5
    dropout: float = 0.0
    history_masking: float = 0.0
    text_masking: float = 0.0
    alignment_weight: float = 0.0
    alignment_layer: int = 2
    alignment_width: float = 0.1
    alignment_until: float = 0.5


def guided_text_masking(model: CSMConfig) -> float:
    """The `text_masking` that a model is tuned with: a guided one's speech without text has to change with the rest.

    Where it stays what it was, guidance steers away from the speech of before.
    """
    return 0.0 if model.guidance == 1 else 0.08


BatchFunction = Callable[[int, float], RowBatch]
# What a model knows of its codec's codes; the rest is about text and speech.
_OF_CODES = ("audio_embeddings.", "codebook0_head.", "audio_head")


def initialise(model: CSM) -> None:
    """Weights to start from: GPT-2's normal(0.02)-like scheme, scaled by width, residual outputs by depth."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5 if module is model.text_embeddings else 0.2)
    for transformer in (model.backbone, model.depth):
        scale = (2 * transformer.config.num_layers) ** -0.5
        with torch.no_grad():
            for name, parameter in transformer.named_parameters():
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    parameter.mul_(scale)
    with torch.no_grad():
        model.codebook0_head.weight.mul_(0.1)
        model.audio_head.mul_(0.1)


@torch.no_grad()
def embed_codebooks(model: CSM, codebooks: Sequence[Tensor], *, seed: int = 0) -> None:
    """Starts embeddings and heads of the codes from the codec's vectors, `codebooks[k] [V, C]`.

    Codes that sound alike then look alike from the first step, which is much where the data are few: the embedding is
    a random projection of the codec's vector, of the size that `initialise` gives, and so is the head's.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = model.audio_embeddings.weight.view(model.num_codebooks, model.config.audio_vocab_size, -1)
    for index, vectors in enumerate(codebooks[: model.num_codebooks]):
        centred = vectors.float() - vectors.float().mean(dim=0)
        spread = centred.square().mean().sqrt().clamp(min=1e-6) * vectors.shape[1] ** 0.5
        head = model.codebook0_head.weight if index == 0 else model.audio_head[index - 1].T  # [audio V, D]
        for target in (rows[index], head):
            projection = torch.randn(vectors.shape[1], target.shape[1], generator=generator)
            size = target.square().mean().sqrt()
            target[: len(vectors)] = (centred / spread) @ projection * size


def without_codes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CSM's weights less those that belong to its codec's codes: what is left suits a model over another codec."""
    return {name: value for name, value in state.items() if not name.startswith(_OF_CODES)}


def start_from(model: CSM, initial: dict[str, Tensor]) -> None:
    """Takes over `initial`, a whole model's weights or `without_codes`; what belongs to codes then stays as it is.

    Raises `TrainingError` for weights of another model.
    """
    own = model.state_dict()
    has_codes = len(without_codes(initial)) < len(initial)
    absent = [name for name in (own if has_codes else without_codes(own)) if name not in initial]
    foreign = [name for name in initial if name not in own or own[name].shape != initial[name].shape]
    if absent or foreign:
        named = f"{absent[0]} is absent" if absent else f"{foreign[0]} does not fit"
        raise TrainingError(f"the weights to start from are of another model ({named}): give one of the same shape")
    model.load_state_dict(initial, strict=False)


def hidden_matrices(model: CSM, *, prefix: str = "") -> list[str]:
    """Names of the matrices inside the transformers: those that suit Muon."""
    return [
        prefix + name
        for name, parameter in model.named_parameters()
        if parameter.dim() == 2 and name.startswith(("backbone.layers.", "depth.layers.", "projection."))
    ]


class CSMTraining(nn.Module):
    """The model and its losses as one module, whose forward pass a sharded run can follow."""

    def __init__(self, config: CSMTrainConfig, model: CSM) -> None:
        """`model` is trained in place."""
        super().__init__()
        self.config, self.model = config, model

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers of both transformers: what is sharded, and recomputed, piece by piece."""
        return [*self.model.backbone.layers, *self.model.depth.layers]

    def forward(self, batch: RowBatch, progress: float) -> dict[str, Tensor]:
        """The named losses of one batch; draws the depth decoder's frames from torch's global generator."""
        config, model = self.config, self.model
        fade = max(0.0, 1 - progress / max(config.alignment_until, 1e-9)) if config.alignment_weight else 0.0
        scored = batch.scored if config.learn == "all" else batch.scored & of_last_turn(batch.turn)
        mask = batch.mask & ~hidden_rows(config, batch)[..., None]
        with probing(model, config.alignment_layer) if fade else nullcontext() as probe:
            hidden = model(batch.tokens, mask)
        loss = csm_loss(model, batch.tokens, batch.mask, scored, depth_share=config.depth_share, hidden=hidden)
        losses = {"codebook0": loss.codebook0, "depth": loss.depth, "loss": loss.total(config.depth_weight)}
        if probe is not None:
            losses["alignment"] = alignment_loss(
                probe.scores(head=0), batch.turn, batch.scored, width=config.alignment_width
            )
            losses["loss"] = losses["loss"] + config.alignment_weight * fade * losses["alignment"]
        return losses | {WEIGHT: scored.sum()}


def of_last_turn(turn: Tensor) -> Tensor:
    """Which rows belong to the last turn of their sequence, `[B, T]` bool; `turn [B, T]` is -1 for padding."""
    return (turn == turn.amax(dim=1, keepdim=True)) & (turn >= 0)


def recompute(blocks: Iterable[nn.Module]) -> None:
    """Gradient checkpointing: keeps the inputs of each block alone, and computes the rest anew going back.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016).
    """
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def attention_for_changing_lengths(device: torch.device) -> AbstractContextManager[None]:
    """Every kernel of attention but cuDNN's on a GPU, which plans anew for each shape that it has not met.

    Sequences of speech are of another length at every step; the plan took 4 to 5 ms a call on an H200, most of a step.
    """
    if device.type != "cuda":
        return nullcontext()
    kernels: AbstractContextManager[None] = sdpa_kernel(
        [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    )
    return kernels


def train_csm(
    config: CSMTrainConfig,
    batches: BatchFunction,
    folder: Path,
    *,
    initial: dict[str, Tensor] | None = None,
    codebooks: Sequence[Tensor] = (),
    description: Mapping[str, Any] | None = None,
    evaluate: Callable[[CSM, int], dict[str, float]] | None = None,
    device: torch.device | str = "cpu",
    world: World | None = None,
    board: Board | None = None,
    quiet: bool = False,
) -> CSM:
    """Trains, or resumes what `folder` holds, and returns the model with its averaged weights, whole on the CPU.

    `batches(index, progress)` must depend on nothing but its arguments and the process; `index` counts the batches of
    a process, of which a step takes `loop.accumulate`. `initial` are weights to start from instead of random ones (see
    `without_codes`); `codebooks` are the codec's vectors, for `embed_codebooks`. `description` says what else tells
    this run from others, its data for one: it is refused to go on with another. `evaluate(model, step)` returns named
    figures for the log; where the world is sharding every process calls it. Raises `TrainingError`.
    """
    world = world or World()
    if world.is_sharding and config.alignment_weight:
        raise TrainingError("the alignment term looks into layers that a sharded run keeps apart: set its weight to 0")
    torch.manual_seed(config.loop.seed)
    model = CSM(config.model, dropout=config.dropout)
    initialise(model)
    embed_codebooks(model, codebooks, seed=config.loop.seed)
    if initial is not None:
        start_from(model, initial)
    if config.lora is not None:
        Adapters(model, config.lora)
    training = CSMTraining(config, model).to(device)
    if config.checkpointing:
        recompute(training.blocks)
    world.shard(training, training.blocks)
    loop = TrainingLoop(
        config.loop,
        training,
        folder,
        description={
            "config": described(config),
            "starting_weights": weights_digest(initial),
            **(description or {}),
        },
        hidden_matrices=hidden_matrices(model, prefix="model."),
        world=world,
        board=board,
    )
    loop.resume()

    def step(index: int, progress: float) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = training(batches(index, progress).to(device), progress)
        return losses

    def measure(index: int) -> dict[str, float]:
        if evaluate is None:
            return {}
        with loop.averaged(), world.gathered(training):
            return evaluate(model, index)

    with attention_for_changing_lengths(loop.device):
        loop.run(step, evaluate=measure, quiet=quiet)
    loop.assign_average()
    weights = {name: whole(t.detach()).cpu() for name, t in model.state_dict().items()}
    trained = CSM(config.model)
    if config.lora is not None:
        adapters = Adapters(trained, config.lora)
        trained.load_state_dict(weights)
        adapters.merge()
    else:
        trained.load_state_dict(weights)
    return trained.eval().requires_grad_(True)


def hidden_rows(config: CSMTrainConfig, batch: RowBatch) -> Tensor:
    """Which rows the backbone does not get to see, `[B, T]` bool; drawn from torch's global generator."""
    rows, device = batch.scored, batch.scored.device
    hidden = torch.zeros_like(rows)
    if config.history_masking:
        hidden |= rows & (torch.rand(rows.shape) < config.history_masking).to(device)
    if config.text_masking:
        turns = (torch.rand(len(rows), int(batch.turn.max()) + 1) < config.text_masking).to(device)
        hidden |= turns.gather(1, batch.turn.clamp(min=0)) & ~rows & (batch.turn >= 0)
    return hidden


@torch.no_grad()
def validation_losses(model: CSM, batches: list[RowBatch]) -> dict[str, float]:
    """Mean losses over fixed batches, with the depth decoder on every frame."""
    sums = {"codebook0": 0.0, "depth": 0.0}
    frames = 0
    for batch in batches:
        count = int(batch.scored.sum())
        loss = csm_loss(model, batch.tokens, batch.mask, batch.scored, depth_share=1.0)
        sums["codebook0"] += float(loss.codebook0) * count
        sums["depth"] += float(loss.depth) * count
        frames += count
    return {name: value / max(frames, 1) for name, value in sums.items()}
