"""Two folders of clips, one a system, brought together by the ids of the clips.

A folder holds `manifest.jsonl`, one JSON object a line: `{"file": "plain/003.wav", "id": "plain/003", "text": "...",
"context": [{"speaker": 0, "text": "...", "file": "context/x.wav"}]}`. Only `file` has to be there: `id` defaults to
the file's path without its suffix, and a turn of the context without `file` is only text. Other fields are not for us.
Without a manifest, every recording in the folder and below is a clip.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duologue.errors import EvaluationError

MANIFEST_NAME = "manifest.jsonl"
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus")


@dataclass(frozen=True)
class Turn:
    """A turn of the conversation before the clip; `path` is its recording, None where there is only text."""

    speaker: int
    text: str
    path: Path | None = None


@dataclass(frozen=True)
class Entry:
    """A clip of one folder. `text` is empty and `context` has no turns where they are not known."""

    id: str
    path: Path
    text: str = ""
    context: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Pair:
    """The same line from both systems."""

    id: str
    first: Path
    second: Path
    text: str = ""
    context: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Pairing:
    """The pairs in the order of their ids, and the ids that only one folder has."""

    first_name: str
    second_name: str
    pairs: tuple[Pair, ...]
    only_first: tuple[str, ...] = ()
    only_second: tuple[str, ...] = ()


def pair_folders(first: Path, second: Path) -> Pairing:
    """Pair the clips of two folders by id.

    Raises `EvaluationError` for a folder that cannot be read, one folder given twice, no common id, and an id whose
    text or history is not the same in both.
    """
    if first.is_dir() and second.is_dir() and first.samefile(second):
        raise EvaluationError(f"{first} was given twice; give the folders of two systems")
    ours, theirs = read_folder(first), read_folder(second)
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        raise EvaluationError(
            f"{first} and {second} have no id in common ({len(ours)} and {len(theirs)} clips, such as "
            f"{min(ours)!r} and {min(theirs)!r}); name the same lines alike in both"
        )
    names = _names(first, second)
    return Pairing(
        *names,
        pairs=tuple(_pair(ours[key], theirs[key], first, second) for key in common),
        only_first=tuple(sorted(ours.keys() - theirs.keys())),
        only_second=tuple(sorted(theirs.keys() - ours.keys())),
    )


def read_folder(folder: Path) -> dict[str, Entry]:
    """The clips of a folder by id. Raises `EvaluationError`."""
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise EvaluationError(f"{folder} {what}; give a folder of clips")
    manifest = folder / MANIFEST_NAME
    entries = _listed(manifest) if manifest.exists() else _found(folder)
    if not entries:
        where = str(manifest) if manifest.exists() else str(folder)
        raise EvaluationError(f"{where} has no clips; expected {', '.join(SUFFIXES)} files or a {MANIFEST_NAME}")
    return entries


def _found(folder: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in inside.parts):
            continue
        name = inside.with_suffix("").as_posix()
        if name in entries:
            raise EvaluationError(f"{entries[name].path} and {path} have one id, {name!r}; keep one or add a manifest")
        entries[name] = Entry(name, path)
    return entries


def _listed(manifest: Path) -> dict[str, Entry]:
    try:
        lines = manifest.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise EvaluationError(f"{manifest} is not UTF-8 text; convert it to UTF-8") from None
    except OSError as error:
        raise EvaluationError(f"{manifest} cannot be read: {error.strerror or error}") from None
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = _entry(line, manifest.parent, f"{manifest}:{number}")
        if entry.id in entries:
            raise EvaluationError(f"{manifest}:{number}: the id {entry.id!r} was there before; ids have to differ")
        entries[entry.id] = entry
    return entries


def _entry(line: str, folder: Path, where: str) -> Entry:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"{where}: not valid JSON ({error}); expected one object a line") from None
    if not isinstance(value, dict):
        raise EvaluationError(f"{where}: expected an object with id, file and text, found {type(value).__name__}")
    file = _string(value, "file", where)
    identifier = _string(value, "id", where) if "id" in value else Path(file).with_suffix("").as_posix()
    turns = value.get("context") or []
    if not isinstance(turns, list):
        raise EvaluationError(f"{where}: context is {type(turns).__name__}; expected a list of turns")
    context = tuple(_turn(turn, folder, f"{where}: turn {index}") for index, turn in enumerate(turns, start=1))
    return Entry(identifier, folder / file, _text(value, where), context)


def _turn(value: Any, folder: Path, where: str) -> Turn:
    if not isinstance(value, dict):
        raise EvaluationError(f"{where}: expected an object with speaker and text, found {type(value).__name__}")
    speaker = value.get("speaker", 0)
    if type(speaker) is not int or speaker < 0:
        raise EvaluationError(f"{where}: speaker is {speaker!r}; expected a whole number from 0")
    path = folder / _string(value, "file", where) if value.get("file") is not None else None
    text = _text(value, where)
    if path is None and not text:
        raise EvaluationError(f"{where}: neither text nor file; give at least one")
    return Turn(speaker, text, path)


def _string(value: dict[str, Any], name: str, where: str) -> str:
    found = value.get(name)
    if not isinstance(found, str) or not found.strip() or "\0" in found:
        raise EvaluationError(f"{where}: {name} is {found!r}; expected a text that is not empty")
    return found


def _text(value: dict[str, Any], where: str) -> str:
    found = value.get("text")
    if found is not None and not isinstance(found, str):
        raise EvaluationError(f"{where}: text is {found!r}; expected a text")
    return " ".join((found or "").split())


def _pair(ours: Entry, theirs: Entry, first: Path, second: Path) -> Pair:
    if ours.text and theirs.text and ours.text != theirs.text:
        raise EvaluationError(
            f"{ours.id!r} says {ours.text!r} in {first} and {theirs.text!r} in {second}; compare the same line only"
        )
    return Pair(ours.id, ours.path, theirs.path, ours.text or theirs.text, _history(ours, theirs, first, second))


def _history(ours: Entry, theirs: Entry, first: Path, second: Path) -> tuple[Turn, ...]:
    """The one conversation before the clip; a turn's recording is that of the folder that has one."""
    if not ours.context or not theirs.context:
        return ours.context or theirs.context
    said = [[(turn.speaker, turn.text) for turn in entry.context] for entry in (ours, theirs)]
    if said[0] != said[1]:
        raise EvaluationError(
            f"the context of {ours.id!r} differs between {first} and {second}; a comparison needs one history"
        )
    turns = []
    for mine, other in zip(ours.context, theirs.context, strict=True):
        if mine.path is not None and other.path is not None and _differ(mine.path, other.path):
            raise EvaluationError(
                f"{mine.path} and {other.path} are the same turn of {ours.id!r} but not the same file; "
                "give one recording of the history in both folders"
            )
        turns.append(mine if mine.path is not None else other)
    return tuple(turns)


def _differ(one: Path, other: Path) -> bool:
    try:
        return one.read_bytes() != other.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{error.filename} cannot be read: {error.strerror}; give the recording") from None


def _names(first: Path, second: Path) -> tuple[str, str]:
    names = first.resolve().name, second.resolve().name
    return names if names[0] != names[1] and all(names) else (first.as_posix(), second.as_posix())
