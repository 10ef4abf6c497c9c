"""Figures of the model card: what a recogniser understands of lines that no training file has.

`python -m recipes.parlor.evaluate --model FOLDER` speaks held-out lines, text only, in a shipped voice, and prints
corpus word error rate (whisper-base, Whisper's English normaliser), the share of lines that reach the cap, similarity
to the voice prompt, DNSMOS and real-time factor, each with its bootstrap interval. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import duologue
from duologue.audio import write_audio
from duologue.errors import DuologueError, TrainingError
from duologue.eval.clips import Request
from duologue.eval.instruments import Instruments
from duologue.eval.markdown import figure_text
from duologue.eval.measure import Meter, Row, hear_prompts
from duologue.eval.metrics import METRICS
from duologue.eval.statistics import Figure
from duologue.eval.systems import ModelOptions, ModelSystem

METRIC_NAMES = ("wer", "misunderstood", "cap", "similarity", "right_voice", "overall", "trailing_silence", "rtf_p50")


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


def measure(
    system: ModelSystem, instruments: Instruments, lines: Sequence[str], voice: str, out: Path | None
) -> list[Row]:
    """Speaks every line with seed = its index, and measures it; the recordings go to `out`."""
    meter = Meter(instruments, prompts=hear_prompts(system.prompt, system.voices(), instruments))
    rows = []
    for index, text in enumerate(lines):
        request = Request(f"unseen/{index:03d}", "unseen", text, seed=index, voice=voice)
        clip = system.speak(request)
        rows.append(meter.measure("heldout", request, clip, voice=voice))
        if out is not None:
            write_audio(out / f"{index:03d}.wav", clip.sound.pcm, clip.sound.sample_rate)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor.evaluate", description=__doc__)
    parser.add_argument("--model", help="a checkpoint folder (default: the bundled one)")
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"))
    parser.add_argument("--lines", type=int, default=40)
    parser.add_argument("--voice", help="default: the first that is shipped")
    parser.add_argument("--temperature", type=float, help="default: that of generation, 0.9")
    parser.add_argument("--guidance", type=float, help="default: as the checkpoint says")
    parser.add_argument("--out", type=Path, help="a folder for the recordings and rows.json")
    arguments = parser.parse_args()
    try:
        lines = unseen_lines(arguments.corpus, arguments.lines)
        system = ModelSystem(
            "parlor",
            lambda: duologue.load(arguments.model),
            source=str(arguments.model),
            options=ModelOptions(voice=arguments.voice, temperature=arguments.temperature, guidance=arguments.guidance),
        )
        voice = system.voices()[0]
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
        rows = measure(system, Instruments(Path(tempfile.gettempdir())), lines, voice, arguments.out)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments.out is not None:
        (arguments.out / "rows.json").write_text(
            json.dumps([row.to_dict() for row in rows], indent=1), encoding="utf-8"
        )
    for row in rows:
        rate = "  - " if row.word_error_rate is None else f"{row.word_error_rate:.2f}"
        print(f"{rate} {row.stop_reason:3} {row.duration_s:5.1f} s | {row.text} | {row.heard}", file=sys.stderr)
    for name in METRIC_NAMES:
        metric = METRICS[name]
        figure: Figure = metric.figure(rows)
        print(f"{metric.title}: {figure_text(*dataclasses.astuple(figure), unit=metric.unit)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
