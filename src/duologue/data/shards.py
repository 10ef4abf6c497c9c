"""Conversations of coded turns in a folder: shards of a few dozen, and an index over them.

`shard-00007.safetensors` holds `codes [frames, K]` int16, and `shard-00007.json` whose they are; both are written whole
or not at all, the JSON last. `index.json` names the codec by its fingerprint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from duologue.errors import DataError

VERSION: Final = 1
_INDEX: Final = "index.json"


@dataclass(frozen=True)
class CodedTurn:
    """One turn of a conversation: whose voice, its text, its frames `codes [K, T]` int16."""

    voice: str
    speaker: int
    text: str
    codes: npt.NDArray[np.int16]


def first_codebooks(conversations: Sequence[Sequence[CodedTurn]], num_codebooks: int) -> list[list[CodedTurn]]:
    """The turns with the first codes of each frame only: a model may speak fewer than its codec has."""
    return [[replace(turn, codes=turn.codes[:num_codebooks]) for turn in turns] for turns in conversations]


CodedConversation = tuple[str, Sequence[CodedTurn]]
"""A conversation's name and its turns."""


class TurnStore:
    """All conversations of a folder; the codes are read when the store is opened."""

    def __init__(self, folder: Path, *, fingerprint: str | None = None) -> None:
        """Opens a store; raises `DataError` where there is none, or one of another codec than `fingerprint`."""
        index = read_json(folder / _INDEX, f"no coded turns in {folder}: make them with duologue prepare")
        if index.get("version") != VERSION:
            raise DataError(f"{folder} is of version {index.get('version')} of the format, expected {VERSION}")
        if fingerprint is not None and index["fingerprint"] != fingerprint:
            raise DataError(
                f"{folder} was encoded by another codec ({index['fingerprint']}, not {fingerprint}): encode again"
            )
        self.fingerprint: str = index["fingerprint"]
        self.num_codebooks: int = index["num_codebooks"]
        self.names: list[str] = []
        self.conversations: list[list[CodedTurn]] = []
        for shard in index["shards"]:
            codes = _read_codes(folder / f"{shard}.safetensors")
            entries = read_json(folder / f"{shard}.json", f"{folder} lacks its {shard}.json: prepare it again")
            for entry in entries["conversations"]:
                self.names.append(entry["name"])
                self.conversations.append(
                    [
                        CodedTurn(t["voice"], t["speaker"], t["text"], codes[t["first"] : t["last"]].T)
                        for t in entry["turns"]
                    ]
                )

    @staticmethod
    def write(folder: Path, conversations: Sequence[CodedConversation], *, fingerprint: str) -> None:
        """A store of one shard, in place of what is there; raises `DataError` where there is no turn to write."""
        if not any(turns for _, turns in conversations):
            raise DataError("no turns to write: the corpus is empty")
        num_codebooks = next(int(turn.codes.shape[0]) for _, turns in conversations for turn in turns)
        folder.mkdir(parents=True, exist_ok=True)
        name = shard_name(0)
        write_shard(folder, name, conversations, num_codebooks=num_codebooks, about={})
        write_index(folder, [name], fingerprint=fingerprint, num_codebooks=num_codebooks, about={})


def shard_name(number: int) -> str:
    """The name of a shard's two files, without suffix."""
    return f"shard-{number:05d}"


def write_shard(
    folder: Path,
    name: str,
    conversations: Sequence[CodedConversation],
    *,
    num_codebooks: int,
    about: Mapping[str, Any],
) -> None:
    """Writes a shard's codes, then its JSON, which also holds `about`: a shard with a JSON is whole.

    Raises `DataError` where it cannot be written, on a full disk for example.
    """
    pieces: list[npt.NDArray[np.int16]] = [np.zeros((0, num_codebooks), np.int16)]
    entries, position = [], 0
    for title, turns in conversations:
        listed = []
        for turn in turns:
            count = turn.codes.shape[1]
            place = {"first": position, "last": position + count}
            listed.append({"voice": turn.voice, "speaker": turn.speaker, "text": turn.text, **place})
            pieces.append(np.ascontiguousarray(turn.codes.T, dtype=np.int16))
            position += count
        entries.append({"name": title, "turns": listed})
    fresh = folder / f"{name}.safetensors.new"
    try:
        save_file({"codes": np.concatenate(pieces)}, fresh)
        os.replace(fresh, folder / f"{name}.safetensors")
        write_json(folder / f"{name}.json", {**about, "conversations": entries})
    except (OSError, SafetensorError) as error:
        raise DataError(f"{folder / name} cannot be written ({error}): make room, and start again to go on") from error


def write_index(
    folder: Path, shards: Sequence[str], *, fingerprint: str, num_codebooks: int, about: Mapping[str, Any]
) -> None:
    """Writes the index, which makes the folder a store."""
    head = {"version": VERSION, "fingerprint": fingerprint, "num_codebooks": num_codebooks}
    write_json(folder / _INDEX, {**head, **about, "shards": list(shards)})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(fresh, path)


def _read_codes(path: Path) -> npt.NDArray[np.int16]:
    try:
        codes: npt.NDArray[np.int16] = load_file(path)["codes"]
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it and its .json, and prepare again") from error
    return codes


def read_json(path: Path, missing: str) -> dict[str, Any]:
    """A JSON object; raises `DataError`, with `missing` where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(missing) from None
    except (OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}): delete it and prepare again") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not what prepare writes: delete it and prepare again")
    return content
