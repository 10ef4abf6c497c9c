"""A run: every system through every suite, in a folder that an interrupted run goes on from.

First everything is spoken, system by system, then everything is measured: the instruments take cores and memory from
nobody whose speed is being measured. The folder holds `run.json` (what is being run), what `takes` keeps, and
`rows/SYSTEM/SUITE.jsonl`, one measured utterance a line. What answers the same request is kept; anything else is asked
for again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from duologue.errors import ConfigError, EvaluationError
from duologue.eval.clips import System
from duologue.eval.files import Journal, read_text, write_text
from duologue.eval.instruments import Instruments
from duologue.eval.measure import Meter, Row, hear_prompts
from duologue.eval.suites.suite import Suite
from duologue.eval.takes import Taken, Takes


@dataclass(frozen=True)
class Progress:
    """Where a run is: steps done of all (each utterance is spoken, then measured), and the one at hand."""

    done: int
    total: int
    doing: Literal["speaking", "measuring"]
    system: str
    suite: str
    text: str


ShowProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class Results:
    """The rows of a run, `rows[system][suite]`, and why a suite was left out for a system, `skipped[system][suite]`."""

    rows: dict[str, dict[str, list[Row]]]
    skipped: dict[str, dict[str, str]]


def run(
    systems: Sequence[System],
    suites: Sequence[Suite],
    folder: Path,
    instruments: Instruments,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: ShowProgress | None = None,
) -> Results:
    """Speaks and measures everything that `folder` does not hold already.

    Raises `EvaluationError` where two systems have one name, or the folder holds a run of other systems or settings.
    """
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise EvaluationError(f"two systems have one name ({', '.join(names)}): give them names with NAME=...")
    _claim(folder, systems, seed)
    skipped = {
        system.name: {suite.name: reason for suite in suites if (reason := suite.unfit(system)) is not None}
        for system in systems
    }
    plans = {
        system.name: {
            suite: suite.requests(system, limit=limit, seed=seed)
            for suite in suites
            if suite.name not in skipped[system.name]
        }
        for system in systems
    }
    if len(systems) > 1:
        for system in systems:
            system.close()  # of what planning may have loaded: one at a time is in memory, and timed
    count = _Count(2 * sum(len(requests) for plan in plans.values() for requests in plan.values()), progress)
    taken: dict[str, dict[Suite, list[Taken]]] = {}
    for system in systems:
        takes = Takes(folder, system.name)
        takes.keep_prompts(system)
        taken[system.name] = {}
        for suite, requests in plans[system.name].items():
            with takes.journal(suite.name) as journal:
                done = taken[system.name].setdefault(suite, [])
                for request in requests:
                    count.step("speaking", system.name, suite.name, request.text)
                    done.append(takes.perform(system, suite.name, request, journal))
            takes.write_manifest(suite.name, [item.request for item in done])
        if len(systems) > 1:
            system.close()
    rows = {
        system.name: _measure(system, Takes(folder, system.name), taken[system.name], folder, instruments, count)
        for system in systems
    }
    return Results(rows, skipped)


class _Count:
    """Counts the steps of a run, and tells."""

    def __init__(self, total: int, progress: ShowProgress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def step(self, doing: Literal["speaking", "measuring"], system: str, suite: str, text: str) -> None:
        if self._progress is not None:
            self._progress(Progress(self._done, self._total, doing, system, suite, text))
        self._done += 1


def _measure(
    system: System,
    takes: Takes,
    taken: dict[Suite, list[Taken]],
    folder: Path,
    instruments: Instruments,
    count: _Count,
) -> dict[str, list[Row]]:
    """The rows of one system by suite; the instruments are loaded when there is first something to be measured."""
    meter: Meter | None = None
    voices = system.voices()
    rows: dict[str, list[Row]] = {}
    for suite, items in taken.items():
        made = rows.setdefault(suite.name, [])
        with Journal(folder / "rows" / system.name / f"{suite.name}.jsonl") as journal:
            for item in items:
                count.step("measuring", system.name, suite.name, item.request.text)
                key = _row_key(item, instruments)
                row = _known_row(journal.get(key))
                if row is None:
                    meter = meter or Meter(instruments, prompts=hear_prompts(takes.prompt, voices, instruments))
                    row = _row(meter, suite, item, takes, voices)
                    journal.put(key, row.to_dict())
                made.append(row)
    return rows


def _row(meter: Meter, suite: Suite, item: Taken, takes: Takes, voices: Sequence[str]) -> Row:
    request = item.request
    voice = request.voice if request.voice is not None else next(iter(voices), None)
    sound = None if item.take.failure is not None else takes.sound(suite.name, request.id)
    if sound is None:
        return meter.failed(suite.name, request, item.take.failure or "its clip is gone", voice=voice)
    reference = request.original if request.recode else None
    if request.reference is not None:
        reference = takes.sound(suite.name, request.reference)
    return meter.measure(
        suite.name,
        request,
        item.take.clip(sound),
        voice=voice,
        reference=reference,
        listens=suite.listens,
        besides=suite.besides,
    )


def _row_key(item: Taken, instruments: Instruments) -> str:
    plain = json.dumps([item.key, item.take.to_dict(), instruments.asr], sort_keys=True)
    return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


def _known_row(value: dict[str, Any] | None) -> Row | None:
    try:
        return None if value is None else Row.from_dict(value)
    except ConfigError:
        return None  # of another version of duologue: measured again


def _claim(folder: Path, systems: Sequence[System], seed: int) -> None:
    """Writes `run.json`, or checks that the folder's is of the same systems and seed."""
    wanted = {"systems": {system.name: system.describe() for system in systems}, "seed": seed}
    wanted = json.loads(json.dumps(wanted))
    path = folder / "run.json"
    if path.exists():
        try:
            held = json.loads(read_text(path, "another folder"))
        except json.JSONDecodeError as error:
            raise EvaluationError(f"{path} is not readable ({error}): give another folder") from error
        if held != wanted:
            raise EvaluationError(f"{folder} holds a run of other systems or another seed: give another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")
