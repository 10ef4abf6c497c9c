"""More speech for parlor: everyday chat in the voices of a troupe.

`python -m recipes.parlor.render --hours 6 --out FOLDER/joe` writes recordings and a manifest as the corpus has them;
give FOLDER to `python -m recipes.parlor --corpus` beside the corpus itself. See `recipes.parlor.troupes` for what each
troupe needs. The words are those of the Self-dialogue Corpus (Fainberg et al., 2018); lines and voices of `heldout/`
are left out.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duologue.audio import write_audio
from duologue.errors import DuologueError, TrainingError
from recipes.parlor.troupes import SAMPLE_RATE, TROUPES, Troupe

LEAD_S = 0.1
PAUSE_S = (0.1, 0.5)
PACES = (0.8, 0.9, 1.0, 1.1, 1.25)
MONOLOGUES = 0.3
WORDS = (2, 18)
_SPEAKABLE = re.compile(r"[A-Za-z ,.?!'-]+")


def read_dialogues(corpus: Path) -> list[list[str]]:
    """The pieces of `text/self_dialogue.jsonl`, without turns that are held out, hard to speak, or too short or long.

    A turn left out cuts its piece in two. Raises `TrainingError` where the file is missing.
    """
    path = corpus / "text" / "self_dialogue.jsonl"
    if not path.is_file():
        raise TrainingError(f"no {path}: give the corpus with --corpus")
    held_out = {
        turn["text"]
        for manifest in sorted(corpus.glob("*/manifest-*.jsonl"))
        if "heldout" in str(manifest.relative_to(corpus))
        for line in manifest.read_text(encoding="utf-8").splitlines()
        for turn in json.loads(line)["turns"]
    }
    shortest, longest = WORDS
    pieces: list[list[str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        piece: list[str] = []
        for text in json.loads(line):
            fits = shortest <= len(text.split()) <= longest and _SPEAKABLE.fullmatch(text) and text not in held_out
            if fits:
                piece.append(text)
            elif piece:
                pieces.append(piece)
                piece = []
        if piece:
            pieces.append(piece)
    return pieces


@dataclass(frozen=True)
class Cast:
    """Who speaks the turns of one piece: voice names and paces, by speaker."""

    voices: tuple[str, ...]
    paces: tuple[float, ...]
    shared_pace: bool


def draw_cast(troupe: Troupe, random: np.random.Generator) -> Cast:
    """One voice or two different ones; one pace for both half of the time."""
    paces = (float(random.choice(PACES)), float(random.choice(PACES)))
    voices: list[str] = []
    while len(voices) < 2:
        voice = troupe.draw(random)
        if voice not in voices:
            voices.append(voice)
    if random.random() < MONOLOGUES:
        return Cast((voices[0],), paces[:1], False)
    shared = bool(random.random() < 0.5)
    return Cast(tuple(voices), (paces[0], paces[0] if shared else paces[1]), shared)


def render_piece(troupe: Troupe, texts: list[str], path: Path, seed: tuple[int, ...]) -> dict[str, Any]:
    """Speaks a piece into `path` and returns its manifest entry."""
    random = np.random.default_rng(seed)
    cast = draw_cast(troupe, random)
    parts = [torch.zeros(round(LEAD_S * SAMPLE_RATE))]
    position = len(parts[0])
    turns = []
    for number, text in enumerate(texts):
        speaker = number % len(cast.voices)
        voice, pace = cast.voices[speaker], cast.paces[speaker]
        spoken = troupe.speak(text, voice, pace)
        turns.append({"speaker": speaker, "voice": voice, "pace": pace, "text": text, "start": position,
                      "end": position + len(spoken)})  # fmt: skip
        pause = torch.zeros(round(float(random.uniform(*PAUSE_S)) * SAMPLE_RATE))
        parts += [spoken, pause]
        position += len(spoken) + len(pause)
    write_audio(path, torch.cat(parts).clamp(-1, 1), SAMPLE_RATE)
    return {"file": path.name, "sample_rate": SAMPLE_RATE, "samples": position, "shared_pace": cast.shared_pace,
            "turns": turns}  # fmt: skip


_TROUPE: Troupe | None = None


def _start_worker(troupe: str) -> None:
    global _TROUPE
    torch.set_num_threads(1)  # more than there are cores would wait for one another
    _TROUPE = TROUPES[troupe]()


def _render(texts: list[str], path: Path, seed: tuple[int, ...]) -> dict[str, Any]:
    assert _TROUPE is not None
    return render_piece(_TROUPE, texts, path, seed)


def render(
    pieces: list[list[str]], out: Path, *, hours: float, workers: int, seed: int = 0, troupe: str = "joe"
) -> Iterator[float]:
    """Renders pieces with a troupe of `TROUPES`, in an order that `seed` draws; yields the hours so far.

    The manifest grows piece by piece, and a run that was interrupted goes on after its last one, until there
    are `hours`.
    """
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / f"manifest-{60 + seed}.jsonl"
    done = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
    seconds = sum(json.loads(line)["samples"] for line in done) / SAMPLE_RATE
    order = np.random.default_rng(seed).permutation(len(pieces))[len(done) :]
    with (
        ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(troupe,)
        ) as pool,
        manifest.open("a", encoding="utf-8") as sheet,
    ):
        for first in range(0, len(order), 16 * workers):
            chosen = order[first : first + 16 * workers]
            numbers = range(len(done) + first, len(done) + first + len(chosen))
            jobs = [
                pool.submit(_render, pieces[piece], out / f"{60 + seed}-{number:05d}.flac", (seed, number))
                for piece, number in zip(chosen, numbers, strict=True)
            ]
            for job in jobs:
                entry = job.result()
                seconds += entry["samples"] / SAMPLE_RATE
                sheet.write(json.dumps(entry, ensure_ascii=False) + "\n")
            sheet.flush()
            yield seconds / 3600
            if seconds >= hours * 3600:
                return


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor.render", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"), help="where text/ and heldout/ are")
    parser.add_argument("--out", type=Path, help="default: runs/rendered/TROUPE")
    parser.add_argument(
        "--troupe", choices=sorted(TROUPES), default="joe", help="joe and his shifts, or Kokoro's blends"
    )
    parser.add_argument("--seed", type=int, default=0, help="another one renders other pieces, into another manifest")
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    out = arguments.out or Path("runs/rendered") / arguments.troupe
    pieces = read_dialogues(arguments.corpus)
    try:
        for hours in render(
            pieces,
            out,
            hours=arguments.hours,
            workers=arguments.workers,
            seed=arguments.seed,
            troupe=arguments.troupe,
        ):
            print(f"rendered {hours:.2f} of {arguments.hours:g} hours", flush=True)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
