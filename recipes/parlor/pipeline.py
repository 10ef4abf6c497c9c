"""The steps of the recipe, each a function of the work folder that the ones before it filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from duologue.checkpoints import save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.data.conversations import SequenceSampler
from duologue.data.prefetch import Prefetched
from duologue.data.prompts import write_voices
from duologue.data.shards import CodedTurn, TurnStore, first_codebooks
from duologue.engine.voices import codec_fingerprint
from duologue.errors import TrainingError
from duologue.frames import RowBatch
from duologue.model.csm import CSM
from duologue.train.csm import CSMTrainConfig, train_csm, validation_losses
from recipes.parlor.text import build_tokenizer
from recipes.parlor.voices import SHIPPED
from recipes.parlor_codec.pipeline import rounded_codec
from recipes.work import Report, Work, encode_split

SEQUENCE_LENGTHS = (96, 144, 208, 304, 448, 640, 960)
SCHOOL_YEAR = 150  # batches before the next longer sequences join
PROMPT_SHARE = 0.75
MERGE_SHARE = 0.3
VALIDATION_EVERY = 60
VALIDATION_BATCHES, VALIDATION_ROWS = 3, 2400
VOICE_BALANCE = 0.25


@dataclass(frozen=True)
class Machine:
    """Where the speech model learns, from how many rows a step, which `workers` other processes prepare."""

    device: torch.device | str = "cpu"
    batch_rows: int = 2400
    workers: int = 0


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


def split_by_words(
    conversations: Sequence[Sequence[CodedTurn]],
) -> tuple[list[Sequence[CodedTurn]], list[Sequence[CodedTurn]]]:
    """What is learned, and one text in `VALIDATION_EVERY`, the first among them, in all the voices that speak it.

    Raises `TrainingError` for conversations of one text: none of them would be left to learn from.
    """
    by_words: dict[tuple[str, ...], list[Sequence[CodedTurn]]] = {}
    for conversation in conversations:
        by_words.setdefault(tuple(turn.text for turn in conversation), []).append(conversation)
    if len(by_words) < 2:
        raise TrainingError(
            f"{len(conversations)} conversations have the same words: give two or more texts, of which one is held out"
        )
    learned: list[Sequence[CodedTurn]] = []
    held_out: list[Sequence[CodedTurn]] = []
    for index, alike in enumerate(by_words.values()):
        (learned if index % VALIDATION_EVERY else held_out).extend(alike)
    return learned, held_out


def make_csm(
    work: Work,
    config: CSMTrainConfig,
    turns: TurnStore,
    codec: Mimi | None = None,
    initial: dict[str, Tensor] | None = None,
    machine: Machine | None = None,
) -> CSM:
    """Step `csm`: trains, or resumes. `codec` gives the likeness of codes, `initial` weights to start from.

    Both as `train_csm` takes them.
    """
    machine = machine or Machine()
    tokenizer = build_tokenizer(work.path("csm"))
    weights = voice_weights(turns)
    texts = {turn.text for conversation in turns.conversations for turn in conversation}
    prepared = {text: tokenizer.prepare(text) for text in texts}

    def encode(text: str, speaker: int) -> list[int]:
        return tokenizer.encode_prepared(" ".join(prepared[line] for line in text.split("\n")), speaker)

    def sampler(conversations: Sequence[Sequence[CodedTurn]], batch_rows: int) -> SequenceSampler:
        return SequenceSampler(
            conversations,
            encode,
            batch_rows=batch_rows,
            lengths=SEQUENCE_LENGTHS,
            seed=config.loop.seed + 1,
            weight=lambda turn: weights[turn.voice],
            prompt_share=PROMPT_SHARE,
            merge_share=MERGE_SHARE,
        )

    learned, held_out = split_by_words(first_codebooks(turns.conversations, config.model.num_codebooks))
    draw, draw_held_out = sampler(learned, machine.batch_rows), sampler(held_out, VALIDATION_ROWS)

    def batch(index: int) -> tuple[Tensor, ...]:
        # Short sequences first: reading is learned on single turns before whole conversations follow.
        longest = SEQUENCE_LENGTHS[min(len(SEQUENCE_LENGTHS) - 1, 1 + index // SCHOOL_YEAR)]
        drawn = draw(index, longest)
        return (drawn.tokens, drawn.mask, drawn.scored, drawn.turn)

    prefetched = Prefetched(batch, machine.workers)
    validation = [draw_held_out(index).to(machine.device) for index in range(VALIDATION_BATCHES)]
    return train_csm(
        config,
        lambda index, progress: RowBatch(*prefetched(index)),
        work.path("csm"),
        initial=initial,
        codebooks=[] if codec is None else codec.codebook_vectors(),
        evaluate=lambda model, step: validation_losses(model, validation),
        device=machine.device,
    )


def text_vocab_size(work: Work) -> int:
    """Symbols of parlor's alphabet."""
    return build_tokenizer(work.path("csm")).vocab_size


def export(work: Work, model: CSM, codec: Mimi, turns: TurnStore, destination: Path) -> None:
    """Step `export`: the native checkpoint, its tokenizer and voices; the model in int8, the codec in bfloat16."""
    shipped = rounded_codec(codec)
    save_checkpoint(
        destination,
        "native",
        model=model,
        codec=shipped,
        dtype=torch.int8,
        tokenizer_path=work.path("csm") / "tokenizer.json",
    )
    write_voices(destination / "voices", turns.conversations, SHIPPED, fingerprint=codec_fingerprint(shipped))
