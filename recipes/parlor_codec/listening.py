"""Round trips as the evaluation's instruments hear them: words, voice, quality, of a few recordings or of many."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from duologue.audio import resample
from duologue.codec.mimi import Mimi
from duologue.errors import EvaluationError
from duologue.eval.clips import Clip, Request, Sound
from duologue.eval.instruments import Instruments, similarity
from duologue.eval.measure import Meter, Row
from duologue.eval.systems import RecordedSystem
from duologue.eval.systems.model import recode
from duologue.train.board import Board
from duologue.train.codec import CodecTrainConfig

# Recordings that no recipe trains on.
HELD_OUT = ["../shared/corpus/heldout", "../shared/corpus/kathleen#manifest-heldout.jsonl"]
_LEAST_WORDS = 4
_LEAST_SECONDS = 1.5


@dataclass(frozen=True, eq=False)
class Line:
    """A recording and what is said in it."""

    id: str
    text: str
    sound: Sound


@dataclass(frozen=True)
class Heard:
    """A line as it was measured: `row` of the instruments, and the likeness of its voice to the original's."""

    row: Row
    likeness: float | None


def gather(folders: Sequence[str], *, limit: int | None) -> list[Line]:
    """`limit` lines of each folder, `FOLDER` or `FOLDER#PATTERN`, spread over it; all of them by default.

    A line has four words and lasts 1.5 s at least. Raises `EvaluationError` for a folder without any.
    """
    lines: list[Line] = []
    for address in folders:
        folder, _, pattern = address.partition("#")
        system = RecordedSystem(folder, Path(folder), **({"pattern": pattern} if pattern else {}))
        own = [line for line in system.own_lines() if len(line.text.split()) >= _LEAST_WORDS]
        step = 1 if limit is None else max(1, len(own) // limit)
        found = []
        for line in own[::step]:
            sound = system.speak(Request(line.id, "", line.text, seed=0, facts={"own_line": line.id})).sound
            if sound.duration_s >= _LEAST_SECONDS:
                found.append(Line(f"{Path(folder).name}/{line.id}", line.text, sound))
        if not found:
            raise EvaluationError(f"{address} has no recording of {_LEAST_SECONDS:g} s and {_LEAST_WORDS} words")
        lines += found[:limit]
    return lines


class Ear:
    """Measures what has become of lines."""

    def __init__(self, instruments: Instruments, lines: Sequence[Line]) -> None:
        """Listens to the voices of the originals once."""
        self.lines = lines
        self._meter = Meter(instruments)
        self._encoder = instruments.speaker_encoder
        self._voices = [self._encoder(line.sound.pcm, line.sound.sample_rate) for line in lines]

    def originals(self) -> list[Heard]:
        """The lines as they are."""
        return [self._hear(index, Clip(line.sound)) for index, line in enumerate(self.lines)]

    def after(self, change: Callable[[Sound], Clip]) -> list[Heard]:
        """The lines after a change."""
        return [self._hear(index, change(line.sound)) for index, line in enumerate(self.lines)]

    def _hear(self, index: int, clip: Clip) -> Heard:
        line, before = self.lines[index], self._voices[index]
        row = self._meter.measure("codec", Request(line.id, "", line.text, seed=0), clip)
        after = self._encoder(clip.sound.pcm, clip.sound.sample_rate)
        return Heard(row, None if before is None or after is None else similarity(before, after))


def summary(heard: Sequence[Heard]) -> dict[str, float]:
    """`wer` of all words in percent, mean `sim`, mean DNSMOS `ovrl`."""
    words = sum(one.row.num_words for one in heard)
    likeness = [one.likeness for one in heard if one.likeness is not None]
    overall = [one.row.overall for one in heard if one.row.overall is not None]
    return {
        "wer": 100 * sum(one.row.word_errors for one in heard) / max(1, words),
        "sim": float(np.mean(likeness)) if likeness else float("nan"),
        "ovrl": float(np.mean(overall)) if overall else float("nan"),
    }


def through_codes(codec: Mimi, num_codebooks: int | None = None) -> Callable[[Sound], Clip]:
    """Encodes and decodes with the first `num_codebooks`, by default all."""
    return lambda sound: recode(codec, sound, num_codebooks or codec.num_codebooks)


def through_latent(codec: Mimi) -> Callable[[Sound], Clip]:
    """Encodes and decodes with the semantic codes but nothing acoustic quantized: what codes could come to at best."""

    def change(sound: Sound) -> Clip:
        started = time.perf_counter()
        pcm = resample(sound.pcm, sound.sample_rate, codec.sample_rate)
        device = next(codec.parameters()).device
        padded = torch.nn.functional.pad(pcm, (0, -len(pcm) % codec.frame_size))[None, None].to(device)
        with torch.no_grad():
            latent = codec.encode_latent(padded)
            quantizer = codec.quantizer
            semantic = quantizer.semantic.decode(quantizer.semantic.encode(latent, 1))
            made: Tensor = codec.decode_latent(semantic + quantizer.acoustic.project(latent))
        return Clip(Sound(made[0, 0, : len(pcm)].clamp(-1, 1).cpu(), codec.sample_rate), time.perf_counter() - started)

    return change


class Listener:
    """Gives the trainer its `evaluate`: a few round trips now and then, and their sound for TensorBoard."""

    def __init__(self, ear: Ear) -> None:
        self._ear = ear

    def of_run(self, config: CodecTrainConfig, board: Board | None) -> Callable[[Mimi, int], dict[str, float]]:
        """The figures of a run: of the latent where nothing is quantized, else of the codes."""

        def evaluate(codec: Mimi, step: int) -> dict[str, float]:
            change = through_latent(codec) if config.bottleneck == "noise" else through_codes(codec)
            if board is not None:
                for line in self._ear.lines[:2]:
                    sound = change(line.sound).sound
                    board.sound(line.id, sound.pcm, sound.sample_rate, step)
            return summary(self._ear.after(change))

        return evaluate
