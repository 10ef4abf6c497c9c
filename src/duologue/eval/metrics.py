"""The figures of a report: each says which rows it counts, how it adds them up, and which way is better.

A row that lacks the measure is left out of that figure and out of its count. One that a system failed to deliver counts
as an utterance of which no word was understood.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from duologue.eval import entries, statistics
from duologue.eval.codebooks import CodebookUse
from duologue.eval.entries import Entries, Key
from duologue.eval.measure import Row
from duologue.eval.statistics import Column, Difference, Figure, Statistic
from duologue.eval.suites.conversation import GAIN_DB, PACE_FACTOR, SEMITONES
from duologue.eval.words import MISUNDERSTOOD

LONG_SILENCE_S = 1.0
Better = Literal["lower", "higher", "neither"]


class Metric(Protocol):
    """One figure of a suite's rows, or of the part of them that counts in `group`."""

    @property
    def name(self) -> str:
        """As in a report."""
        ...

    @property
    def title(self) -> str:
        """For people."""
        ...

    @property
    def unit(self) -> str:
        """Of the value; empty where it has none."""
        ...

    @property
    def better(self) -> Better:
        """Which way."""
        ...

    def figure(self, rows: Sequence[Row], group: str | None = None) -> Figure:
        """The value over the rows, with interval and count."""
        ...

    def difference(self, first: Sequence[Row], second: Sequence[Row], group: str | None = None) -> Difference:
        """How much the second report lies above the first, over the utterances that both measured."""
        ...


@dataclass(frozen=True)
class RowMetric:
    """`entries` of the rows go into `statistic`; `scale` turns the result into `unit`."""

    name: str
    title: str
    unit: str
    better: Better
    entries: Entries
    statistic: Statistic = statistics.mean
    scale: float = 1.0

    def figure(self, rows: Sequence[Row], group: str | None = None) -> Figure:
        """The value over the rows, with interval and count."""
        made = statistics.estimate(self.statistic, *_columns(self._counted(rows, group).values()))
        return Figure(*_scaled(made.value, made.low, made.high, scale=self.scale), made.count)

    def difference(self, first: Sequence[Row], second: Sequence[Row], group: str | None = None) -> Difference:
        """How much the second report lies above the first, over the entries of one key."""
        before, after = self._counted(first, group), self._counted(second, group)
        shared = [key for key in before if key in after]
        made = statistics.compare(
            self.statistic, _columns(before[key] for key in shared), _columns(after[key] for key in shared)
        )
        return Difference(*_scaled(made.value, made.low, made.high, scale=self.scale), made.count)

    def _counted(self, rows: Sequence[Row], group: str | None) -> dict[Key, tuple[float, ...]]:
        found = self.entries(rows)
        return found if group is None else {key: entry for key, entry in found.items() if key[0] == group}


def _columns(entries: Iterable[tuple[float, ...]]) -> list[Column]:
    rows = list(entries)
    if not rows:
        return [np.zeros(0)]
    return [np.asarray(column, dtype=np.float64) for column in zip(*rows, strict=True)]


def _scaled(
    value: float | None, low: float | None, high: float | None, *, scale: float
) -> tuple[float | None, float | None, float | None]:
    def scaled(number: float | None) -> float | None:
        return None if number is None else number * scale

    return scaled(value), scaled(low), scaled(high)


def _percent(name: str, title: str, test: Callable[[Row], bool | None], better: Better = "lower") -> RowMetric:
    def values(row: Row) -> tuple[float, ...] | None:
        answer = test(row)
        return None if answer is None else (float(answer),)

    return RowMetric(name, title, "%", better, entries.each(values), scale=100.0)


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


def _milliseconds(name: str, title: str, source: str, statistic: Statistic) -> RowMetric:
    return RowMetric(name, title, "ms", "lower", entries.plain(source), statistic, scale=1000.0)


def _over_ten_turns(turns: Column, similarities: Column) -> Column:
    """From the first turn to the tenth along the line through the points."""
    return np.asarray(9 * statistics.slope(turns, similarities))


_MEDIAN, _P95 = statistics.median, statistics.percentile(95)
_PACES, _PITCHES = entries.ratio("pace"), entries.ratio("pitch_hz")
_SEMITONES = 12 / math.log(2)
_PACE_FACTORS = {"slower": 1 / PACE_FACTOR, "with": 1.0, "faster": PACE_FACTOR}

_ALL: tuple[Metric, ...] = (
    _percent("failed", "not delivered", lambda row: not _delivered(row)),
    RowMetric(
        "wer",
        "WER",
        "%",
        "lower",
        entries.each(lambda row: (float(row.word_errors), float(row.num_words))),
        statistics.ratio,
        100.0,
    ),
    RowMetric(
        "cer",
        "CER",
        "%",
        "lower",
        entries.each(lambda row: (float(row.character_errors), float(row.num_characters))),
        statistics.ratio,
        100.0,
    ),
    _percent("misunderstood", "utterances above 50 % WER", _misunderstood),
    RowMetric("similarity", "SIM to the voice prompt", "", "higher", entries.plain("similarity")),
    _percent("right_voice", "right voice first", lambda row: row.right_voice_first, "higher"),
    RowMetric("drift_within", "SIM, second half less first", "", "higher", entries.besides("drift_within")),
    RowMetric("drift_turns", "SIM, tenth turn less first", "", "higher", entries.drift, _over_ten_turns),
    RowMetric("overall", "DNSMOS OVRL", "", "higher", entries.plain("overall")),
    RowMetric("signal", "DNSMOS SIG", "", "higher", entries.plain("signal")),
    RowMetric("background", "DNSMOS BAK", "", "higher", entries.plain("background")),
    RowMetric("p808", "DNSMOS P.808", "", "higher", entries.plain("p808")),
    _percent("cap", "reached the cap", _at_cap),
    RowMetric("trailing_silence", "silence at the end", "s", "lower", entries.plain("trailing_silence_s")),
    _percent("long_silence", f"more than {LONG_SILENCE_S:g} s of silence at the end", _long_silence),
    _percent("cut", "ends cut", _cut),
    _percent("loops", "words in a loop", lambda row: row.loops),
    _percent("stops_badly", "ends badly in any of these ways", _stops_badly),
    RowMetric("pace", "pace", "syllables/s", "neither", entries.plain("pace")),
    RowMetric("pitch", "pitch", "Hz", "neither", entries.plain("pitch_hz"), _MEDIAN),
    RowMetric("level", "level", "dB", "neither", entries.plain("level_db")),
    RowMetric("rtf_p50", "real-time factor, median", "", "lower", entries.plain("real_time_factor"), _MEDIAN),
    RowMetric("rtf_p95", "real-time factor, 95th percentile", "", "lower", entries.plain("real_time_factor"), _P95),
    _milliseconds("first_audio_p50", "time to first audio, median", "first_audio_s", _MEDIAN),
    _milliseconds("first_audio_p95", "time to first audio, 95th percentile", "first_audio_s", _P95),
    _percent("underruns", "a paced player ran dry", lambda row: None if row.underruns is None else row.underruns > 0),
    RowMetric("memory", "resident memory, peak", "MB", "lower", entries.plain("memory_mb"), statistics.maximum),
    RowMetric("turn_similarity", "SIM to the own turn before", "", "higher", entries.besides("reference_similarity")),
    RowMetric("pace_step", "pace, step from the own turn", "%", "lower", entries.step(entries.absolute(_PACES, 100.0))),
    RowMetric(
        "pitch_step",
        "pitch, step from the own turn",
        "semitones",
        "lower",
        entries.step(entries.absolute(_PITCHES, _SEMITONES)),
    ),
    RowMetric(
        "level_step", "level, step from the own turn", "dB", "lower", entries.step(entries.absolute(entries.levels))
    ),
    RowMetric(
        "carry_pace",
        "carry-over of pace",
        "",
        "higher",
        entries.carry("slower", "faster", _PACES, 2 * math.log(PACE_FACTOR)),
    ),
    RowMetric(
        "pace_follows",
        "correlation of pace with the history's",
        "",
        "higher",
        entries.beside_history("pace", _PACE_FACTORS),
        statistics.correlation,
    ),
    RowMetric(
        "pace_unheard",
        "correlation of pace, history removed",
        "",
        "neither",
        entries.beside_history("pace", _PACE_FACTORS, answer="without"),
        statistics.correlation,
    ),
    RowMetric(
        "carry_pitch",
        "carry-over of pitch",
        "",
        "higher",
        entries.carry("lower", "higher", _PITCHES, 2 * SEMITONES / _SEMITONES),
    ),
    RowMetric(
        "carry_level",
        "carry-over of level",
        "",
        "higher",
        entries.carry("softer", "louder", entries.levels, 2 * GAIN_DB),
    ),
    RowMetric("intended", "the intended pronunciation", "%", "higher", entries.besides("intended"), scale=100.0),
    RowMetric("word_found", "the word was found", "%", "higher", entries.besides("word_found"), scale=100.0),
    RowMetric("consistency", "said as in the turn before", "%", "higher", entries.consistency, scale=100.0),
    RowMetric("variant", "said in the second way", "%", "neither", entries.besides("variant"), scale=100.0),
    RowMetric("bitrate", "bitrate", "kbit/s", "lower", entries.besides("bitrate_kbps")),
    RowMetric("mel_distance", "mel distance", "dB", "lower", entries.besides("mel_distance_db")),
    RowMetric("stoi", "STOI", "", "higher", entries.besides("stoi")),
    RowMetric("original_similarity", "SIM to the original", "", "higher", entries.besides("reference_similarity")),
    RowMetric("added_wer", "WER added", "points", "lower", entries.added_errors, statistics.ratio, 100.0),
    RowMetric("added_overall", "DNSMOS OVRL, change", "", "higher", entries.rise("overall")),
    CodebookUse(),
)

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
