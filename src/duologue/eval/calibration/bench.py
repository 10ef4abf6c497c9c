"""Every reference measured under every condition, with the meter that suites use, once for each sound."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, TypeVar

from torch import Tensor

from duologue.eval.calibration.conditions import CONDITIONS, UNTOUCHED, Condition
from duologue.eval.calibration.references import Reference, Sample
from duologue.eval.calibration.rows import ROWS
from duologue.eval.instruments import HeardWord, Instruments, Quality
from duologue.eval.measure import Meter, Row

SUITE: Final = "calibration"
JUDGED: Final = ("overall", "signal", "background", "p808")

Heard = TypeVar("Heard")


@dataclass(frozen=True)
class Progress:
    """Clips measured of all, and the one at hand."""

    done: int
    total: int
    condition: str
    text: str


Report = Callable[[Progress], None]


class Remembered(Generic[Heard]):
    """An instrument that hears each recording once: other texts and other voices' prompts change no sound."""

    def __init__(self, instrument: Any) -> None:
        self.name: str = instrument.name
        self._instrument = instrument
        self._heard: dict[bytes, Heard] = {}

    def __call__(self, pcm: Tensor, sample_rate: int) -> Heard:
        key = hashlib.blake2b(pcm.contiguous().numpy().tobytes() + str(sample_rate).encode()).digest()
        if key not in self._heard:
            self._heard[key] = self._instrument(pcm, sample_rate)
        return self._heard[key]


class NoJudge:
    """Stands in for the judge of sound quality where no row asks for it: its scores are NaN, which no figure counts."""

    name = "none"

    def __call__(self, pcm: Tensor, sample_rate: int) -> Quality:
        return Quality(math.nan, math.nan, math.nan, math.nan)


def measure(
    sample: Sample,
    instruments: Instruments,
    *,
    seed: int = 0,
    conditions: Iterable[Condition] = tuple(CONDITIONS.values()),
    progress: Report | None = None,
) -> dict[str, list[Row]]:
    """The rows of each condition by its name, the untouched recordings first.

    The untouched rows are those of `sample.untouched`, which holds all of `sample.changed`; the others are of the
    latter. Sound quality is judged where a row of the table asks for it.
    """
    heard = replace(
        instruments,
        recognizer_override=Remembered(instruments.recognizer),
        speaker_encoder_override=Remembered(instruments.speaker_encoder),
        quality_judge_override=Remembered(instruments.quality_judge),
    )
    judging = Meter(heard, prompts=sample.prompts)
    plain = Meter(replace(heard, quality_judge_override=NoJudge()), prompts=sample.prompts)
    others = [condition for condition in conditions if condition.name != UNTOUCHED]
    total = len(sample.untouched) + len(others) * len(sample.changed)
    measured: dict[str, list[Row]] = {}

    def rows_of(name: str, references: Sequence[Reference]) -> list[Row]:
        meter = judging if name == UNTOUCHED or _judged(name) else plain
        done = sum(map(len, measured.values()))
        rows: list[Row] = []
        for reference in references:
            if progress is not None:
                progress(Progress(done + len(rows), total, name, reference.text))
            rows.append(meter.measure(SUITE, reference.request, reference.clip, voice=reference.voice))
        return rows

    measured[UNTOUCHED] = rows_of(UNTOUCHED, sample.untouched)
    words = {(row.group, row.id): row.heard_words for row in measured[UNTOUCHED]}
    placed = [
        replace(reference, words=tuple(HeardWord(**word) for word in words[reference.folder, reference.id]))
        for reference in sample.changed
    ]
    for condition in others:
        measured[condition.name] = rows_of(condition.name, condition.make(placed, seed))
    return measured


def _judged(condition: str) -> bool:
    return any(row.condition == condition and row.metric in JUDGED for row in ROWS)
