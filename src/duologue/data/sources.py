"""Finds recordings and what is known of them: manifests, LJSpeech, Kaldi, tables, or nothing but sound.

A folder is looked at as a whole: the first layout that fits is taken. Names are relative to it, with forward slashes,
so that what is made of a folder does not depend on where it lies.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from duologue.audio import CONTAINER_SUFFIXES
from duologue.errors import DataError

_SOUNDFILE_SUFFIXES: Final = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".aif", ".au", ".caf")
SOUND_SUFFIXES: Final = (*_SOUNDFILE_SUFFIXES, *CONTAINER_SUFFIXES)

# What columns are called in the tables of NeMo, Hugging Face's audiofolder, Common Voice, and by people.
_COLUMNS: Final = {
    "file": ("file", "audio_filepath", "file_name", "audio", "path", "filename", "wav"),
    "text": ("text", "transcript", "sentence", "transcription", "normalized_text"),
    "speaker": ("speaker", "voice", "speaker_id", "client_id"),
    "conversation": ("conversation", "dialog", "dialogue", "session"),
    "start": ("start", "offset", "start_s"),
    "end": ("end", "end_s"),
    "duration": ("duration",),
}
_ABSENT: Final = "no such recording"


@dataclass(frozen=True)
class Utterance:
    """One turn as its source describes it: seconds of the recording, to its end where `end_s` is None.

    `text` is None where nobody wrote it down; `speaker` tells speakers apart, within the whole source.
    """

    speaker: str
    text: str | None = None
    start_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True)
class Part:
    """A recording, with its turns where they are known; without, they are to be found.

    `duration_s` is how long its source says it lasts.
    """

    path: Path
    name: str
    utterances: tuple[Utterance, ...] = ()
    duration_s: float | None = None


@dataclass(frozen=True)
class Conversation:
    """Recordings that follow one another: mostly a single one."""

    name: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Found:
    """What a source holds: its layout by name, its conversations in order, and what was left out, with the reason."""

    layout: str
    conversations: tuple[Conversation, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


def find_conversations(source: Path) -> Found:
    """Everything in a folder, or in one manifest or table; raises `DataError` where there is nothing to be had."""
    if source.is_file():
        reader = read_manifest_files if _is_manifest(source) else _read_table
        found = reader(source.parent, [source])
    elif source.is_dir():
        found = _look_into(source)
    else:
        raise DataError(f"{source} does not exist: give a folder of recordings, a manifest or a table")
    if not found.conversations:
        reasons = f"; left out: {next(iter(found.left_out.items()))}" if found.left_out else ""
        raise DataError(f"{source} holds no recordings ({', '.join(SOUND_SUFFIXES)}){reasons}")
    return found


def _look_into(folder: Path) -> Found:
    if manifests := sorted(path for path in folder.rglob("manifest*.jsonl") if _is_manifest(path)):
        return read_manifest_files(folder, manifests)
    if (folder / "wav.scp").is_file():
        return _read_kaldi(folder)
    if (folder / "metadata.csv").is_file() and not _has_header(folder / "metadata.csv"):
        return _read_ljspeech(folder)
    tables = sorted(path for path in folder.iterdir() if path.suffix in (".csv", ".tsv", ".jsonl"))
    if tables := [path for path in tables if _has_header(path)]:
        return _read_table(folder, tables)
    return _read_plain(folder)


# A manifest of ours: a line a conversation.


def _is_manifest(path: Path) -> bool:
    if path.suffix != ".jsonl":
        return False
    entry = _first_object(path)
    return "turns" in entry and "file" in entry


def read_manifest_files(folder: Path, manifests: Iterable[Path]) -> Found:
    """The conversations of manifests of ours; names are relative to `folder`."""

    def conversations() -> Iterator[Conversation]:
        for manifest in manifests:
            for number, entry in _json_lines(manifest):
                with _blaming(manifest, number):
                    rate = int(entry["sample_rate"])
                    utterances = tuple(
                        Utterance(str(t.get("voice", t["speaker"])), t["text"], t["start"] / rate, t["end"] / rate)
                        for t in entry["turns"]
                    )
                    path = manifest.parent / entry["file"]
                    duration_s = int(entry["samples"]) / rate if "samples" in entry else None
                name = _name(folder, path)
                yield Conversation(name, (Part(path, name, utterances, duration_s),))

    return _checked("manifest", conversations())


# LJSpeech: `metadata.csv` with `id|text|normalised text`, recordings in `wavs/`.


def _read_ljspeech(folder: Path) -> Found:
    by_stem = {path.stem: path for path in _sounds(folder)}
    conversations, left_out = [], {}
    for number, line in enumerate(_lines(folder / "metadata.csv"), start=1):
        if not line.strip():
            continue
        cells = line.split("|")
        if len(cells) < 2:
            raise DataError(f"{folder / 'metadata.csv'}:{number}: expected id|text or id|text|normalised text")
        stem = cells[0] if cells[0] in by_stem else Path(cells[0]).stem
        path = by_stem.pop(stem, None)
        if path is None:
            left_out[cells[0]] = _ABSENT
            continue
        name = _name(folder, path)
        conversations.append(Conversation(name, (Part(path, name, (Utterance(folder.name, cells[-1]),)),)))
    left_out |= {_name(folder, path): "not in metadata.csv" for path in by_stem.values()}
    return Found("LJSpeech", tuple(conversations), left_out)


# Kaldi: `wav.scp`, `text`, and where there are some `segments` and `utt2spk`.


def _read_kaldi(folder: Path) -> Found:
    recordings: dict[str, Path] = {}
    for key, value in _kaldi_table(folder / "wav.scp").items():
        if value.endswith("|"):
            raise DataError(
                f"{folder / 'wav.scp'}: {key} is a command; only files are read, so run it and name its result"
            )
        recordings[key] = folder / value
    texts = _kaldi_table(folder / "text") if (folder / "text").is_file() else {}
    speakers = _kaldi_table(folder / "utt2spk") if (folder / "utt2spk").is_file() else {}
    left_out: dict[str, str] = {}
    turns: dict[str, list[Utterance]] = {key: [] for key in recordings}
    segments = folder / "segments"
    if segments.is_file():
        for utterance, value in _kaldi_table(segments).items():
            with _blaming(segments, utterance):
                recording, start, end = value.split()
                place = (float(start), float(end))
            if recording not in turns:
                left_out[utterance] = f"of recording {recording}, which wav.scp does not name"
            elif texts and utterance not in texts:
                left_out[utterance] = "not in text"
            else:
                speaker = speakers.get(utterance, folder.name)
                turns[recording].append(Utterance(speaker, texts.get(utterance), *place))
    else:
        for recording in recordings:
            if texts and recording not in texts:
                left_out[recording] = "not in text"
                del turns[recording]
            elif recording in texts or recording in speakers:
                turns[recording].append(Utterance(speakers.get(recording, folder.name), texts.get(recording)))
    conversations = [
        Conversation(key, (Part(recordings[key], key, tuple(sorted(found, key=lambda turn: turn.start_s))),))
        for key, found in turns.items()
        if found or not (texts or segments.is_file())
    ]
    return _checked("Kaldi", conversations, left_out)


def _kaldi_table(path: Path) -> dict[str, str]:
    table = {}
    for line in filter(str.strip, _lines(path)):
        key, *rest = line.split(maxsplit=1)
        table[key] = rest[0].strip() if rest else ""
    return table


# A table with a header, or a JSON object a line: a row an utterance.


def _has_header(path: Path) -> bool:
    if path.suffix == ".jsonl":
        names = set(_first_object(path))
    else:
        names = set(next(csv.reader(_lines(path)[:1], delimiter=_delimiter(path)), []))
    return any(name in names for name in _COLUMNS["file"])


def _delimiter(path: Path) -> str:
    if path.suffix == ".tsv":
        return "\t"
    header = next(iter(_lines(path)), "")
    return max(",;|\t", key=header.count)


def _read_table(folder: Path, tables: Iterable[Path]) -> Found:
    groups: dict[str, dict[Path, list[Utterance]]] = {}
    for table in tables:
        for number, row in _rows(table):
            with _blaming(table, number):
                path = table.parent / str(row["file"])
                start = float(row.get("start") or 0.0)
                end = float(row["end"]) if row.get("end") else None
                if end is None and row.get("duration"):
                    end = start + float(row["duration"])
                text = str(row["text"]) if row.get("text") else None
                speaker = str(row["speaker"]) if row.get("speaker") else folder.name
                group = str(row["conversation"]) if row.get("conversation") else _name(folder, path)
            groups.setdefault(group, {}).setdefault(path, []).append(
                Utterance(speaker or folder.name, text, start, end)
            )
    conversations = []
    for name, files in groups.items():
        parts = []
        for path, utterances in files.items():
            utterances.sort(key=lambda turn: turn.start_s)
            # A bare list of files says nothing of who speaks when.
            is_bare = len(utterances) == 1 and utterances[0] == Utterance(folder.name)
            parts.append(Part(path, _name(folder, path), () if is_bare else tuple(utterances)))
        conversations.append(Conversation(name, tuple(parts)))
    return _checked("table", conversations)


def _rows(table: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered rows with our names for their columns."""
    rows: Iterable[tuple[int, dict[str, Any]]]
    if table.suffix == ".jsonl":
        rows = _json_lines(table)
    else:
        # Joined again, since a quoted cell may hold a line break.
        text = io.StringIO("\n".join(_lines(table)), newline="")
        rows = enumerate(csv.DictReader(text, delimiter=_delimiter(table)), start=2)
    for number, row in rows:
        named = {ours: row[name] for ours, names in _COLUMNS.items() for name in reversed(names) if name in row}
        if "file" not in named:
            raise DataError(f"{table}:{number}: no column of {', '.join(_COLUMNS['file'])}")
        yield number, named


# Nothing but recordings; a text file of the same name holds what is said.


def _read_plain(folder: Path) -> Found:
    conversations = []
    for path in _sounds(folder):
        name, beside = _name(folder, path), path.with_suffix(".txt")
        known: tuple[Utterance, ...] = ()
        if beside.is_file():
            text = " ".join(" ".join(_lines(beside)).split())
            known = (Utterance(Path(name).parent.name or folder.name, text),)
        conversations.append(Conversation(name, (Part(path, name, known),)))
    return Found("recordings", tuple(conversations))


def _sounds(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SOUND_SUFFIXES and path.is_file())


def _checked(layout: str, conversations: Iterable[Conversation], left_out: Mapping[str, str] | None = None) -> Found:
    """Leaves out conversations of which a recording is missing."""
    kept, missing = [], dict(left_out or {})
    for conversation in conversations:
        absent = {part.name for part in conversation.parts if not part.path.is_file()}
        if not absent:
            kept.append(conversation)
        for part in conversation.parts if absent else ():
            missing[part.name] = _ABSENT if part.name in absent else f"in a conversation with {min(absent)}: {_ABSENT}"
    return Found(layout, tuple(kept), missing)


def _name(folder: Path, path: Path) -> str:
    try:
        return path.relative_to(folder).as_posix()
    except ValueError:
        return path.name


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}): convert it, with iconv for example") from error


def _json(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: not JSON ({error})") from error
    if not isinstance(entry, dict):
        raise DataError(f"{path}:{number}: expected a JSON object")
    return entry


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            yield number, _json(path, number, line)


def _first_object(path: Path) -> dict[str, Any]:
    return next((entry for _, entry in _json_lines(path)), {})


@contextmanager
def _blaming(path: Path, place: int | str) -> Iterator[None]:
    """Turns what a malformed entry raises into a `DataError` that names its place."""
    try:
        yield
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}:{place}: not an entry ({error!r})") from error
