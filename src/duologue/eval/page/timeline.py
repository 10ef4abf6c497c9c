"""A clip over time: spectrogram, axis in seconds, and the recognised words at their places."""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from duologue.eval.page.markup import Html, element, join
from duologue.eval.page.spectrogram import TOP_HZ, Floats, picture, to_mel

HEIGHT: Final = 112  # px of the spectrogram
GUTTER: Final = 44  # px beside it, for the frequencies
MAX_WORD_LINES: Final = 6

_COMFORTABLE_WIDTH: Final = 960  # px; a clip is drawn in as much where its scale allows it
_MOST_PER_SECOND: Final = 110.0  # px
_LEAST_PER_SECOND: Final = 60.0  # below this the words of fast speech find no place; a longer clip scrolls
_FREQUENCIES: Final = (200, 500, 1000, 2000, 5000, 10_000)  # Hz
_TICK_STEPS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_LEAST_TICK_DISTANCE: Final = 50.0  # px
_AXIS_HEIGHT: Final = 20
_LINE_HEIGHT: Final = 15
_WORD_GAP: Final = 6.0
_NARROW, _WIDE = "fijlrtI.,:;'!|()[] ", "mwMW@%—…"
_NARROW_PX, _PLAIN_PX, _CAPITAL_PX, _WIDE_PX = 4.8, 7.2, 8.4, 11.5  # at 11 px, of the widest usual font (DejaVu Sans)


@dataclass(frozen=True)
class PlacedWord:
    """A word of the transcript: where it was heard, and where it is written, in px; `line` counts from 0 downward."""

    text: str
    start: float
    end: float
    left: float
    line: int


def timeline(pcm: Floats, duration_s: float, words: Sequence[Mapping[str, Any]], description: str) -> Html:
    """The picture of `[num_samples]` at the spectrogram's rate; `description` is what a reader hears instead of it."""
    scale = min(_MOST_PER_SECOND, max(_LEAST_PER_SECOND, _COMFORTABLE_WIDTH / max(duration_s, 0.01)))
    width = max(1, round(duration_s * scale))
    placed, num_left_out = place_words(words, scale, width)
    room = max((word.left + word_width(word.text) for word in placed), default=0.0)
    data = base64.b64encode(picture(pcm)).decode("ascii")
    return element(
        "div",
        _frequency_axis(),
        element(
            "div",
            element(
                "img",
                src=f"data:image/png;base64,{data}",
                alt=description,
                width=width,
                height=HEIGHT,
                decoding="async",
            ),
            _time_axis(placed, scale, width, max(width, round(room) + 8)),
            element("span", class_="cursor", hidden=True),
            class_="track",
            data_scale=scale,
            tabindex=0,
            role="group",
            aria_label="the clip over time",
        ),
        element("p", f"{num_left_out} more words found no place.", class_="note") if num_left_out else None,
        class_="timeline",
    )


def place_words(words: Sequence[Mapping[str, Any]], scale: float, width: int) -> tuple[list[PlacedWord], int]:
    """Writes each word under its start, on the first line where it touches no other, and counts those without a place.

    Where no line is free there, the word moves to the right on the line that is free first, and is left out where it
    would stand after the end of the sound.
    """
    free: list[float] = []
    placed, num_left_out = [], 0
    for word in _usable(words):
        text, start, end = word["text"].strip(), word["start_s"] * scale, word["end_s"] * scale
        line = next((number for number, left in enumerate(free) if left <= start), len(free))
        if line == MAX_WORD_LINES:
            line = min(range(MAX_WORD_LINES), key=free.__getitem__)
        elif line == len(free):
            free.append(0.0)
        left = max(start, free[line])
        if left > max(start, width):
            num_left_out += 1
            continue
        free[line] = left + word_width(text) + _WORD_GAP
        placed.append(PlacedWord(text, start, max(end, start), left, line))
    return placed, num_left_out


def _usable(words: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for word in words:
        times = word.get("start_s"), word.get("end_s")
        if (
            isinstance(word.get("text"), str)
            and word["text"].strip()
            and all(isinstance(t, int | float) for t in times)
        ):
            yield word


def word_width(text: str) -> float:
    """Pixels that a word takes at most at 11 px, whatever sans-serif font there is."""
    return sum(_character_width(character) for character in text)


def _character_width(character: str) -> float:
    if character in _NARROW:
        return _NARROW_PX
    if character in _WIDE or unicodedata.east_asian_width(character) in ("W", "F"):
        return _WIDE_PX
    return _CAPITAL_PX if character.isupper() else _PLAIN_PX


def _frequency_axis() -> Html:
    top = to_mel(TOP_HZ)
    marks = []
    for hertz in _FREQUENCIES:
        y = HEIGHT * (1 - to_mel(hertz) / top)
        label = f"{hertz // 1000}k" if hertz >= 1000 else str(hertz)
        marks.append(element("line", x1=GUTTER - 4, x2=GUTTER, y1=y, y2=y))
        marks.append(element("text", label, x=GUTTER - 7, y=y + 3.5, text_anchor="end"))
    marks.append(element("text", "Hz", x=GUTTER - 7, y=HEIGHT + 13, text_anchor="end"))
    return element("svg", marks, class_="frequencies", width=GUTTER, height=HEIGHT + _AXIS_HEIGHT, aria_hidden="true")


def _time_axis(placed: Sequence[PlacedWord], scale: float, width: int, room: int) -> Html:
    """Seconds, and below them the words, each with a bar over the time that it took and a line down to its text."""
    step = next((step for step in _TICK_STEPS_S if step * scale >= _LEAST_TICK_DISTANCE), _TICK_STEPS_S[-1])
    marks = [element("line", x1=0, x2=width, y1=0.5, y2=0.5)]
    for number in range(int(width / scale / step) + 1):
        x = number * step * scale
        label = f"{number * step:g}" + ("" if number else " s")
        marks.append(element("line", x1=x, x2=x, y1=0, y2=4))
        marks.append(element("text", label, x=x + 2, y=13))
    words = []
    num_lines = max((word.line + 1 for word in placed), default=0)
    for word in placed:
        base = _AXIS_HEIGHT + 11 + word.line * _LINE_HEIGHT
        marks.append(element("line", class_="span", x1=word.start, x2=word.end, y1=_AXIS_HEIGHT, y2=_AXIS_HEIGHT))
        marks.append(element("line", x1=word.start, x2=word.start, y1=_AXIS_HEIGHT, y2=base + 1))
        if word.left > word.start:
            marks.append(element("line", x1=word.start, x2=word.left, y1=base + 1, y2=base + 1))
        words.append(element("text", word.text, class_="word", x=word.left + 2, y=base))
    height = _AXIS_HEIGHT + num_lines * _LINE_HEIGHT + 4
    return element("svg", join(marks, words), class_="times", width=room, height=height, aria_hidden="true")
