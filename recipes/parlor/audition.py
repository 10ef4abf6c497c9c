"""Which turn introduces a voice best: candidates are tried, and what the model makes of them is measured.

`python -m recipes.parlor.audition --model FOLDER --turns WORK/turns` speaks lines that no training file has (those
before the ones of the model card) after each of several reference turns of every shipped voice, alone and the best two
together, and writes the best into FOLDER's voices. The score is how much nearer the speech is to the voice than to any
other one (the cosine of speaker embeddings; a voice is the mean of several of its turns), a tenth of its DNSMOS, less
0.3 times its word error rate. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

import duologue
from duologue.data.prompts import ranked_prompts
from duologue.data.shards import CodedTurn, TurnStore
from duologue.engine.generator import Generator
from duologue.engine.load import find_source
from duologue.engine.voices import Voice, VoiceSegment, save_voice
from duologue.errors import DataError
from duologue.eval.clips import Clip, Request, Sound
from duologue.eval.instruments import Instruments, similarity
from duologue.eval.measure import Heard, Meter, Row
from duologue.eval.measure import Voice as Embedding
from recipes.parlor.evaluate import unseen_lines
from recipes.parlor.voices import SHIPPED
from recipes.work import Report, run_safely

_REFERENCE_TURNS = 8
_LEAST_REFERENCE_FRAMES = 25
_OVERALL_WEIGHT, _ERROR_WEIGHT = 0.1, 0.3
_CAP_MS = 12_000


@dataclass
class Candidate:
    """Reference turns that may introduce a voice, and what was spoken after them."""

    voice: Voice
    rows: list[Row] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The mean over its lines; one that was not understood or has no voice in it counts as nothing but errors."""
        return float(np.mean([_score(row) for row in self.rows]))

    def summary(self) -> dict[str, object]:
        """For the log."""
        words = sum(row.num_words for row in self.rows)
        return {
            "voice": self.voice.name,
            "texts": [segment.text for segment in self.voice.segments],
            "lines": len(self.rows),
            "score": round(self.score, 4),
            "margin": round(float(np.mean([row.measures.get("margin", 0.0) for row in self.rows])), 4),
            "wer": round(sum(row.word_errors for row in self.rows) / max(1, words), 4),
            "overall": round(float(np.mean([row.overall or 1.0 for row in self.rows])), 3),
        }


def _score(row: Row) -> float:
    overall = 1.0 if row.overall is None else row.overall
    return row.measures.get("margin", 0.0) + _OVERALL_WEIGHT * overall - _ERROR_WEIGHT * (row.word_error_rate or 0.0)


class Stage:
    """A generator, the lines, and ears that know all voices."""

    def __init__(
        self, generator: Generator, lines: Sequence[str], instruments: Instruments, known: dict[str, Embedding]
    ) -> None:
        self._generator, self._lines, self._known = generator, lines, known
        self._meter = Meter(instruments, prompts=known)

    def try_out(self, candidate: Candidate, num_lines: int) -> None:
        """Has the candidate speak its next lines until there are so many; a line's seed is its number."""
        name = candidate.voice.name
        for index in range(len(candidate.rows), min(num_lines, len(self._lines))):
            request = Request(f"audition/{index:03d}", "audition", self._lines[index], seed=index, voice=name)
            speech = self._generator.speak(request.text, seed=index, voice=candidate.voice, max_audio_length_ms=_CAP_MS)
            clip = Clip(Sound(speech.audio, speech.sample_rate), stop_reason=speech.stop_reason)
            candidate.rows.append(self._meter.measure("audition", request, clip, voice=name, besides=(self._margin,)))

    def _margin(self, heard: Heard) -> dict[str, float]:
        sound = heard.clip.sound
        voice = heard.instruments.speaker_encoder(sound.pcm, sound.sample_rate)
        own = heard.request.voice
        if voice is None or own is None:
            return {}
        others = [similarity(voice, known) for name, known in self._known.items() if name != own]
        return {"margin": similarity(voice, self._known[own]) - max(others, default=0.0)}


def audition(stage: Stage, singles: Sequence[Candidate], num_lines: int) -> list[Candidate]:
    """Tries every candidate on a third of the lines, the best three and the best two together on all; best first."""
    for candidate in singles:
        stage.try_out(candidate, max(1, num_lines // 3))
    ranked = sorted(singles, key=lambda one: -one.score)
    finalists = ranked[:3]
    if len(ranked) > 1:
        first, second = (candidate.voice for candidate in ranked[:2])
        finalists.append(Candidate(replace(first, segments=(*first.segments, *second.segments))))
    for candidate in finalists:
        stage.try_out(candidate, num_lines)
    return sorted(finalists, key=lambda one: -one.score)


def embedding_of(generator: Generator, turns: Iterable[CodedTurn], instruments: Instruments, name: str) -> Embedding:
    """What the speaker encoder hears in several turns, after the codec, on average; raises `DataError` for none."""
    found = []
    long_enough = (turn for turn in turns if turn.codes.shape[1] >= _LEAST_REFERENCE_FRAMES)
    for turn in islice(long_enough, _REFERENCE_TURNS):
        codes = torch.from_numpy(turn.codes[: generator.codec.num_codebooks].astype("int64"))
        pcm = generator.codec.decode(codes[None])[0, 0]
        heard = instruments.speaker_encoder(pcm, generator.sample_rate)
        if heard is not None:
            found.append(heard)
    if not found:
        raise DataError(f"the voice {name} has no turn in which it can be heard")
    mean = np.mean(found, axis=0)
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)


def run(arguments: argparse.Namespace, report: Report) -> None:
    """Auditions every voice that the turns have, and writes the winners."""
    generator = duologue.load(arguments.model, quantize=arguments.quantize)
    store = TurnStore(arguments.turns, fingerprint=generator.voices.fingerprint)
    instruments = Instruments(Path(tempfile.gettempdir()), offline=True)
    lines = unseen_lines(arguments.corpus, arguments.lines)
    turns = {
        voice: [turn for conversation in store.conversations for turn in conversation if turn.voice == voice.source]
        for voice in SHIPPED
    }
    turns = {voice: own for voice, own in turns.items() if own}
    known = {voice.name: embedding_of(generator, own, instruments, voice.name) for voice, own in turns.items()}
    stage = Stage(generator, lines, instruments, known)
    out = arguments.out or Path(find_source(arguments.model)) / "voices"
    for voice, own in turns.items():

        def introduced(turn: CodedTurn, name: str = voice.name, description: str = voice.description) -> Candidate:
            segment = VoiceSegment(turn.text, torch.from_numpy(turn.codes.astype("int64")))
            return Candidate(Voice(name, description, (segment,), generator.voices.fingerprint))

        singles = [introduced(turn) for turn in islice(ranked_prompts(own), arguments.candidates)]
        ranked = audition(stage, singles, arguments.lines)
        for candidate in ranked:
            report(json.dumps(candidate.summary()))
        save_voice(ranked[0].voice, out / f"{voice.name}.safetensors")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor.audition", description=__doc__)
    parser.add_argument("--model", help="a checkpoint folder (default: the bundled one)")
    parser.add_argument("--turns", type=Path, required=True, help="the coded turns of the training recordings")
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"))
    parser.add_argument("--candidates", type=int, default=8, help="reference turns to try for each voice (default: 8)")
    parser.add_argument("--lines", type=int, default=12, help="lines to speak after the best of them (default: 12)")
    parser.add_argument("--quantize", default="int8", help="how the model is packed for it (default: int8)")
    parser.add_argument("--out", type=Path, help="where the voices go (default: among the model's)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    arguments = parser.parse_args()
    return run_safely(lambda _, report: run(arguments, report), arguments.threads)


if __name__ == "__main__":
    sys.exit(main())
