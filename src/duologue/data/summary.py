"""What a store of turns holds: hours, voices, lengths, rates, and what was left out and why, with plots."""

from __future__ import annotations

import collections
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from duologue.data.prepare import LEFT_OUT
from duologue.data.shards import TurnStore, read_json
from duologue.errors import DataError

_MOST_VOICES: Final = 30  # in the plot
_BINS: Final = 40


@dataclass(frozen=True)
class Summary:
    """`read_hours` are those of the recordings, `hours` those of the turns that were kept; rates are letters a second.

    `left_out` counts by the reason's kind, the words before its colon.
    """

    layout: str
    read_hours: float
    hours: float
    conversations: int
    turns: int
    voices: Mapping[str, float]
    turn_seconds: Sequence[float]
    turn_rates: Sequence[float]
    left_out: Mapping[str, int]

    def figures(self) -> dict[str, Any]:
        """Without the lists of single turns, for a file: quantiles stand for them."""
        entries = asdict(self)
        entries["turn_seconds"], entries["turn_rates"] = _quantiles(self.turn_seconds), _quantiles(self.turn_rates)
        return entries


def summarize(folder: Path, *, frame_rate: float) -> Summary:
    """Adds up what `prepare` wrote; raises `DataError` where there is nothing."""
    store = TurnStore(folder)
    index = read_json(folder / "index.json", f"nothing prepared in {folder}")
    seconds = [turn.codes.shape[1] / frame_rate for conversation in store.conversations for turn in conversation]
    letters = [sum(map(str.isalnum, turn.text)) for conversation in store.conversations for turn in conversation]
    voices: collections.Counter[str] = collections.Counter()
    for conversation in store.conversations:
        for turn in conversation:
            voices[turn.voice] += turn.codes.shape[1]
    reasons = [json.loads(line)["why"] for line in (folder / LEFT_OUT).read_text(encoding="utf-8").splitlines()]
    read = [read_json(folder / f"{name}.json", "a shard has gone")["seconds"] for name in index["shards"]]
    return Summary(
        layout=index["layout"],
        read_hours=sum(read) / 3600,
        hours=sum(seconds) / 3600,
        conversations=len(store.conversations),
        turns=len(seconds),
        voices={voice: count / frame_rate / 60 for voice, count in voices.most_common()},
        turn_seconds=seconds,
        turn_rates=[count / max(length, 1e-9) for count, length in zip(letters, seconds, strict=True)],
        left_out=dict(collections.Counter(reason.partition(":")[0] for reason in reasons).most_common()),
    )


def _quantiles(values: Sequence[float]) -> dict[str, float]:
    return {
        f"p{percent:02d}": round(float(np.percentile(values, percent)), 3) for percent in (1, 5, 25, 50, 75, 95, 99)
    }


def draw(summary: Summary, path: Path) -> None:
    """A picture of it: minutes by voice, lengths and rates of turns, what was left out. The suffix gives the format."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise DataError(f"{error.name} is not installed: pip install 'duologue[prepare]'") from error
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle(
        f"{summary.hours:.2f} h in {summary.turns} turns of {summary.conversations} conversations, "
        f"{len(summary.voices)} voices, from {summary.read_hours:.2f} h read"
    )
    (voices, lengths), (reasons, rates) = figure.subplots(2, 2)
    shown = list(summary.voices.items())[:_MOST_VOICES]
    _bars(voices, dict(shown), "minutes")
    voices.set_title("voices" + ("" if len(shown) == len(summary.voices) else f" (the first {len(shown)})"))
    _bars(reasons, summary.left_out, "recordings and turns")
    reasons.set_title("left out")
    for axes, values, unit in ((lengths, summary.turn_seconds, "s"), (rates, summary.turn_rates, "letters a second")):
        axes.hist(values, bins=_BINS, color="C0")
        axes.axvline(float(np.median(values)), color="C1")
        axes.set_xlabel(unit)
        axes.set_ylabel("turns")
        axes.set_title("length of turns" if unit == "s" else "speech rate")
    # Without the date, so that the same data give the same file.
    figure.savefig(path, dpi=100, metadata={"Date": None} if path.suffix == ".svg" else None)


def _bars(axes: Any, values: Mapping[str, float], unit: str) -> None:
    if not values:
        axes.text(0.5, 0.5, "nothing", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    names = [name if len(name) <= 28 else f"{name[:27]}…" for name in values]
    places = range(len(names), 0, -1)
    axes.barh(list(places), list(values.values()), color="C0")
    axes.set_yticks(list(places), names, fontsize=8)
    axes.set_xlabel(unit)
