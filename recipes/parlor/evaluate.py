"""Figures of the model card: what a recogniser understands of lines that no training file has.

`python -m recipes.parlor.evaluate --model FOLDER` speaks held-out lines, text only, in the shipped voices in turn, and
prints corpus word error rate (whisper-base, Whisper's English normaliser), the share of lines that reach the cap,
similarity to the voice prompt, DNSMOS and real-time factor, each with its bootstrap interval. With `--strangers` the
lines are spoken in the four voices of `heldout` in turn, each told by one recording of it; the similarity to the mean
of the other three is then printed too. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import duologue
from duologue.audio import read_audio, write_audio
from duologue.engine.voices import NO_VOICE
from duologue.errors import DuologueError, TrainingError
from duologue.eval.clips import ContextTurn, Request, Sound
from duologue.eval.instruments import Instruments, similarity
from duologue.eval.markdown import figure_text
from duologue.eval.measure import Heard, Meter, Row, hear_prompts
from duologue.eval.metrics import METRICS
from duologue.eval.statistics import Figure
from duologue.eval.systems import ModelOptions, ModelSystem

METRIC_NAMES = ("wer", "misunderstood", "cap", "similarity", "right_voice", "overall", "trailing_silence", "rtf_p50")
SAMPLE_RATE = 24_000
PROMPT_S = 5.0


def unseen_lines(corpus: Path, count: int, *, skip: int = 0) -> list[str]:
    """The first `count` different held-out turns after `skip` others, whose text is in no training file."""
    lines: dict[str, None] = {}
    for manifest in sorted((corpus / "heldout").glob("manifest-*.jsonl")):
        for entry in map(json.loads, manifest.read_text(encoding="utf-8").splitlines()):
            for turn in entry["turns"]:
                if turn.get("unseen"):
                    lines.setdefault(turn["text"])
    if len(lines) < skip + count:
        raise TrainingError(
            f"{corpus / 'heldout'} has {len(lines)} unseen lines, not {skip + count}: lower --lines or --skip"
        )
    return list(lines)[skip : skip + count]


@dataclass(frozen=True, eq=False)
class Stranger:
    """A voice that is in no training file: one of its turns."""

    text: str
    sound: Sound


def strangers(corpus: Path) -> dict[str, Stranger]:
    """By name, the held-out turn of each voice that is nearest to `PROMPT_S`."""
    nearest: dict[str, tuple[float, Path, dict[str, Any]]] = {}
    for manifest in sorted((corpus / "heldout").glob("manifest-*.jsonl")):
        for entry in map(json.loads, manifest.read_text(encoding="utf-8").splitlines()):
            for turn in entry["turns"]:
                off = abs((turn["end"] - turn["start"]) / entry["sample_rate"] - PROMPT_S)
                if off < nearest.get(turn["voice"], (math.inf,))[0]:
                    nearest[turn["voice"]] = (off, manifest.parent / entry["file"], turn)
    found = {}
    for voice, (_, path, turn) in sorted(nearest.items()):
        pcm, rate = read_audio(path, SAMPLE_RATE)
        found[voice] = Stranger(turn["text"], Sound(pcm[turn["start"] : turn["end"]], rate))
    return found


def follow(
    system: ModelSystem, instruments: Instruments, lines: Sequence[str], known: dict[str, Stranger], out: Path | None
) -> list[Row]:
    """Speaks every line in one of the strangers' voices in turn; a row has the similarity to the others as `others`."""
    prompts = hear_prompts(lambda voice: known[voice].sound, list(known), instruments)

    def others(heard: Heard) -> dict[str, float]:
        voice = instruments.speaker_encoder(heard.clip.sound.pcm, heard.clip.sound.sample_rate)
        own = heard.request.facts["stranger"]
        rest = [prompt for name, prompt in prompts.items() if name != own]
        return {} if voice is None else {"others": float(np.mean([similarity(voice, prompt) for prompt in rest]))}

    meter = Meter(instruments, prompts=prompts)
    rows = []
    for index, text in enumerate(lines):
        name = sorted(known)[index % len(known)]
        context = (ContextTurn(0, known[name].text, known[name].sound),)
        request = Request(
            f"stranger/{index:03d}",
            "stranger",
            text,
            seed=index,
            voice=NO_VOICE,
            context=context,
            facts={"stranger": name},
        )
        clip = system.speak(request)
        rows.append(meter.measure("heldout", request, clip, voice=name, besides=(others,)))
        if out is not None:
            write_audio(out / f"{index:03d}-{name}.wav", clip.sound.pcm, clip.sound.sample_rate)
    return rows


def measure(
    system: ModelSystem, instruments: Instruments, lines: Sequence[str], voices: Sequence[str], out: Path | None
) -> list[Row]:
    """Speaks every line, in one of `voices` in turn, seed = its index, and measures it; the recordings go to `out`."""
    meter = Meter(instruments, prompts=hear_prompts(system.prompt, system.voices(), instruments))
    rows = []
    for index, text in enumerate(lines):
        voice = voices[index % len(voices)]
        request = Request(f"unseen/{index:03d}", "unseen", text, seed=index, voice=voice)
        clip = system.speak(request)
        rows.append(meter.measure("heldout", request, clip, voice=voice))
        if out is not None:
            write_audio(out / f"{index:03d}-{voice}.wav", clip.sound.pcm, clip.sound.sample_rate)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor.evaluate", description=__doc__)
    parser.add_argument("--model", help="a checkpoint folder (default: the bundled one)")
    parser.add_argument("--corpus", type=Path, default=Path("../shared/corpus"))
    parser.add_argument("--lines", type=int, default=40, help="how many (default: 40)")
    parser.add_argument(
        "--skip", type=int, default=0, help="leave out so many before them, which settings were chosen by"
    )
    parser.add_argument("--voice", help="this one only (default: all that are shipped, in turn)")
    parser.add_argument("--strangers", action="store_true", help="speak in voices that the model has never heard")
    parser.add_argument("--temperature", type=float, help="default: that of generation, 0.9")
    parser.add_argument("--guidance", type=float, help="default: as the checkpoint says")
    parser.add_argument("--quantize", help="int8 (default: as it is)")
    parser.add_argument("--backend", default="eager", help="eager or compiled (default: eager)")
    parser.add_argument("--out", type=Path, help="a folder for the recordings and rows.json")
    arguments = parser.parse_args()
    try:
        lines = unseen_lines(arguments.corpus, arguments.lines, skip=arguments.skip)
        system = ModelSystem(
            "parlor",
            lambda: duologue.load(arguments.model, quantize=arguments.quantize, backend=arguments.backend),
            source=str(arguments.model),
            options=ModelOptions(voice=arguments.voice, temperature=arguments.temperature, guidance=arguments.guidance),
        )
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
        instruments = Instruments(Path(tempfile.gettempdir()))
        if arguments.strangers:
            rows = follow(system, instruments, lines, strangers(arguments.corpus), arguments.out)
        else:
            voices = system.voices() if arguments.voice is None else [arguments.voice]
            rows = measure(system, instruments, lines, voices, arguments.out)
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
    apart = [row.similarity - row.measures["others"] for row in rows if row.similarity and "others" in row.measures]
    if apart:
        print(f"Similarity above the mean of the other voices: {np.mean(apart):.3f} over {len(apart)} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
