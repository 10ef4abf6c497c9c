"""eSpeak NG through ctypes: the spelling, the closed alphabet, determinism."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.errors import DuologueError, OptionError
from duologue.text import PHONEME_SYMBOLS, EspeakPhonemizer
from duologue.text import phonemes as phonemes_module
from duologue.text.phonemes import fold_ipa

SYMBOLS = frozenset(PHONEME_SYMBOLS)
phonemize = EspeakPhonemizer()


@pytest.fixture(scope="module")
def lines(corpus: Path) -> list[str]:
    with (corpus / "text" / "self_dialogue.jsonl").open(encoding="utf-8") as file:
        return [line for _, dialogue in zip(range(400), file, strict=False) for line in json.loads(dialogue)]


@pytest.mark.parametrize(
    ("text", "phonemes"),
    [
        ("Hey, how are you doing?", "hˈA, hˌW ɑɹ ju dˈuɪŋ?"),
        ("judge choice", "ʤˈʌʤ ʧˈYs"),
        ("nightshirt", "nˈItʃɜɹt"),  # t and ʃ of two parts, not an affricate
        ("water little button bird", "wˈɔɾəɹ lˈɪɾəl bˈʌtən bˈɜɹd"),
        ("roses", "ɹˈOzᵻz"),
        ("3.5 cats", "θɹˈi pYnt fˈIv kˈæts"),
        ("Oh!!! What?! Well...", "ˈO! wˌʌt?! wˈɛl…"),
        ("this — that; those: here", "ðˈɪs— ðˈæt; ðˈOz: hˈɪɹ"),
        ("the U.S. team. Next.", "ðə jˌuˈɛs tˈim. nˈɛkst."),
        ("one.two", "wˌʌn. tˈu"),
        ('(say) "it" *now*', "sˈA ɪt nˈW"),
        ("don’t", "dˈOnt"),
        ("日本語 привет", ""),
        ("", ""),
        ("...", "…"),
    ],
)
def test_spelling(text: str, phonemes: str) -> None:
    assert phonemize(text) == phonemes


def test_symbols_are_distinct_single_characters() -> None:
    assert len(SYMBOLS) == len(PHONEME_SYMBOLS)
    assert all(len(symbol) == 1 for symbol in PHONEME_SYMBOLS)


@given(st.one_of(st.text(max_size=40), st.text(alphabet=st.characters(codec=None), max_size=20)))
def test_nothing_but_the_symbols_comes_out(text: str) -> None:
    out = phonemize(text)
    assert set(out) <= SYMBOLS
    assert out == out.strip() and "  " not in out


@given(st.text(alphabet="abɐəɚɜːɪʊeoɾʔtdʃʒ^\u0329rxç()en-ˈˌ 7", max_size=20))
def test_folding_ends_in_the_symbols(ipa: str) -> None:
    assert set(fold_ipa(ipa)) <= SYMBOLS


def test_corpus_text_uses_the_whole_alphabet(lines: list[str]) -> None:
    seen = set("".join(map(phonemize, lines)))
    assert seen <= SYMBOLS
    assert SYMBOLS - seen <= set("…ʒ;:—")


def test_what_came_before_changes_nothing(lines: list[str]) -> None:
    lines = lines[:300]
    first = dict(zip(lines, map(phonemize, lines), strict=True))
    shuffled = random.Random(0).sample(lines, len(lines))
    assert {line: phonemize(line) for line in shuffled} == first


def test_threads_and_voices_do_not_mix(lines: list[str]) -> None:
    american, british = EspeakPhonemizer("en-us"), EspeakPhonemizer("en-gb-x-rp")
    jobs = [(voice, line) for line in lines[:150] for voice in (american, british)]
    alone = [voice(line) for voice, line in sorted(jobs, key=lambda job: job[0].voice)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda job: job[0](job[1]), sorted(jobs, key=lambda job: job[0].voice)))
    assert together == alone
    assert american("water") != british("water")


def test_a_long_text_is_read_whole() -> None:
    assert phonemize("word " * 2_000).split() == ["wˈɜɹd"] * 2_000


@pytest.mark.parametrize(
    ("voice", "text", "phonemes"),
    [
        ("es-419", "la jota, la cota", "lɑ hˈɔtɑ, lɑ kˈɔtɑ"),
        ("es-419", "año y ano, yo", "ˈɑnjɔ i ˈɑnɔ, jˈɔ"),
        ("fr", "bon, beau", "bˈɔn, bˈɔ"),
        ("de", "Buch, Buk", "bˈuh, bˈuk"),
        ("ru", "привет", "pɹjivjˈAt"),
    ],
)
def test_sounds_that_english_lacks_stay_apart_in_their_own_language(voice: str, text: str, phonemes: str) -> None:
    assert EspeakPhonemizer(voice)(text) == phonemes


def test_unknown_voice() -> None:
    with pytest.raises(OptionError, match="no voice 'xx-nowhere'"):
        EspeakPhonemizer("xx-nowhere")("hello")
    assert phonemize("hello") == "həlˈO"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    monkeypatch.setattr(phonemes_module, "_LIBRARY", phonemes_module._Library())
    with pytest.raises(DuologueError, match="pip install espeakng-loader"):
        EspeakPhonemizer()("hello")


def test_the_library_works_from_a_long_path(tmp_path: Path) -> None:
    """eSpeak keeps paths in short buffers; a deep installation must not break it, nor must the first use be early."""
    deep = tmp_path / ("d" * 60) / ("e" * 60) / ("f" * 60)
    script = (
        "import os, sys, shutil, espeakng_loader\n"
        "deep = sys.argv[1]; data = espeakng_loader.get_data_path()\n"
        "unused = lambda folder, names: [name for name in names if name.endswith('_dict') and name != 'en_dict']\n"
        "shutil.copytree(data, deep, ignore=unused)\n"
        "espeakng_loader.get_data_path = lambda: deep\n"
        "from duologue.text import phonemes\n"
        "assert phonemes._LIBRARY._espeak is None\n"
        "print(phonemes.EspeakPhonemizer()('hello'))\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(deep)], capture_output=True, text=True, check=True)
    assert done.stdout == "həlˈO\n"
