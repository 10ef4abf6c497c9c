"""The clips that can be heard: players, words, measures and spectrograms, within a budget of bytes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from duologue.audio import read_audio, resample
from duologue.errors import AudioError
from duologue.eval.listening import sounds
from duologue.eval.markdown import number
from duologue.eval.measure import Row
from duologue.eval.page.choice import Candidate, candidates
from duologue.eval.page.markup import Child, Html, element, join
from duologue.eval.page.plots import swatch
from duologue.eval.page.spectrogram import SAMPLE_RATE
from duologue.eval.page.timeline import timeline
from duologue.eval.page.wording import WordMarker, accepted_readings, marked
from duologue.eval.report import EvaluationReport
from duologue.eval.takes import clip_path

AUDIO_BUDGET: Final = 12_000_000  # bytes of the page that are sound, as base64

_MEASURES: Final[tuple[tuple[str, str, Callable[[Row], float | None]], ...]] = (
    ("WER", "%", lambda row: None if row.word_error_rate is None else 100 * row.word_error_rate),
    ("SIM", "", lambda row: row.similarity),
    ("DNSMOS OVRL", "", lambda row: row.overall),
    ("SIG", "", lambda row: row.signal),
    ("BAK", "", lambda row: row.background),
    ("length", "s", lambda row: row.duration_s),
    ("silence at the end", "s", lambda row: row.trailing_silence_s),
    ("pace", "syllables/s", lambda row: row.pace),
    ("pitch", "Hz", lambda row: row.pitch_hz),
    ("level", "dB", lambda row: row.level_db),
    ("real-time factor", "", lambda row: row.real_time_factor),
    ("first audio", "ms", lambda row: None if row.first_audio_s is None else 1000 * row.first_audio_s),
)
_FLAGS: Final[tuple[tuple[str, Callable[[Row], bool]], ...]] = (
    ("reached the cap", lambda row: row.stop_reason == "cap"),
    ("ends abruptly", lambda row: row.ends_abruptly is True),
    ("last word missing", lambda row: row.last_word_heard is False),
    ("words in a loop", lambda row: row.loops is True),
    ("another voice is nearer", lambda row: row.right_voice_first is False),
)


@dataclass(frozen=True)
class ShownClips:
    """The cards by suite and system, the anchor of each card's utterance, and how many did not fit."""

    cards: dict[tuple[str, str], list[tuple[Candidate, Html]]]
    anchors: dict[tuple[str, str, str], str]
    num_shown: int
    num_left_out: int


def show_clips(report: EvaluationReport, folder: Path, budget: int = AUDIO_BUDGET) -> ShownClips:
    """Makes the cards of the worst and best utterances until the sound of the next would exceed `budget` bytes.

    Raises `EvaluationError` where the extra `eval` is not installed.
    """
    marker = WordMarker()
    readings = {suite.name: accepted_readings(suite) for suite in report.suites}
    cards: dict[tuple[str, str], list[tuple[Candidate, Html]]] = {}
    anchors: dict[tuple[str, str, str], str] = {}
    spent = num_left_out = 0
    for item in candidates(report):
        player, picture, size = (None, None, 0) if num_left_out else _sound(item, folder)
        if num_left_out or spent + size > budget:
            num_left_out += 1  # and all after it: what is shown must not depend on how long a clip is
            continue
        spent += size
        anchor = f"clip-{len(anchors) + 1}"
        anchors[item.suite, item.system, item.row.id] = anchor
        words = _words(item.row, marker, readings[item.suite].get((item.row.id, item.row.text), ()))
        cards.setdefault((item.suite, item.system), []).append((item, _card(item, anchor, words, player, picture)))
    for found in cards.values():
        found.sort(key=lambda pair: (pair[0].side == "best", pair[0].rank))
    return ShownClips(cards, anchors, len(anchors), num_left_out)


def _sound(item: Candidate, folder: Path) -> tuple[Html, Html | None, int]:
    """The player, the picture, and the bytes of the player's sound; a note where there is no clip to play."""
    path = find_clip(folder, item.system, item.suite, item.row.id)
    if path is None or not path.is_file():
        return element("p", "The clip is missing.", class_="note"), None, 0
    try:
        loaded, rate = read_audio(path, max_seconds=sounds.MAX_CLIP_SECONDS)
        pcm = resample(loaded, rate, SAMPLE_RATE).clamp(-1.0, 1.0)
        uri = sounds.data_uri(pcm, SAMPLE_RATE, SAMPLE_RATE, "mp3")
    except AudioError:
        return element("p", "The clip cannot be read.", class_="note"), None, 0
    name = f"{item.system}, {item.row.id}"
    player = element("audio", controls=True, preload="metadata", src=uri, aria_label=name)
    picture = timeline(
        np.asarray(pcm.numpy(), dtype=np.float32),
        len(pcm) / SAMPLE_RATE,
        item.row.heard_words,
        f"Spectrogram of {len(pcm) / SAMPLE_RATE:.1f} s: {item.row.heard or 'no words'}",
    )
    return player, picture, len(uri)


def find_clip(folder: Path, system: str, suite: str, identity: str) -> Path | None:
    """Where a clip of the run in `folder` lies, or None for names that lead out of it."""
    clips = folder / "clips"
    path = clip_path(clips / system / suite, identity)
    inside = os.path.normpath(path).startswith(os.path.normpath(clips) + os.sep)
    return path if inside and "\0" not in str(path) else None


def _words(row: Row, marker: WordMarker, accepted: tuple[str, ...]) -> Html | None:
    """What was heard, against the text; None where nobody listened."""
    if not row.heard.strip() and not row.num_words:
        return None
    if not row.heard.strip():
        return element("p", element("span", "heard", class_="label"), " nothing", class_="words")
    pieces = marker.pieces(row.text, row.heard, accepted)
    return element("p", element("span", "heard", class_="label"), " ", marked(pieces), class_="words")


def _card(item: Candidate, anchor: str, words: Html | None, player: Html | None, picture: Html | None) -> Html:
    row = item.row
    return element(
        "article",
        element(
            "p",
            element("span", f"{item.side} {item.rank + 1}", class_=f"side {item.side}"),
            element("span", f"{item.metric.title} {number(item.value, item.metric.unit)}", class_="main"),
            element("span", row.id if row.voice is None else f"{row.id}, voice {row.voice}", class_="id"),
            class_="card-head",
        ),
        element("p", row.text, class_="said"),
        words,
        player,
        _measures(row),
        picture,
        class_="clip",
        id=anchor,
        aria_label=f"{item.side} {item.rank + 1}: {row.id}",
    )


def _measures(row: Row) -> Html:
    """What is known of the utterance, and what is wrong with it."""
    found: list[Child] = []
    for name, unit, value_of in _MEASURES:
        value = value_of(row)
        if value is not None:
            found.append(_measure(name, number(value, unit)))
    more: Mapping[str, float] = getattr(row, "measures", {})
    found += [_measure(name.replace("_", " "), f"{value:.3g}") for name, value in more.items()]
    found += [element("li", name, class_="flag") for name, test in _FLAGS if test(row)]
    return element("ul", found, class_="measures")


def _measure(name: str, value: str) -> Html:
    return element("li", join(name, element("b", value), between=" "))


def clip_groups(report: EvaluationReport, shown: ShownClips, looks: Mapping[str, int]) -> Iterable[Html]:
    """The cards under a heading for each suite, in a part that folds for each system."""
    is_first = True
    for suite in report.suites:
        parts = []
        for system, look in looks.items():
            cards = shown.cards.get((suite.name, system), [])
            if cards:
                parts.append(_group(system, look, cards, is_open=is_first))
        if parts:
            yield element("section", element("h3", suite.name), parts, class_="clips-of-suite")
            is_first = False


def _group(system: str, look: int, cards: list[tuple[Candidate, Html]], is_open: bool) -> Html:
    counts = [f"{sum(1 for item, _ in cards if item.side == side)} {side}" for side in ("worst", "best")]
    said = " and ".join(count for count in counts if not count.startswith("0 "))
    about = element("span", f"{said} by {cards[0][0].metric.title}", class_="aside")
    return element(
        "details",
        element("summary", element("h4", swatch(look), " ", system), about),
        (card for _, card in cards),
        open=is_open,
    )
