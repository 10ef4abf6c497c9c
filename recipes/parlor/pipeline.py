"""The steps of the recipe, each a function of the work folder that the ones before it filled."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from duologue.checkpoints import load_codec, save_checkpoint
from duologue.checkpoints.whisper import bundled_whisper
from duologue.codec.mimi import Mimi
from duologue.data.conversations import SequenceBatch, SequenceSampler, TurnStore
from duologue.data.corpus import PcmStore, Recording, read_manifests
from duologue.data.crops import CropSampler
from duologue.data.encode import encode_turns
from duologue.data.teacher import WhisperTeacher, feature_statistics, write_features
from duologue.engine.voices import codec_fingerprint
from duologue.errors import TrainingError
from duologue.model.csm import CSM
from duologue.train.codec import CodecBatch, train_codec
from duologue.train.csm import CSMBatch, CSMTrainConfig, train_csm, validation_losses
from duologue.train.decoder import train_decoder
from duologue.train.units import find_units, train_units
from recipes.parlor.configs import CodecStages
from recipes.parlor.text import build_tokenizer
from recipes.parlor.voices import write_voices

Report = Callable[[str], None]
ModuleType = TypeVar("ModuleType", bound=nn.Module)
CROP_FRAMES = 20
CROPS_PER_BATCH = 8
SEQUENCE_LENGTHS = (96, 144, 208, 304, 448)
BATCH_ROWS = 2400
VALIDATION_EVERY = 60
UNITS_FROM_EVERY = 3
UNIT_POINTS = 100_000
VOICE_BALANCE = 0.25
# The corpus is mostly one voice shifted; these shares, by folder, let every voice be heard.
FOLDER_WEIGHTS = {"train": 2.0, "kathleen": 1.0, "train_joe": 0.6}


@dataclass(frozen=True)
class Work:
    """The folders of a run; `corpora` hold folders with manifests, as `../shared/corpus` does."""

    corpora: tuple[Path, ...]
    folder: Path
    threads: int = 2

    def path(self, step: str) -> Path:
        """Where a step leaves its result."""
        return self.folder / step


def recordings(work: Work, split: str = "train") -> list[Recording]:
    """The corpora's training conversations, or those held out; every folder with a manifest counts."""
    held_out = split == "heldout"
    manifests = [
        path
        for corpus in work.corpora
        for path in sorted(corpus.glob("*/manifest-*.jsonl"))
        if ("heldout" in str(path.relative_to(corpus))) == held_out
    ]
    if not manifests:
        names = ", ".join(map(str, work.corpora))
        raise TrainingError(f"no manifests of {split} recordings in {names}: give --corpus")
    return read_manifests(manifests)


def decode_recordings(work: Work, sample_rate: int) -> PcmStore:
    """Step `pcm`: every training recording as samples in one file."""
    folder = work.path("pcm")
    if (folder / "index.json").exists():
        return PcmStore(folder)
    return PcmStore.build(folder, [r.path for r in recordings(work)], sample_rate, workers=work.threads)


def listen(work: Work, store: PcmStore, frame_rate: float, whisper: Path | None, report: Report) -> Path:
    """Step `features`: Whisper's encoder over every recording."""
    folder = work.path("features")
    if (folder / "done").exists():
        return folder
    teacher = WhisperTeacher(whisper or bundled_whisper(work.folder), frame_rate=frame_rate, threads=work.threads)

    def progress(done: int, total: int) -> None:
        if done == total or done % 100 < 10:
            report(f"features: {done} of {total} recordings")

    write_features(store, folder, teacher, frame_rate=frame_rate, progress=progress)
    (folder / "done").touch()
    return folder


def make_codec(work: Work, stages: CodecStages, store: PcmStore, features: Path | None) -> Mimi:
    """Step `codec`: trains, or resumes, or loads what an earlier run finished.

    Without `features` the semantic codebook is one more acoustic one.
    """
    folder = work.path("codec")
    if (folder / "model" / "config.json").exists():
        return load_codec(folder / "model")
    model, seed = stages.sound.model, stages.sound.loop.seed
    statistics = None if features is None else feature_statistics(features)

    def sampler(number: int) -> CropSampler:
        return CropSampler(
            store,
            frame_size=model.frame_size,
            num_frames=CROP_FRAMES,
            batch_size=CROPS_PER_BATCH,
            seed=seed + number,
            weights=[FOLDER_WEIGHTS.get(Path(name).parent.name, 1.0) for name in store.names],
            features=features,
            feature_dim=stages.sound.teacher_dim,
            feature_statistics=statistics,
        )

    draw_sound, draw_words, draw_decoder = (sampler(number) for number in (1, 2, 3))
    codec = train_codec(stages.sound, lambda index: CodecBatch(*draw_sound(index)), folder / "sound")
    if features is not None:
        units = work_units(folder / "units.npy", features, stages.num_units, seed=seed)
        codec = train_units(stages.words, codec, units, lambda index: CodecBatch(*draw_words(index)), folder / "words")
        codec = train_decoder(stages.decoder, codec, lambda index: draw_decoder(index)[0], folder / "decoder")
    save_checkpoint(folder / "model", "native", codec=codec)
    return codec


def work_units(path: Path, features: Path, count: int, *, seed: int) -> Tensor:
    """The units of the teacher's features `[count, F]`, standardized as the crops are; kept in `path`."""
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


def encode_corpus(work: Work, codec: Mimi, store: PcmStore, report: Report) -> TurnStore:
    """Step `turns`: every training turn as codes."""
    folder, fingerprint = work.path("turns"), codec_fingerprint(codec)
    if (folder / "turns.json").exists():
        return TurnStore(folder, fingerprint=fingerprint)

    def progress(done: int, total: int) -> None:
        report(f"turns: {done} of {total} encoded")

    return encode_turns(codec, store, recordings(work), folder, fingerprint=fingerprint, progress=progress)


def voice_weights(turns: TurnStore) -> dict[str, float]:
    """Rarer voices count more, by `VOICE_BALANCE` of what would make all equal, so that one does not drown the rest."""
    frames: dict[str, int] = {}
    for conversation in turns.conversations:
        for turn in conversation:
            frames[turn.voice] = frames.get(turn.voice, 0) + turn.codes.shape[1]
    mean = sum(frames.values()) / len(frames)
    return {voice: (mean / count) ** VOICE_BALANCE for voice, count in frames.items()}


def make_csm(
    work: Work, config: CSMTrainConfig, turns: TurnStore, codec: Mimi | None = None, initial: CSM | None = None
) -> CSM:
    """Step `csm`: trains, or resumes; `initial` gives the weights to start from, `codec` the likeness of codes."""
    tokenizer = build_tokenizer(work.path("csm"))
    prepared: dict[str, str] = {}

    def encode(text: str, speaker: int) -> list[int]:
        if text not in prepared:
            prepared[text] = tokenizer.prepare(text)
        return tokenizer.encode_prepared(prepared[text], speaker)

    def sampler(held_out: bool) -> SequenceSampler:
        chosen = [
            conversation
            for index, conversation in enumerate(turns.conversations)
            if (index % VALIDATION_EVERY == 0) == held_out
        ]
        return SequenceSampler(
            chosen,
            encode,
            batch_rows=BATCH_ROWS,
            lengths=SEQUENCE_LENGTHS,
            seed=config.loop.seed + 1,
            weights=voice_weights(turns),
        )

    draw, draw_held_out = sampler(held_out=False), sampler(held_out=True)

    def batches(index: int, progress: float) -> CSMBatch:
        # Short sequences first: reading is learned on single turns before whole conversations follow.
        longest = SEQUENCE_LENGTHS[min(len(SEQUENCE_LENGTHS) - 1, 1 + int(progress * 10))]
        return csm_batch(draw(index, longest))

    validation = [csm_batch(draw_held_out(index)) for index in range(3)]

    def evaluate(model: CSM, step: int) -> dict[str, float]:
        return validation_losses(model, validation)

    return train_csm(
        config,
        batches,
        work.path("csm"),
        initial=None if initial is None else initial.state_dict(),
        codebooks=[] if codec is None else codec.codebook_vectors(),
        evaluate=evaluate,
    )


def csm_batch(batch: SequenceBatch) -> CSMBatch:
    """What the trainer takes, from what the data gives: the two leaves know nothing of each other."""
    return CSMBatch(batch.tokens, batch.mask, batch.scored, batch.turn)


def text_vocab_size(work: Work) -> int:
    """Symbols of parlor's alphabet."""
    return build_tokenizer(work.path("csm")).vocab_size


def export(work: Work, model: CSM, codec: Mimi, turns: TurnStore, destination: Path) -> None:
    """Step `export`: the native checkpoint with bfloat16 weights, its tokenizer and voices."""
    shipped = rounded(codec)
    round_codebooks(shipped)
    save_checkpoint(
        destination,
        "native",
        model=rounded(model),
        codec=shipped,
        tokenizer_path=work.path("csm") / "tokenizer.json",
    )
    write_voices(destination / "voices", turns, shipped)


def rounded(module: ModuleType) -> ModuleType:
    """A copy whose parameters are bfloat16; buffers, the codebooks among them, keep their precision."""
    copy = deepcopy(module)
    for parameter in copy.parameters():
        parameter.data = parameter.data.bfloat16()
    return copy


@torch.no_grad()
def round_codebooks(codec: Mimi) -> None:
    """Makes every codebook its vectors in bfloat16, each with a usage of one, instead of running sums in float32."""
    for stack in (codec.quantizer.semantic, codec.quantizer.acoustic):
        for codebook in stack:
            vectors = codebook.vectors.bfloat16()
            codebook.embedding_sum = vectors
            codebook.cluster_usage = torch.ones_like(codebook.cluster_usage, dtype=torch.bfloat16)
