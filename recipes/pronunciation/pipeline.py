"""The steps in order: render, judge, measure; a voice is one job of a pool."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import torch

from duologue.audio import read_audio
from duologue.eval.phones import Calibration, PocketsphinxJudge
from recipes.pronunciation.calibrate import LEAST_CORRECT, LEAST_LOW, Judged, measure_pair
from recipes.pronunciation.references import references, render_references

VERSION: Final = 1
VOICES: Final = ("joe", "joe-84", "joe-121", "joe-92", "joe-110", "joe-133", "ko-a", "ko-g", "ko-t", "ko-k", "ko-n")
TUNED_ON: Final = ("joe", "joe-84", "joe-133", "ko-a", "ko-k")  # the method was chosen on these too
MEASURED_ON: Final = tuple(voice for voice in VOICES if voice not in TUNED_ON)


def judge_voice(voice: str, number: int, work: Path, lines: Collection[str] | None = None) -> list[Judged]:
    """Renders what one voice is to say and judges it by likelihood alone; `work` keeps recordings and answers.

    Raises `DuologueError` where the voice or the judge is not installed.
    """
    torch.set_num_threads(1)
    judge = PocketsphinxJudge(thresholds={})
    sheet = work / f"{voice}.jsonl"
    work.mkdir(parents=True, exist_ok=True)
    known: dict[tuple[str, str], float | None] = {}
    if sheet.exists():
        for row in map(json.loads, sheet.read_text(encoding="utf-8").splitlines()):
            known[row["line"], row["phones"]] = row["advantage"]
    judged = []
    with sheet.open("a", encoding="utf-8") as rows:
        for reference in render_references(voice, references(voice, number, lines), work):
            key = reference.line, reference.phones
            if key not in known:
                pcm, sample_rate = read_audio(reference.path(work))
                said = judge(pcm, sample_rate, reference.text, reference.word, reference.pair)
                known[key] = None if said is None else said.margin * (1 if said.index == 0 else -1)
                rows.write(json.dumps({"line": key[0], "phones": key[1], "advantage": known[key]}) + "\n")
                rows.flush()  # a run that was interrupted goes on here
            place = reference.pair.index(reference.phones)
            judged.append(Judged(voice, reference.line, reference.word, reference.pair, place, known[key]))
    return judged


def calibrate(judged: Sequence[Judged], tuned_on: Sequence[str], measured_on: Sequence[str]) -> Calibration:
    """The figures of every word among the references, in the order of the lists."""
    by_word: dict[str, list[Judged]] = {}
    for entry in judged:
        by_word.setdefault(entry.word, []).append(entry)
    return Calibration(
        name="pronunciation_accuracy",
        version=VERSION,
        instrument=PocketsphinxJudge(thresholds={}).name,
        tuned_on=tuple(tuned_on),
        measured_on=tuple(measured_on),
        least_correct=LEAST_CORRECT,
        least_low=LEAST_LOW,
        pairs=tuple(measure_pair(entries, tuned_on, measured_on) for entries in by_word.values()),
    )


def run(
    out: Path,
    work: Path,
    *,
    tuned_on: Sequence[str] = TUNED_ON,
    measured_on: Sequence[str] = MEASURED_ON,
    lines: Collection[str] | None = None,
    workers: int = 2,
    report: Callable[[str], object] = print,
) -> Calibration:
    """Renders, judges, measures and writes `out`; of the lists' lines only those with an id in `lines` if given.

    Raises `DuologueError` where something is not installed.
    """
    voices = [voice for voice in VOICES if voice in (*tuned_on, *measured_on)]
    found: dict[str, list[Judged]] = {}
    for voice, judged in _judge_voices(voices, work, lines, workers):
        found[voice] = judged
        report(f"{voice}: {len(judged)} references judged")
    made = calibrate([entry for voice in voices for entry in found[voice]], tuned_on, measured_on)
    out.write_text(made.to_json(), encoding="utf-8")
    return made


def _judge_voices(
    voices: Sequence[str], work: Path, lines: Collection[str] | None, workers: int
) -> Iterator[tuple[str, list[Judged]]]:
    """The answers voice by voice, as they come; one worker is this process itself."""
    if workers == 1:
        for voice in voices:
            yield voice, judge_voice(voice, VOICES.index(voice), work, lines)
        return
    # Not forked: the runtimes of the synthesizers have threads.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(judge_voice, voice, VOICES.index(voice), work, lines): voice for voice in voices}
        try:
            for job in as_completed(jobs):
                yield jobs[job], job.result()
        finally:
            pool.shutdown(cancel_futures=True)
