"""What a model makes of lines in a person's voice and in others: words, likeness, quality; kept in a file."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import duologue
from duologue.engine.scheduler import Scheduler
from duologue.errors import DuologueWarning
from duologue.eval.clips import Clip, Request, Sound
from duologue.eval.instruments import Instruments
from duologue.eval.measure import Meter, Row, hear_prompts
from duologue.eval.metrics import METRICS
from duologue.eval.systems import ModelOptions, ModelSystem


@dataclass(frozen=True)
class Heard:
    """Means over lines in one voice: `wer` in percent, `sim` to its prompt, DNSMOS `ovrl`; None where nothing is."""

    voice: str
    lines: int
    wer: float | None
    sim: float | None
    ovrl: float | None

    def figures(self) -> dict[str, object]:
        """For a log."""
        return asdict(self)


def hear(
    model: str | Path, lines: Sequence[str], voice: str, num_others: int, instruments: Instruments, path: Path
) -> list[Heard]:
    """Speaks the lines in `voice`, then in other voices of the checkpoint; what `path` holds is not measured again.

    A line's seed is its number. Several are spoken at a time, each as it would be alone.
    """
    if path.exists():
        return [Heard(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    options = ModelOptions(voice=voice)
    system = ModelSystem("tuned", lambda: duologue.load(model), source=str(model), options=options)
    names = system.voices()[: 1 + num_others]
    meter = Meter(instruments, prompts=hear_prompts(system.prompt, system.voices(), instruments))
    requests = [
        Request(f"{name}/{index:03d}", name, text, seed=index, voice=name)
        for name in names
        for index, text in enumerate(lines)
    ]
    spoken: dict[str, list[Row]] = {name: [] for name in names}
    with warnings.catch_warnings(), Scheduler(system.generator, max_waiting=len(requests)) as scheduler:
        warnings.simplefilter("ignore", DuologueWarning)  # of what did not end, and counts by its words
        cap_ms = 1000 * options.cap_s
        orders = [
            scheduler.submit(one.text, max_audio_length_ms=cap_ms, seed=one.seed, voice=one.voice, **options.sampling())
            for one in requests
        ]
        for request, order in zip(requests, orders, strict=True):
            for _ in order:
                pass  # the result has it whole
            assert order.result is not None
            clip = Clip(Sound(order.result.audio, order.result.sample_rate), stop_reason=order.result.stop_reason)
            spoken[request.group].append(meter.measure("real_voice", request, clip, voice=request.group))
    found = []
    for name, rows in spoken.items():
        values = [METRICS[metric].figure(rows).value for metric in ("wer", "similarity", "overall")]
        found.append(Heard(name, len(rows), *values))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([heard.figures() for heard in found], indent=1), encoding="utf-8")
    return found


def markdown(results: Mapping[str, Sequence[Heard]]) -> str:
    """A row for each model, three figures for each voice."""
    voices = [heard.voice for heard in next(iter(results.values()))]
    lines = ["| model | " + " | ".join(f"{voice}: WER %, SIM, DNSMOS" for voice in voices) + " |"]
    lines.append("|---" * (len(voices) + 1) + "|")
    for name, heard in results.items():
        cells = [
            ", ".join(_figure(value, digits) for value, digits in ((one.wer, 1), (one.sim, 2), (one.ovrl, 2)))
            for one in heard
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(value: float | None, digits: int) -> str:
    return "none" if value is None else f"{value:.{digits}f}"
