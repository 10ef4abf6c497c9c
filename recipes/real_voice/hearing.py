"""What a model makes of lines in a person's voice and in others: words, likeness, quality; kept in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import duologue
from duologue.eval.clips import Request
from duologue.eval.instruments import Instruments
from duologue.eval.measure import Meter, hear_prompts
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
    """Speaks the lines in `voice`, then in other voices of the checkpoint; what `path` holds is not measured again."""
    if path.exists():
        return [Heard(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    system = ModelSystem("tuned", lambda: duologue.load(model), source=str(model), options=ModelOptions(voice=voice))
    names = [name for name in duologue.load(model).voices.shipped_names if name != voice][:num_others]
    meter = Meter(instruments, prompts=hear_prompts(system.prompt, system.voices(), instruments))
    found = []
    for name in (voice, *names):
        rows = []
        for index, text in enumerate(lines):
            request = Request(f"{name}/{index:03d}", name, text, seed=index, voice=name)
            rows.append(meter.measure("real_voice", request, system.speak(request), voice=name))
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
