"""Clips of two folders come together by id, and nothing is dropped in silence."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from duologue.errors import EvaluationError
from duologue.eval.listening import pair_folders
from tests.eval.listening.builders import FIRST, IN_CONTEXT, ITEMS, SECOND, make_system, write_manifest

Systems = tuple[Path, Path]


def test_pairs_by_manifest(systems: Systems) -> None:
    pairing = pair_folders(*systems)
    assert (pairing.first_name, pairing.second_name) == (FIRST, SECOND)
    assert [pair.id for pair in pairing.pairs] == sorted(ITEMS)
    assert not pairing.only_first and not pairing.only_second
    for pair in pairing.pairs:
        assert pair.first == systems[0] / f"{pair.id}.wav" and pair.second == systems[1] / f"{pair.id}.wav"
        assert pair.text.startswith("This is line")
        assert bool(pair.context) == (pair.id in IN_CONTEXT)
    (talk,) = [pair for pair in pairing.pairs if pair.context]
    assert [(turn.speaker, turn.path is not None) for turn in talk.context] == [(0, True), (1, False), (0, True)]


def test_pairs_without_manifest(tmp_path: Path) -> None:
    for name, files in (("one", ["a.wav", "deep/b.FLAC", "c.mp3", "notes.txt"]), ("two", ["a.ogg", "deep/b.opus"])):
        for file in [*files, ".hidden/d.wav"]:
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).touch()
    pairing = pair_folders(tmp_path / "one", tmp_path / "two")
    assert [(pair.id, pair.text) for pair in pairing.pairs] == [("a", ""), ("deep/b", "")]
    assert pairing.only_first == ("c",) and pairing.only_second == ()


def test_ids_of_one_folder_are_told(systems: Systems) -> None:
    write_manifest(systems[0], [{"id": ITEMS[0], "file": "x.wav"}, {"id": "mine", "file": "y.wav"}])
    pairing = pair_folders(*systems)
    assert [pair.id for pair in pairing.pairs] == [ITEMS[0]]
    assert pairing.only_first == ("mine",) and pairing.only_second == tuple(sorted(ITEMS[1:]))
    assert pairing.pairs[0].text == "This is line number 1."  # known to the second alone


def test_the_history_may_be_known_to_one_folder(tmp_path: Path) -> None:
    one = make_system(tmp_path / "one", 150.0, history=False)
    two = make_system(tmp_path / "two", 260.0)
    for pairing in (pair_folders(one, two), pair_folders(two, one)):
        assert [pair.id for pair in pairing.pairs if pair.context] == list(IN_CONTEXT)


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    pairing = pair_folders(make_system(tmp_path / "x" / "wavs", 150.0), make_system(tmp_path / "y" / "wavs", 260.0))
    assert pairing.first_name.endswith("x/wavs") and pairing.second_name.endswith("y/wavs")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", ["manifest.jsonl:1", "not valid JSON"]),
        ("[" * 100_000, ["manifest.jsonl:1", "not valid JSON"]),
        ("9" * 5_000, ["manifest.jsonl:1", "not valid JSON"]),
        ("[]", ["manifest.jsonl:1", "list"]),
        ('{"id": "a"}', ["manifest.jsonl:1", "file is None"]),
        ('{"id": "", "file": "a.wav"}', ["id is ''"]),
        ('{"id": 7, "file": "a.wav"}', ["id is 7"]),
        ('{"file": "a.wav", "text": 7}', ["text is 7"]),
        ('{"file": "a.wav", "context": "Hi."}', ["context is str"]),
        ('{"file": "a.wav", "context": ["Hi."]}', ["turn 1", "str"]),
        ('{"file": "a.wav", "context": [{"speaker": "A", "text": "Hi."}]}', ["turn 1", "speaker is 'A'"]),
        ('{"file": "a.wav", "context": [{"speaker": 0}]}', ["turn 1", "neither text nor file"]),
        ('{"file": "a.wav"}\n{"file": "a.wav"}', ["manifest.jsonl:2", "'a' was there before"]),
        ("\n\n", ["manifest.jsonl", "no clips"]),
        ("\udcff", ["UTF-8"]),
    ],
)
def test_bad_manifests(systems: Systems, line: str, words: list[str]) -> None:
    (systems[1] / "manifest.jsonl").write_bytes(line.encode("utf-8", "surrogateescape"))
    refuse(systems, *words)


def test_bad_folders(systems: Systems, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refuse((systems[0], tmp_path / "missing"), "missing does not exist")
    refuse((systems[0], systems[0] / "manifest.jsonl"), "is not a folder")
    refuse((tmp_path / "empty", systems[0]), "empty has no clips")
    refuse((systems[0], tmp_path / "empty" / ".." / FIRST), "given twice")
    write_manifest(systems[0], [{"id": "other", "file": "x.wav"}])
    refuse(systems, "no id in common", "'other'")


def test_one_id_for_two_files(tmp_path: Path) -> None:
    for name in ("one/a.wav", "one/a.mp3", "two/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    refuse((tmp_path / "one", tmp_path / "two"), "a.mp3", "a.wav", "one id")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"text": "Another line."}, ["'Another line.'", "same line"]),
        ({"context": [{"speaker": 0, "text": "Something else."}]}, ["context", "one history"]),
    ],
)
def test_pairs_that_do_not_fit(systems: Systems, change: dict[str, Any], words: list[str]) -> None:
    line = {
        "id": IN_CONTEXT[0],
        "file": f"{IN_CONTEXT[0]}.wav",
        "text": "This is line number 3.",
        "context": [{"speaker": 1, "text": "x"}],
    }
    write_manifest(systems[1], [line])
    write_manifest(systems[0], [line | change])
    refuse(systems, repr(IN_CONTEXT[0]), *words)


def test_a_history_spoken_twice_differently(systems: Systems) -> None:
    shutil.copy(systems[1] / f"{ITEMS[0]}.wav", systems[1] / "context" / "opening-line.wav")
    refuse(systems, "opening-line.wav", "not the same file")


def refuse(folders: Systems, *words: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        pair_folders(*folders)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, (word, message)
