"""Folders of clips to compare, and raters who answer by a rule."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from duologue.audio import write_audio
from duologue.eval.listening.key import Key, Trial
from duologue.eval.listening.ratings import RATINGS_FORMAT, Answer, RaterFile

RATE = 16_000
FIRST, SECOND = "osprey-v2", "heron-large"  # names that no page may hold
ITEMS = ("plain-calm-003", "plain-calm-004", "talk-turn-011")
IN_CONTEXT = ("talk-turn-011",)

Opinion = Callable[[Trial], int]
Swapped = Callable[[int], bool]


def voice_like(seconds: float, hertz: float) -> torch.Tensor:
    """Harmonics that swell, `[num_samples]`: broadband enough that a band limit takes something away."""
    time = torch.arange(round(seconds * RATE)) / RATE
    harmonics = [number for number in range(1, 30) if number * hertz < RATE / 2]
    tones = sum(torch.sin(2 * torch.pi * hertz * number * time) / number for number in harmonics)
    return 0.1 * torch.as_tensor(tones) * (1 + 0.5 * torch.sin(2 * torch.pi * 3 * time))


def make_system(folder: Path, hertz: float, seconds: float = 0.4, *, history: bool = True) -> Path:
    """One system's folder: a clip for each of `ITEMS`, a manifest, and the history's recordings."""
    (folder / "context").mkdir(parents=True)
    for name, pitch in (("opening-line", 200.0), ("second-line", 220.0)):
        write_audio(folder / "context" / f"{name}.wav", voice_like(seconds, pitch), RATE)
    lines = []
    for number, item in enumerate(ITEMS):
        write_audio(folder / f"{item}.wav", voice_like(seconds, hertz + 5 * number), RATE)
        line: dict[str, Any] = {"id": item, "file": f"{item}.wav", "text": f"This is line number {number + 1}."}
        if item in IN_CONTEXT and history:
            line["context"] = [
                {"speaker": 0, "text": "Did you hear the </script> concert?", "file": "context/opening-line.wav"},
                {"speaker": 1, "text": "No, tell me."},
                {"speaker": 0, "text": "It was loud.", "file": "context/second-line.wav"},
            ]
        lines.append(line)
    write_manifest(folder, lines)
    return folder


def write_manifest(folder: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "manifest.jsonl").write_text(text, encoding="utf-8")


def make_key(num_items: int, *, num_with_context: int = 0, num_checks: int = 0) -> Key:
    trials = [Trial(f"t{n}", "pair", "no context", f"item{n:03}", f"a{n}", f"b{n}") for n in range(num_items)]
    trials += [Trial(f"u{n}", "pair", "context", f"item{n:03}", f"a{n}", f"b{n}") for n in range(num_with_context)]
    for n in range(num_checks):
        kind = "degraded" if n % 2 else "identical"
        trials.append(Trial(f"c{n}", kind, "no context", f"item{n:03}", f"x{n}", f"y{n}"))  # type: ignore[arg-type]
    return Key.make("test", "A title", 0, FIRST, SECOND, tuple(trials))


def attentive(opinion: Opinion) -> Opinion:
    """Answers checks as one should, and pairs by `opinion`; positive where the second is better."""
    known = {"identical": 0, "degraded": -3}
    return lambda trial: known[trial.kind] if trial.kind in known else opinion(trial)


def rate(key: Key, rater: str, opinion: Opinion, *, swapped: Swapped = lambda n: n % 2 == 1) -> RaterFile:
    """What a rater hands over whose `opinion` says how much the trial's second clip is better, on either side."""
    answers = []
    for number, trial in enumerate(key.trials):
        is_swapped = swapped(number)
        left, right = (trial.second, trial.first) if is_swapped else (trial.first, trial.second)
        value = opinion(trial)
        answers.append(Answer(trial.id, number + 1, left, right, -value if is_swapped else value, 1, 1, 4.5))
    return RaterFile(
        RATINGS_FORMAT,
        1,
        key.test,
        rater,
        1,
        "2026-01-01T10:00:00Z",
        "2026-01-01T10:20:00Z",
        len(answers),
        tuple(answers),
    )
