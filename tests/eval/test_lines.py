"""The shipped lists of lines: what each holds, that they stay as published, and that a damaged one is refused."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from duologue.errors import EvaluationError
from duologue.eval import lines as lines_module
from duologue.eval.lines import LISTS, Line, LineList, load_lines, load_recording, parse_lines
from duologue.text.normalize import normalize

WORDS = ("lead", "bass", "tear", "wound", "row")
SENSES = {
    "lead": {"metal": "L EH D", "guide": "L IY D"},
    "bass": {"music": "B EY S", "fish": "B AE S"},
    "tear": {"drop": "T IH R", "rip": "T EH R"},
    "wound": {"injury": "W UW N D", "wrapped": "W AW N D"},
    "row": {"line": "R OW", "quarrel": "R AW"},
}
VARIANTS = ("aunt", "data", "envelope", "mobile", "route", "vase", "either", "adult", "often", "caramel")
SIZES = {
    "intelligibility": {"plain": 60, "conversational": 60, "long": 20},
    "robustness": dict.fromkeys(("numbers", "dates", "urls", "punctuation", "typos", "caps", "several", "short"), 12),
    "stopping": {"tempting": 15, "plain": 15},
    "similarity": {"single": 20, "drift": 30},
    "context": {"carry": 24, "history": 12},
    "homographs": {f"{word}-{sense}": 6 for word in WORDS for sense in SENSES[word]},
    "pronunciation": {f"{word}-{role}": 4 for role in ("context", "answer") for word in VARIANTS},
    "codec": {"person": 8, "rendered": 8},
}
NUM_WORDS = {  # whitespace-separated, both ends included
    "intelligibility/plain": (6, 14),
    "intelligibility/conversational": (3, 14),
    "intelligibility/long": (35, 60),
    "robustness/short": (1, 2),
    "stopping/plain": (8, 14),
    "similarity/single": (10, 18),
    "similarity/drift": (8, 20),
    "context/carry": (8, 14),
    "context/history": (8, 14),
}
# What was published. A change of the lines is a new version with a new fingerprint here; ids are never used again.
PUBLISHED = {
    ("intelligibility", 1): "32b00653e7fc9684",
    ("robustness", 1): "0ce920fee8918ca9",
    ("stopping", 1): "4a37d82e6d431aae",
    ("similarity", 1): "f3064533a7746c4f",
    ("context", 1): "78b606c6870a624b",
    ("homographs", 1): "b86bc8ad14766f43",
    ("pronunciation", 1): "0de7bdc2bc3f728f",
    ("codec", 1): "a5f8cb372a2ac7e8",
}
PHONE = "(?:AA|AE|AH|AO|AW|AY|B|CH|D|DH|EH|ER|EY|F|G|HH|IH|IY|JH|K|L|M|N|NG|OW|OY|P|R|S|SH|T|TH|UH|UW|V|W|Y|Z|ZH)"
CMUDICT_PHONES = re.compile(f"{PHONE}(?: {PHONE})*")
SAID_BY_EVERYONE = ("Hi.", "No?")  # named by the issue; in any corpus of conversations


def every_line() -> Iterator[tuple[str, Line]]:
    for name in LISTS:
        for line in load_lines(name):
            yield name, line


def plain_words(text: str) -> list[str]:
    """Lower-case words without punctuation; a hyphen parts words."""
    return re.findall(r"[^\W_]+", text.lower().replace("’", "'").replace("'", ""))


@pytest.fixture(scope="module")
def whisper_normalize() -> Callable[[str], str]:
    english = pytest.importorskip("whisper_normalizer.english", reason="needs duologue[eval]")
    normalizer = english.EnglishTextNormalizer()
    return lambda text: str(normalizer(text)).strip()


@pytest.mark.parametrize("name", LISTS)
def test_groups_have_their_sizes_and_ids_are_in_order(name: str) -> None:
    groups = load_lines(name).groups
    assert {group: len(lines) for group, lines in groups.items()} == SIZES[name]
    for group, lines in groups.items():
        numbers = [line.id.removeprefix(f"{group}/") for line in lines]
        if group == "drift":
            assert numbers == [f"{conversation}.{turn:02d}" for conversation in (1, 2, 3) for turn in range(1, 11)]
        else:
            assert [int(number) for number in numbers] == list(range(1, len(lines) + 1))
            assert len(set(map(len, numbers))) == 1, "numbers of one width sort as they count"


@pytest.mark.parametrize("name", LISTS)
def test_a_published_list_stays_as_it_is(name: str) -> None:
    found = load_lines(name)
    assert (found.language, found.fingerprint) == ("en", PUBLISHED[name, found.version])
    assert found.source


@pytest.mark.parametrize("name", LISTS)
def test_a_file_has_one_row_for_each_line(name: str) -> None:
    text = resources.files("duologue").joinpath("eval", "lists", f"{name}.json").read_text(encoding="utf-8")
    rows = [row.removesuffix(",") for row in text.splitlines() if row.startswith('    {"id": ')]
    assert [json.loads(row) for row in rows] == json.loads(text)["lines"]
    assert [json.dumps(json.loads(row), ensure_ascii=False) for row in rows] == [row.strip() for row in rows]


def test_no_line_occurs_twice_anywhere() -> None:
    counts = Counter(" ".join(plain_words(line.text)) for _, line in every_line())
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("where", NUM_WORDS)
def test_lines_have_the_length_of_their_group(where: str) -> None:
    name, group = where.split("/")
    low, high = NUM_WORDS[where]
    outside = [line for line in load_lines(name).groups[group] if not low <= len(line.text.split()) <= high]
    assert outside == []


def test_texts_are_clean_and_can_be_spoken() -> None:
    for name, line in every_line():
        assert line.text == line.text.strip() and "  " not in line.text, line.id
        assert any(sign.isalpha() for sign in normalize(line.text)), line.id
        if name != "robustness":  # where signs are the subject
            assert re.fullmatch(r"[A-Za-z .,;:!?'—-]+", line.text), line.id


def test_a_recogniser_can_be_right(whisper_normalize: Callable[[str], str]) -> None:
    """Whisper's normaliser deletes fillers: a text or reading that it empties could never be counted."""
    for _, line in every_line():
        for reading in (line.text, *line.accepted):
            assert whisper_normalize(reading), (line.id, reading)


def test_readings_are_given_once_and_in_words_too() -> None:
    for _, line in every_line():
        assert len(set(line.accepted)) == len(line.accepted), line.id
        if any(sign.isdigit() for sign in line.text):
            assert any(not any(sign.isdigit() for sign in reading) for reading in line.accepted), line.id
        if line.group in ("numbers", "dates", "urls", "punctuation", "typos"):
            assert line.accepted, line.id


def test_no_line_is_training_text(corpus: Path) -> None:
    seen = set()
    for manifest in [*corpus.glob("*/manifest*.jsonl"), corpus / "text" / "self_dialogue.jsonl"]:
        with manifest.open(encoding="utf-8") as rows:
            for row in rows:
                content = json.loads(row)
                texts = [turn["text"] for turn in content["turns"]] if isinstance(content, dict) else content
                seen.update(" ".join(plain_words(text)) for text in texts)
    assert len(seen) > 100_000
    for name, line in every_line():
        if line.text not in SAID_BY_EVERYONE and name != "codec":  # whose recordings are held out, not its lines
            assert " ".join(plain_words(line.text)) not in seen, (name, line.id, line.text)


def test_the_first_sentences_hold_every_phoneme_of_english() -> None:
    from duologue.text.phonemes import EspeakPhonemizer

    said = EspeakPhonemizer()(" ".join(line.text for line in load_lines("intelligibility").groups["plain"][:20]))
    missing = [sign for sign in "bdfɡhjklmnŋpɹsʃtθðvwzʒʤʧæɛɪiuʊʌɑɔəAIOWY" if sign not in said]
    assert missing == []


def test_plain_sentences_begin_differently() -> None:
    counts = Counter(line.text.split()[0] for line in load_lines("intelligibility").groups["plain"])
    assert max(counts.values()) <= 2


@pytest.mark.parametrize("speaker", [0, 1])
def test_two_speakers_take_turns(speaker: int) -> None:
    drift = load_lines("similarity").groups["drift"]
    for first in range(0, 30, 10):
        assert {line.speaker for line in drift[first : first + 10][speaker::2]} == {speaker}


def test_lines_that_carry_a_pace_are_alike_in_length() -> None:
    from duologue.eval.acoustics import count_syllables

    counts = [count_syllables(line.text) for line in load_lines("context").groups["carry"]]
    assert min(counts) >= 11 and max(counts) <= 14
    assert all(line.text.endswith(".") for line in load_lines("context"))


def test_homographs() -> None:
    for line in load_lines("homographs"):
        assert line.id.startswith(f"{line.word}-{line.sense}/")
        (other,) = SENSES[line.word].keys() - {line.sense}
        assert (line.phones, line.other_phones) == (SENSES[line.word][line.sense], SENSES[line.word][other])
        assert CMUDICT_PHONES.fullmatch(line.phones)
        assert_inside_once(line)


def test_pronunciations() -> None:
    variants: dict[str, set[tuple[str, ...]]] = {}
    for line in load_lines("pronunciation"):
        assert line.id.startswith(f"{line.word}-{line.role}/")
        assert line.role in ("context", "answer")
        assert_inside_once(line)
        variants.setdefault(line.word, set()).add(line.variants)
    assert tuple(variants) == VARIANTS
    for word, (pair,) in variants.items():
        assert len(set(pair)) == len(pair) == 2, word
        assert all(map(CMUDICT_PHONES.fullmatch, pair)), word


def assert_inside_once(line: Line) -> None:
    """The word that is listened for has neighbours on either side, and stands there once."""
    words = plain_words(line.text)
    assert words.count(line.word) == 1, line.id
    assert 0 < words.index(line.word) < len(words) - 1, line.id


def test_limited_keeps_the_first_of_each_group() -> None:
    whole = load_lines("stopping")
    short = whole.limited(2)
    assert [line.id for line in short] == ["tempting/001", "tempting/002", "plain/001", "plain/002"]
    assert len(short) == 4
    assert whole.limited(None) is whole
    assert whole.limited(1000) == whole
    with pytest.raises(EvaluationError, match="limit 0; expected at least 1"):
        whole.limited(0)


def test_the_fingerprint_is_of_what_is_spoken() -> None:
    whole = load_lines("stopping")
    first, *rest = whole.lines
    assert re.fullmatch(r"[0-9a-f]{16}", whole.fingerprint)
    assert dataclasses.replace(whole, source="elsewhere").fingerprint == whole.fingerprint
    others = [
        whole.limited(2),
        dataclasses.replace(whole, version=2),
        dataclasses.replace(whole, lines=(dataclasses.replace(first, text=first.text + "!"), *rest)),
        dataclasses.replace(whole, lines=(dataclasses.replace(first, accepted=("x",)), *rest)),
        dataclasses.replace(whole, lines=(*rest, first)),
    ]
    assert len({whole.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)


def small_list() -> dict[str, Any]:
    lines = [{"id": "plain/001", "text": "One."}, {"id": "plain/002", "text": "2.", "accepted": ["two"]}]
    return {"name": "robustness", "version": 1, "language": "en", "source": "a test", "lines": lines}


def test_a_list_is_read() -> None:
    found = parse_lines(json.dumps(small_list()), "robustness", "x.json")
    lines = (Line("plain/001", "One."), Line("plain/002", "2.", ("two",)))
    assert found == LineList("robustness", 1, "en", "a test", lines)
    assert [line.group for line in found] == ["plain", "plain"]


def change_line(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda values: values["lines"][1].update(fields)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda values: values.update(extra=1), "unknown field.*extra"),
        (lambda values: values.pop("source"), "missing field.*source"),
        (lambda values: values.update(version="1"), "version: expected int"),
        (lambda values: values.update(version=0), "expected name 'robustness', a version from 1"),
        (lambda values: values.update(name="stopping"), "name 'stopping'"),
        (lambda values: values.update(lines=[]), "at least one line"),
        (lambda values: values.update(lines={}), "lines: expected a list"),
        (lambda values: values["lines"].append("Hi."), "expected an object"),
        (lambda values: values["lines"][1].pop("text"), "missing field.*text"),
        (change_line(comment="why"), "unknown field.*comment"),
        (change_line(speaker=1), "plain/002: missing field.* -, unknown speaker"),
        (change_line(text=5), "text: expected str"),
        (change_line(text=" "), "plain/002 has an empty field"),
        (change_line(accepted=[]), "plain/002 has an empty field"),
        (change_line(accepted=["two", ""]), "plain/002 has an empty field"),
        (change_line(accepted="two"), "accepted: expected a list"),
        (change_line(id="plain/001"), "the id 'plain/001' occurs twice"),
        (change_line(id="Plain 2"), "the id 'Plain 2' is not a group"),
    ],
)
def test_a_list_that_is_not_in_order_is_refused(damage: Callable[[dict[str, Any]], object], message: str) -> None:
    values = small_list()
    damage(values)
    with pytest.raises(EvaluationError, match=f"^lists/x[.]json.*{message}"):
        parse_lines(json.dumps(values), "robustness", "lists/x.json")


def test_a_line_needs_the_fields_of_its_list() -> None:
    values = small_list() | {"name": "similarity"}
    parse_lines(json.dumps(values), "similarity", "x.json")
    values["lines"].append({"id": "drift/1.01", "text": "Hello there."})
    with pytest.raises(EvaluationError, match=r"x\.json: line drift/1\.01: missing field.* speaker, unknown -"):
        parse_lines(json.dumps(values), "similarity", "x.json")


def test_text_that_is_not_json_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"x\.json: not valid JSON"):
        parse_lines('{"name": ', "robustness", "x.json")
    with pytest.raises(EvaluationError, match=r"x\.json: expected an object"):
        parse_lines("[]", "robustness", "x.json")


def test_only_shipped_lists_can_be_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="list of lines 'speed'; expected one of intelligibility, robustness"):
        load_lines("speed")
    monkeypatch.setattr(lines_module.resources, "files", lambda package: tmp_path)
    with pytest.raises(EvaluationError, match=r"context\.json cannot be read"):
        load_lines("context")


def test_every_list_in_the_package_is_named() -> None:
    folder = resources.files("duologue").joinpath("eval", "lists")
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        [*(f"{name}.json" for name in LISTS), "recordings", "pronunciation_accuracy.json"]
    )


def test_every_recording_is_the_published_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = load_lines("codec").lines
    folder = resources.files("duologue").joinpath("eval", "lists", "recordings")
    assert sorted(file.name for file in folder.iterdir()) == sorted(line.file for line in lines)
    for line in lines:
        sound = load_recording(line)
        assert 2 < sound.duration_s < 4 and sound.pcm.abs().max() > 0.05
    with pytest.raises(EvaluationError, match="is not the recording of person/001 that was published"):
        load_recording(dataclasses.replace(lines[0], digest="0" * 16))
    monkeypatch.setattr(lines_module.resources, "files", lambda package: tmp_path)
    with pytest.raises(EvaluationError, match=r"cannot be read .* reinstall duologue"):
        load_recording(lines[0])
