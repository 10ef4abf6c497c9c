"""The steps of the recipe, each a function of the work folder that the ones before it filled."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from duologue.checkpoints import save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.data.conversations import SequenceSampler
from duologue.data.prompts import write_voices
from duologue.data.shards import TurnStore
from duologue.engine.voices import codec_fingerprint
from duologue.frames import RowBatch
from duologue.model.csm import CSM
from duologue.train.csm import CSMTrainConfig, train_csm, validation_losses
from recipes.parlor.text import build_tokenizer
from recipes.parlor.voices import SHIPPED
from recipes.parlor_codec.pipeline import rounded, rounded_codec
from recipes.work import Report, Work, encode_split

SEQUENCE_LENGTHS = (96, 144, 208, 304, 448)
BATCH_ROWS = 2400
VALIDATION_EVERY = 60
VOICE_BALANCE = 0.25


def encode_corpus(work: Work, codec: str | None, report: Report) -> TurnStore:
    """Step `turns`: every training turn as codes of a checkpoint's codec, the bundled one by default."""
    return encode_split(work, codec, "train", report)


def voice_weights(turns: TurnStore) -> dict[str, float]:
    """Rarer voices count more, by `VOICE_BALANCE` of what would make all equal, so that one does not drown the rest."""
    frames: dict[str, int] = {}
    for conversation in turns.conversations:
        for turn in conversation:
            frames[turn.voice] = frames.get(turn.voice, 0) + turn.codes.shape[1]
    mean = sum(frames.values()) / len(frames)
    return {voice: (mean / count) ** VOICE_BALANCE for voice, count in frames.items()}


def make_csm(
    work: Work,
    config: CSMTrainConfig,
    turns: TurnStore,
    codec: Mimi | None = None,
    initial: dict[str, Tensor] | None = None,
) -> CSM:
    """Step `csm`: trains, or resumes. `codec` gives the likeness of codes, `initial` weights to start from.

    Both as `train_csm` takes them.
    """
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

    def batches(index: int, progress: float) -> RowBatch:
        # Short sequences first: reading is learned on single turns before whole conversations follow.
        longest = SEQUENCE_LENGTHS[min(len(SEQUENCE_LENGTHS) - 1, 1 + int(progress * 10))]
        return draw(index, longest)

    validation = [draw_held_out(index) for index in range(3)]

    def evaluate(model: CSM, step: int) -> dict[str, float]:
        return validation_losses(model, validation)

    return train_csm(
        config,
        batches,
        work.path("csm"),
        initial=initial,
        codebooks=[] if codec is None else codec.codebook_vectors(),
        evaluate=evaluate,
    )


def text_vocab_size(work: Work) -> int:
    """Symbols of parlor's alphabet."""
    return build_tokenizer(work.path("csm")).vocab_size


def export(work: Work, model: CSM, codec: Mimi, turns: TurnStore, destination: Path) -> None:
    """Step `export`: the native checkpoint with bfloat16 weights, its tokenizer and voices."""
    shipped = rounded_codec(codec)
    save_checkpoint(
        destination,
        "native",
        model=rounded(model),
        codec=shipped,
        tokenizer_path=work.path("csm") / "tokenizer.json",
    )
    write_voices(destination / "voices", turns.conversations, SHIPPED, fingerprint=codec_fingerprint(shipped))
