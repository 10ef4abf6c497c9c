"""Markup, word marks, pictures, the places of words, axes."""

from __future__ import annotations

import io
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from duologue.eval.lines import load_lines
from duologue.eval.page.clips import find_clip
from duologue.eval.page.markup import Html, element, join
from duologue.eval.page.plots import LEAST_SIZE, axis_range
from duologue.eval.page.spectrogram import (
    MAX_COLUMNS,
    NUM_BANDS,
    SAMPLE_RATE,
    TOP_HZ,
    load_pillow,
    mel_levels,
    picture,
    to_mel,
)
from duologue.eval.page.timeline import MAX_WORD_LINES, PlacedWord, place_words, word_width
from duologue.eval.page.wording import Piece, WordMarker, accepted_readings, marked
from tests.eval.page import builders
from tests.eval.page.builders import figure
from tests.eval.page.parsing import parse

PICTURE_BYTES = 40_000


def test_plain_strings_are_text_and_html_is_markup() -> None:
    made = element("p", "a < b", Html("<br>"), None, 1.0, class_="x", title='"&', hidden=True, data_x=1.23456, alt=None)
    assert made.markup == '<p class="x" title="&quot;&amp;" hidden data-x="1.23">a &lt; b<br>1</p>'
    assert join("<", Html("<i>"), between=" & ").markup == "&lt; &amp; <i>"


@given(st.text(), st.text())
def test_any_text_comes_back_as_it_was_or_replaced(content: str, title: str) -> None:
    page = parse(element("p", content, title=title).markup)
    (node,) = page.nodes
    assert len(node.text.replace("\r\n", "\n")) == len(content.replace("\r\n", "\n"))


def test_words_are_marked_as_they_are_counted() -> None:
    marker = WordMarker()
    pieces = marker.pieces("Hello there, my old friend of mine.", "so hello where my friend of mine")
    assert pieces == [
        Piece("insert", (), ("so",)),
        Piece("equal", ("hello",), ("hello",)),
        Piece("substitute", ("there",), ("where",)),
        Piece("equal", ("my",), ("my",)),
        Piece("delete", ("old",), ()),
        Piece("equal", ("friend", "of", "mine"), ("friend", "of", "mine")),
    ]
    shown = parse(f"<p>{marked(pieces).markup}</p>")
    assert [(node.name, node.text) for node in shown.nodes[1:]] == [
        ("ins", "so"),
        ("del", "there"),
        ("ins", "where"),
        ("del", "old"),
    ]
    assert marker.pieces("Hmm.", "hello") == [Piece("insert", (), ("hello",))] and marker.pieces("Hmm.", "") == []
    assert marker.pieces("hello", "") == [Piece("delete", ("hello",), ())]


def test_another_accepted_reading_is_no_error() -> None:
    lines = load_lines("robustness")
    line = next(line for line in lines if line.accepted)
    suite = builders.suite([])
    suite.lists["robustness"] = {"version": lines.version, "fingerprint": lines.fingerprint}
    suite.lists["gone"] = {"version": 1, "fingerprint": ""}
    readings = accepted_readings(suite)
    assert readings[line.id, line.text] == line.accepted
    pieces = WordMarker().pieces(line.text, line.accepted[-1], readings[line.id, line.text])
    assert {piece.kind for piece in pieces} == {"equal"}
    suite.lists["robustness"]["fingerprint"] = "of another version"
    assert accepted_readings(suite) == {}


@pytest.mark.parametrize("hertz", [300.0, 1000.0, 6000.0])
def test_a_tone_lies_in_its_band(hertz: float) -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    levels = mel_levels(np.sin(2 * np.pi * hertz * time).astype(np.float32))
    band = to_mel(hertz) / to_mel(TOP_HZ) * (NUM_BANDS + 1) - 1
    assert abs(int(levels[:, levels.shape[1] // 2].argmin()) - band) < 1
    assert levels.min() >= 0 and levels.max() <= 1


def test_an_event_lies_at_its_time() -> None:
    pcm = np.zeros(2 * SAMPLE_RATE, dtype=np.float32)
    pcm[round(1.5 * SAMPLE_RATE)] = 1
    levels = mel_levels(pcm)
    assert abs(int(levels.min(axis=0).argmin()) - 0.75 * levels.shape[1]) <= 2
    assert (mel_levels(np.zeros(SAMPLE_RATE, dtype=np.float32)) == 1).all()


@pytest.mark.parametrize("seconds", [0.001, 0.5, 5.0, 60.0])
def test_pictures_are_small_and_the_same_again(seconds: float) -> None:
    noise = np.random.default_rng(0).standard_normal(max(1, round(seconds * SAMPLE_RATE))).astype(np.float32)
    made = picture(noise)
    assert len(made) <= PICTURE_BYTES and made == picture(noise)
    assert made[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", made[16:24])
    assert 1 <= width <= MAX_COLUMNS and height == NUM_BANDS
    with load_pillow().open(io.BytesIO(made)) as image:
        assert image.convert("L").getextrema()[0] == 16  # the loudest point is dark


WORDS = st.lists(st.tuples(st.text(min_size=1, max_size=12), st.floats(0, 20), st.floats(0, 3)), max_size=80)


@given(WORDS)
def test_words_do_not_touch(spoken: list[tuple[str, float, float]]) -> None:
    starts = sorted(start for _, start, _ in spoken)
    words = [
        {"text": text, "start_s": start, "end_s": start + length}
        for (text, _, length), start in zip(spoken, starts, strict=True)
    ]
    placed, num_left_out = place_words(words, 60.0, 1200)
    assert len(placed) + num_left_out == sum(1 for text, _, _ in spoken if text.strip())
    for line in range(MAX_WORD_LINES):
        found: list[PlacedWord] = [word for word in placed if word.line == line]
        assert all(one.left + word_width(one.text) < other.left for one, other in pairwise(found))
    assert all(word.left >= word.start and word.line < MAX_WORD_LINES for word in placed)


def test_words_without_times_are_left_out() -> None:
    assert place_words([{"text": "a"}, {"start_s": 0, "end_s": 1}, {"text": 1, "start_s": 0, "end_s": 1}], 60, 60) == (
        [],
        0,
    )


@given(st.floats(-1e4, 1e4), st.floats(0, 1e3))
@example(0.0, 8e-7)
def test_axes_hold_their_figures(value: float, spread: float) -> None:
    low, high, step = axis_range([figure("one", value, spread)])
    slack = max(step * 1e-6, LEAST_SIZE if abs(value) + spread < LEAST_SIZE else 0.0)  # what is smaller is zero
    assert low <= value - spread + slack and value + spread - slack <= high
    assert step > 0 and (high - low) / step < 12
    assert abs(low / step - round(low / step)) < 1e-6


def test_axes_do_not_magnify_what_is_as_good_as_equal() -> None:
    low, high, step = axis_range([figure("one", 0.78692, 0.00003, unit="")])
    assert low < 0.785 < 0.79 < high and step >= 0.002
    assert axis_range([figure("one", 0.0, 0.0)])[:2] == (0, 1)
    assert axis_range([figure("one", 30.0, 5.0)])[0] == 0  # a share of a whole


def test_clips_are_looked_for_in_the_run_alone(tmp_path: Path) -> None:
    found = find_clip(tmp_path, "one", "suite", "plain/001")
    assert found == tmp_path / "clips" / "one" / "suite" / "plain" / "001.wav"
    for system, suite in (("..", ".."), ("/etc", "x"), ("one", "../../.."), ("a\0", "x")):
        assert find_clip(tmp_path, system, suite, "001") is None
    inside = find_clip(tmp_path, "one", "suite", "../../../001")
    assert inside is not None and inside.is_relative_to(tmp_path / "clips" / "one" / "suite")
