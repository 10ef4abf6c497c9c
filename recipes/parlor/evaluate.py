"""Figures of the model card: what a recogniser understands of lines that no training file has.

`python -m recipes.parlor.evaluate --model FOLDER` speaks held-out lines, text only, in a shipped voice, and prints one
JSON object: corpus word error rate (whisper-base, Whisper's English normaliser), the share of lines that reach the cap,
similarity to the voice prompt, DNSMOS, real-time factor. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

import duologue
from duologue.audio import resample, write_audio
from duologue.checkpoints.whisper import bundled_whisper
from duologue.errors import DuologueError, DuologueWarning, TrainingError

CAP_MS = 20_000
_WHISPER_RATE = 16_000


def unseen_lines(corpus: Path, count: int) -> list[str]:
    """The first `count` different held-out turns whose text is in no training file."""
    lines: dict[str, None] = {}
    for manifest in sorted((corpus / "heldout").glob("manifest-*.jsonl")):
        for entry in map(json.loads, manifest.read_text(encoding="utf-8").splitlines()):
            for turn in entry["turns"]:
                if turn.get("unseen"):
                    lines.setdefault(turn["text"])
    if len(lines) < count:
        raise TrainingError(f"{corpus / 'heldout'} has {len(lines)} unseen lines, {count} were asked for")
    return list(lines)[:count]


class Ears:
    """The instruments, each loaded once."""

    def __init__(self, folder: Path) -> None:
        """`folder` keeps the joined Whisper weights. Raises `TrainingError` where the extra `eval` is missing."""
        try:
            import jiwer
            from faster_whisper import WhisperModel
            from resemblyzer import VoiceEncoder, preprocess_wav
            from speechmos import dnsmos
            from whisper_normalizer.english import EnglishTextNormalizer
        except ImportError as error:
            raise TrainingError(f"{error.name} is not installed: pip install 'duologue[eval]'") from error
        self._whisper = WhisperModel(str(bundled_whisper(folder)), device="cpu", compute_type="int8")
        self._encoder, self._preprocess = VoiceEncoder("cpu", verbose=False), preprocess_wav
        self._dnsmos, self._jiwer, self._tidy = dnsmos, jiwer, EnglishTextNormalizer()

    def words(self, pcm: torch.Tensor, rate: int) -> str:
        """The transcript of `[S]` samples."""
        heard = resample(pcm, rate, _WHISPER_RATE).numpy()
        segments, _ = self._whisper.transcribe(heard, language="en", beam_size=5)
        return " ".join(segment.text for segment in segments).strip()

    def error_rate(self, texts: list[str], heard: list[str]) -> float:
        """Corpus word error rate after Whisper's normaliser."""
        measured = self._jiwer.process_words([self._tidy(t) for t in texts], [self._tidy(h) for h in heard])
        return float(measured.wer)

    def likeness(self, pcm: torch.Tensor, other: torch.Tensor, rate: int) -> float:
        """Cosine of the speaker embeddings of two recordings."""
        first, second = (self._encoder.embed_utterance(self._preprocess(x.numpy(), rate)) for x in (pcm, other))
        return float(first @ second)

    def naturalness(self, pcm: torch.Tensor, rate: int) -> float:
        """DNSMOS P.835, overall."""
        heard = resample(pcm, rate, _WHISPER_RATE).clamp(-1, 1).numpy()
        return float(self._dnsmos.run(heard, _WHISPER_RATE)["ovrl_mos"])


def measure(
    generator: duologue.Generator, ears: Ears, lines: list[str], *, voice: str, temperature: float, out: Path | None
) -> dict[str, Any]:
    """Speaks every line with seed = its index, and scores the lot."""
    prompt = generator.find_voice(voice)
    reference = generator.codec.decode(prompt.segments[0].codes[None])[0, 0]
    rows: list[dict[str, Any]] = []
    for index, text in enumerate(lines):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DuologueWarning)
            speech = generator.speak(text, voice=voice, seed=index, max_audio_length_ms=CAP_MS, temperature=temperature)
        audio, rate = speech.audio, generator.sample_rate
        long_enough = len(audio) > rate // 2
        heard = ears.words(audio, rate) if long_enough else ""
        rows.append(
            {
                "text": text,
                "heard": heard,
                "wer": ears.error_rate([text], [heard]),
                "stop": speech.stop_reason,
                "seconds": speech.duration_s,
                "rtf": speech.real_time_factor,
                "sim": ears.likeness(audio, reference, rate) if long_enough else None,
                "dnsmos": ears.naturalness(audio, rate) if long_enough else None,
            }
        )
        if out is not None:
            write_audio(out / f"{index:03d}.wav", audio, rate)
    return {
        "voice": voice,
        "temperature": temperature,
        "lines": len(lines),
        "wer": ears.error_rate([row["text"] for row in rows], [row["heard"] for row in rows]),
        "cap_share": sum(row["stop"] == "cap" for row in rows) / len(rows),
        "sim": statistics.fmean(row["sim"] for row in rows if row["sim"] is not None),
        "dnsmos": statistics.fmean(row["dnsmos"] for row in rows if row["dnsmos"] is not None),
        "rtf": statistics.median(row["rtf"] for row in rows if row["seconds"]),
        "rows": rows,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor.evaluate", description=__doc__)
    parser.add_argument("--model", help="a checkpoint folder (default: the bundled one)")
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"))
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--voice", help="default: the first that is shipped")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--out", type=Path, help="a folder for the recordings and report.json")
    arguments = parser.parse_args()
    try:
        generator = duologue.load(arguments.model)
        ears = Ears(Path(tempfile.gettempdir()))
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
        report = measure(
            generator,
            ears,
            unseen_lines(arguments.corpus, arguments.lines),
            voice=arguments.voice or generator.voices.shipped_names[0],
            temperature=arguments.temperature,
            out=arguments.out,
        )
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.out is not None:
        (arguments.out / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    for row in report.pop("rows"):
        print(
            f"{row['wer']:.2f} {row['stop']:3} {row['seconds']:5.1f} s | {row['text']} | {row['heard']}",
            file=sys.stderr,
        )
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
