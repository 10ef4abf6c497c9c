"""The store of coded turns."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from duologue.data.shards import CodedTurn, TurnStore, first_codebooks, shard_name, write_index, write_shard
from duologue.errors import DataError

K = 3


def turn(voice: str, speaker: int, frames: int) -> CodedTurn:
    random = np.random.default_rng(frames)
    return CodedTurn(voice, speaker, f"{voice} says é", random.integers(0, 2051, (K, frames)).astype(np.int16))


CONVERSATIONS = [("one", [turn("a", 0, 5), turn("b", 1, 7)]), ("two", [turn("c", 0, 1)])]


def same(ours: CodedTurn, theirs: CodedTurn) -> bool:
    known = (ours.voice, ours.speaker, ours.text) == (theirs.voice, theirs.speaker, theirs.text)
    return known and np.array_equal(ours.codes, theirs.codes)


def test_a_store_gives_back_what_was_written(tmp_path: Path) -> None:
    TurnStore.write(tmp_path, CONVERSATIONS, fingerprint="abc")
    store = TurnStore(tmp_path, fingerprint="abc")
    assert (store.num_codebooks, store.names) == (K, ["one", "two"])
    for conversation, (_, turns) in zip(store.conversations, CONVERSATIONS, strict=True):
        assert all(same(ours, theirs) for ours, theirs in zip(conversation, turns, strict=True))


def test_shards_follow_each_other_and_may_be_empty(tmp_path: Path) -> None:
    parts = [CONVERSATIONS[:1], [], CONVERSATIONS[1:]]
    for number, part in enumerate(parts):
        write_shard(tmp_path, shard_name(number), part, num_codebooks=K, about={})
    write_index(tmp_path, [shard_name(number) for number in range(3)], fingerprint="abc", num_codebooks=K, about={})
    assert TurnStore(tmp_path).names == ["one", "two"]


def test_the_same_turns_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("x", "y"):
        TurnStore.write(tmp_path / name, CONVERSATIONS, fingerprint="abc")
    for path in sorted((tmp_path / "x").iterdir()):
        assert path.read_bytes() == (tmp_path / "y" / path.name).read_bytes()


def test_the_first_codebooks_of_every_turn() -> None:
    conversations = [[turn("a", 0, 5), turn("b", 1, 3)], [turn("a", 0, 2)]]
    first = first_codebooks(conversations, 2)
    assert [[one.codes.shape for one in turns] for turns in first] == [[(2, 5), (2, 3)], [(2, 2)]]
    for turns, given in zip(first, conversations, strict=True):
        for one, whole in zip(turns, given, strict=True):
            assert np.array_equal(one.codes, whole.codes[:2]) and one.text == whole.text


def test_a_full_disk_and_a_damaged_file_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TurnStore.write(tmp_path, CONVERSATIONS, fingerprint="abc")
    codes = tmp_path / f"{shard_name(0)}.safetensors"
    codes.write_bytes(codes.read_bytes()[:40])
    with pytest.raises(DataError, match=r"shard-00000.safetensors cannot be read .* prepare again"):
        TurnStore(tmp_path)

    def save(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("duologue.data.shards.save_file", save)
    with pytest.raises(DataError, match=r"shard-00001 cannot be written .*No space left.* make room"):
        write_shard(tmp_path, shard_name(1), CONVERSATIONS, num_codebooks=K, about={})


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no coded turns"):
        TurnStore(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no turns to write"):
        TurnStore.write(tmp_path, [("empty", [])], fingerprint="abc")
    TurnStore.write(tmp_path, CONVERSATIONS, fingerprint="abc")
    with pytest.raises(DataError, match="another codec"):
        TurnStore(tmp_path, fingerprint="other")
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps(index | {"version": 99}))
    with pytest.raises(DataError, match="version 99"):
        TurnStore(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        TurnStore(tmp_path)
