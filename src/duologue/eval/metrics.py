"""The figures of a report: each says which rows it counts, how it adds them up, and which way is better.

A row that lacks the measure is left out of that figure and out of its count. One that a system failed to deliver counts
as an utterance of which no word was understood.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from duologue.eval import statistics
from duologue.eval.measure import Row
from duologue.eval.statistics import Column, Difference, Figure, Statistic
from duologue.eval.words import MISUNDERSTOOD

LONG_SILENCE_S = 1.0
Better = Literal["lower", "higher", "neither"]
Values = Callable[[Row], tuple[float, ...] | None]
"""The columns' entries of one row, or None where the metric does not apply to it."""


@dataclass(frozen=True)
class Metric:
    """One figure: `values` of each row go into `statistic`; `scale` turns the result into `unit`."""

    name: str
    title: str
    unit: str
    better: Better
    values: Values
    statistic: Statistic = statistics.mean
    scale: float = 1.0

    def figure(self, rows: Iterable[Row]) -> Figure:
        """The value over the rows, with interval and count."""
        columns = self._columns([entry for row in rows if (entry := self.values(row)) is not None])
        made = statistics.estimate(self.statistic, *columns)
        return Figure(*_scaled(made.value, made.low, made.high, scale=self.scale), made.count)

    def difference(self, first: Sequence[Row], second: Sequence[Row]) -> Difference:
        """How much the second report lies above the first, over the utterances (by group and id) that both measured."""
        known = {(row.group, row.id): entry for row in first if (entry := self.values(row)) is not None}
        pairs = [
            (known[row.group, row.id], entry)
            for row in second
            if (row.group, row.id) in known and (entry := self.values(row)) is not None
        ]
        before, after = self._columns([a for a, _ in pairs]), self._columns([b for _, b in pairs])
        made = statistics.compare(self.statistic, before, after)
        return Difference(*_scaled(made.value, made.low, made.high, scale=self.scale), made.count)

    def _columns(self, entries: Sequence[tuple[float, ...]]) -> list[Column]:
        if not entries:
            return [np.zeros(0)]
        return [np.asarray(column, dtype=np.float64) for column in zip(*entries, strict=True)]


def _scaled(
    value: float | None, low: float | None, high: float | None, *, scale: float
) -> tuple[float | None, float | None, float | None]:
    def scaled(number: float | None) -> float | None:
        return None if number is None else number * scale

    return scaled(value), scaled(low), scaled(high)


def _plain(name: str) -> Values:
    """A measure of the row by its name; a yes counts one, a no nothing."""

    def values(row: Row) -> tuple[float, ...] | None:
        value = getattr(row, name)
        return None if value is None else (float(value),)

    return values


def _share(test: Callable[[Row], bool | None]) -> Values:
    def values(row: Row) -> tuple[float, ...] | None:
        answer = test(row)
        return None if answer is None else (float(answer),)

    return values


def _percent(name: str, title: str, test: Callable[[Row], bool | None], better: Better = "lower") -> Metric:
    return Metric(name, title, "%", better, _share(test), scale=100.0)


def _delivered(row: Row) -> bool:
    return row.failure is None


def _misunderstood(row: Row) -> bool | None:
    rate = row.word_error_rate
    return None if rate is None else rate > MISUNDERSTOOD


def _at_cap(row: Row) -> bool | None:
    return row.stop_reason == "cap" if row.stop_reason is not None else None


def _cut(row: Row) -> bool | None:
    """The last word is missing, or the sound breaks off."""
    if not _delivered(row):
        return None
    return row.last_word_heard is False or row.ends_abruptly is True


def _stops_badly(row: Row) -> bool | None:
    """Any of the ways in which an utterance ends as it should not."""
    if not _delivered(row):
        return None
    silence = row.trailing_silence_s is not None and row.trailing_silence_s > LONG_SILENCE_S
    return bool(_at_cap(row) or silence or _cut(row) or row.loops)


def _long_silence(row: Row) -> bool | None:
    return None if row.trailing_silence_s is None else row.trailing_silence_s > LONG_SILENCE_S


def _milliseconds(name: str, title: str, source: str, statistic: Statistic) -> Metric:
    return Metric(name, title, "ms", "lower", _plain(source), statistic, scale=1000.0)


_MEDIAN, _P95 = statistics.median, statistics.percentile(95)

_ALL = (
    _percent("failed", "not delivered", lambda row: not _delivered(row)),
    Metric(
        "wer",
        "WER",
        "%",
        "lower",
        lambda row: (float(row.word_errors), float(row.num_words)),
        statistics.ratio,
        100.0,
    ),
    Metric(
        "cer",
        "CER",
        "%",
        "lower",
        lambda row: (float(row.character_errors), float(row.num_characters)),
        statistics.ratio,
        100.0,
    ),
    _percent("misunderstood", "utterances above 50 % WER", _misunderstood),
    Metric("similarity", "SIM to the voice prompt", "", "higher", _plain("similarity")),
    _percent("right_voice", "right voice first", lambda row: row.right_voice_first, "higher"),
    Metric("overall", "DNSMOS OVRL", "", "higher", _plain("overall")),
    Metric("signal", "DNSMOS SIG", "", "higher", _plain("signal")),
    Metric("background", "DNSMOS BAK", "", "higher", _plain("background")),
    Metric("p808", "DNSMOS P.808", "", "higher", _plain("p808")),
    _percent("cap", "reached the cap", _at_cap),
    Metric("trailing_silence", "silence at the end", "s", "lower", _plain("trailing_silence_s")),
    _percent("long_silence", f"more than {LONG_SILENCE_S:g} s of silence at the end", _long_silence),
    _percent("cut", "ends cut", _cut),
    _percent("loops", "words in a loop", lambda row: row.loops),
    _percent("stops_badly", "ends badly in any of these ways", _stops_badly),
    Metric("pace", "pace", "syllables/s", "neither", _plain("pace")),
    Metric("pitch", "pitch", "Hz", "neither", _plain("pitch_hz"), _MEDIAN),
    Metric("level", "level", "dB", "neither", _plain("level_db")),
    Metric("rtf_p50", "real-time factor, median", "", "lower", _plain("real_time_factor"), _MEDIAN),
    Metric("rtf_p95", "real-time factor, 95th percentile", "", "lower", _plain("real_time_factor"), _P95),
    _milliseconds("first_audio_p50", "time to first audio, median", "first_audio_s", _MEDIAN),
    _milliseconds("first_audio_p95", "time to first audio, 95th percentile", "first_audio_s", _P95),
    _percent("underruns", "a paced player ran dry", lambda row: None if row.underruns is None else row.underruns > 0),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
