"""A made-up report of two systems and its clips, without instruments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duologue.audio import write_audio
from duologue.eval.measure import Row
from duologue.eval.report import EvaluationReport, ReportedFigure, SuiteReport, SystemRows
from tests.eval.builders import RATE, buzz

SYSTEMS = ("one", "two")
SUITE = "intelligibility"
EVIL = "</script><img src=x onerror=\"document.title='ran'\"><b>&amp;"


def row(number: int, **changes: Any) -> Row:
    """An utterance of four words with `number % 5` errors; its clip is `clip_seconds(number)` long."""
    fields: dict[str, Any] = {
        "suite": SUITE,
        "group": "plain" if number % 2 else "long",
        "id": f"plain/{number:03d}",
        "text": "Hello there, old friend.",
        "seed": 0,
        "heard": "hello where friend",
        "heard_words": tuple(
            {"text": word, "start_s": 0.1 * index, "end_s": 0.1 * index + 0.1}
            for index, word in enumerate(("Hello", "where", "friend."))
        ),
        "num_words": 4,
        "substitutions": number % 5,
        "similarity": 0.5 + number / 100,
        "overall": 3.0,
        "duration_s": clip_seconds(number),
    }
    return Row(**(fields | changes))


def clip_seconds(number: int) -> float:
    return 0.3 + 0.05 * number


def figure(system: str, value: float | None, spread: float | None = 1.0, **changes: Any) -> ReportedFigure:
    """A word error rate with an interval of `spread` to either side."""
    has_interval = value is not None and spread is not None
    fields: dict[str, Any] = {
        "system": system,
        "group": "all",
        "metric": "wer",
        "title": "WER",
        "unit": "%",
        "better": "lower",
        "value": value,
        "low": value - spread if has_interval else None,
        "high": value + spread if has_interval else None,
        "count": 8,
    }
    return ReportedFigure(**(fields | changes))


def suite(rows: Sequence[Row], name: str = SUITE, systems: Sequence[str] = SYSTEMS) -> SuiteReport:
    """The same rows for every system."""
    figures = [
        figure(system, 10.0 + 20 * index + step, group=group)
        for index, system in enumerate(systems)
        for step, group in enumerate(("all", "plain", "long"))
    ]
    entries = tuple(SystemRows(system, None, tuple(rows)) for system in systems)
    lists = {"intelligibility": {"version": 1, "fingerprint": "0123456789abcdef"}}
    return SuiteReport(name, "Is it understood?", "wer", (), lists, tuple(figures), entries)


def report(*suites: SuiteReport, systems: Sequence[str] = SYSTEMS) -> EvaluationReport:
    return EvaluationReport(
        schema=1,
        created="2026-03-01T12:30:00+00:00",
        command="duologue eval",
        seed=0,
        limit=8,
        machine={"processor": "abacus", "memory_gb": 1.5, "accelerator": None},
        versions={"duologue": "0.1.0"},
        instruments={"recognizer": "scripted"},
        systems={name: {"kind": "test", "cap_s": 20.0, "voices": []} for name in systems},
        suites=suites,
    )


def write_clips(folder: Path, made: EvaluationReport) -> None:
    """A tone for every utterance that was delivered."""
    for part in made.suites:
        for entry in part.systems:
            for item in entry.rows:
                if item.failure is None:
                    path = folder / "clips" / entry.system / part.name / f"{item.id}.wav"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_audio(path, buzz(item.duration_s or 0.3), RATE)


def sample(folder: Path) -> EvaluationReport:
    """Eight utterances a system, one of them not delivered, and a suite that was left out; with clips."""
    rows = [row(number) for number in range(7)]
    rows.append(row(7, failure="no free slot", heard="", heard_words=(), duration_s=None))
    skipped = SuiteReport(
        "speed", "How fast is it?", "rtf_p50", (), {}, (), tuple(SystemRows(n, "it is not timed", ()) for n in SYSTEMS)
    )
    made = report(suite(rows), skipped)
    write_clips(folder, made)
    return made


def with_text(made: EvaluationReport, text: str) -> EvaluationReport:
    """`text` wherever a report holds a text that somebody else wrote."""
    evil = row(
        0, id=text, text=text, heard=text, heard_words=({"text": text, "start_s": 0.0, "end_s": 0.2},), voice=text
    )
    failed = row(1, id="failed", failure=text, group=text)
    figures = tuple(figure(text, 5.0, title=text, group=group) for group in ("all", text))
    entries = (SystemRows(text, text, (evil, failed)),)
    part = SuiteReport(text, text, "wer", (text,), {text: {"version": text}}, figures, entries)
    about = {text: text}
    return dataclasses.replace(
        made, command=text, machine=about, versions=about, instruments=about, systems={text: about}, suites=(part,)
    )
