"""The lines that the suites have spoken: fixed lists in `lists/*.json`, each with a version and a fingerprint.

A published list does not change: a correction is a new version, and an id is never given to another line. The words of
`homographs` and `pronunciation` are those of Sesame, "Crossing the uncanny valley of conversational voice" (2025); the
sentences are our own.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

from duologue.audio import read_audio
from duologue.config import JsonConfig
from duologue.errors import ConfigError, EvaluationError
from duologue.eval.clips import Sound

LISTS: Final = (
    "intelligibility",
    "robustness",
    "stopping",
    "similarity",
    "context",
    "homographs",
    "pronunciation",
    "codec",
)

_ID: Final = re.compile(r"[a-z]+(?:-[a-z]+)*/[0-9]+(?:\.[0-9]+)?")
_EVERYWHERE: Final = ("id", "text", "accepted")
# What a line has besides, by list or, where only one group has it, by list and group.
_BESIDES: Final[dict[str, tuple[str, ...]]] = {
    "similarity/drift": ("speaker",),
    "homographs": ("word", "sense", "phones", "other_phones"),
    "pronunciation": ("word", "role", "variants"),
    "codec": ("file", "digest"),
}


@dataclass(frozen=True)
class Line(JsonConfig):
    """One line to be spoken; what its list does not use keeps its default.

    `id` is the group, a slash and a number. `accepted` holds other transcripts that count as right besides the
    text: a number or an address has several readings, and a recogniser writes them in several ways.
    `speaker` is the side of a conversation, 0 or 1. Phones are ARPAbet without stress, as in CMUdict, between spaces.

    A homograph line holds `word` once; its `sense` here is said as `phones`, the other one as `other_phones`. A
    pronunciation line holds `word` once, in a turn that is `role` "context" or the "answer" with the same number;
    `variants` are the ways to say it. A line of the codec's list is a recording in `lists/recordings`, whose SHA-256
    begins with `digest`.
    """

    id: str
    text: str
    accepted: tuple[str, ...] = ()
    speaker: int = 0
    word: str = ""
    sense: str = ""
    phones: str = ""
    other_phones: str = ""
    role: str = ""
    variants: tuple[str, ...] = ()
    file: str = ""
    digest: str = ""

    @property
    def group(self) -> str:
        """The part of the id before the slash."""
        return self.id.partition("/")[0]


@dataclass(frozen=True)
class LineList(JsonConfig):
    """A named list in one version; the lines of a group stand in order, the most representative first."""

    name: str
    version: int
    language: str
    source: str
    lines: tuple[Line, ...]

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def groups(self) -> dict[str, tuple[Line, ...]]:
        """The lines by group, both in the order of the list."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(line.group, []).append(line)
        return {group: tuple(lines) for group, lines in found.items()}

    @property
    def fingerprint(self) -> str:
        """16 hex digits over name, version, language and lines: equal where the same lines were spoken."""
        content = [self.name, self.version, self.language, [_content(line) for line in self.lines]]
        packed = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(packed.encode()).hexdigest()[:16]

    def limited(self, limit: int | None) -> LineList:
        """The first `limit` lines of each group; all of them for None. Raises `EvaluationError` below 1."""
        if limit is None:
            return self
        if limit < 1:
            raise EvaluationError(f"limit {limit}; expected at least 1 line of each group")
        kept = {line.id for lines in self.groups.values() for line in lines[:limit]}
        return dataclasses.replace(self, lines=tuple(line for line in self.lines if line.id in kept))


def load_lines(name: str) -> LineList:
    """Reads one of `LISTS` from the package; raises `EvaluationError` for another name or a file not in order."""
    if name not in LISTS:
        raise EvaluationError(f"list of lines {name!r}; expected one of {', '.join(LISTS)}")
    file = resources.files("duologue").joinpath("eval", "lists", f"{name}.json")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{file} cannot be read ({error}); reinstall duologue") from error
    return parse_lines(text, name, str(file))


def load_recording(line: Line) -> Sound:
    """The recording of a line that has one; raises `EvaluationError` for a file that is not the published one."""
    file = resources.files("duologue").joinpath("eval", "lists", "recordings", line.file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise EvaluationError(f"{file} cannot be read ({error}); reinstall duologue") from error
    if not hashlib.sha256(data).hexdigest().startswith(line.digest):
        raise EvaluationError(f"{file} is not the recording of {line.id} that was published; reinstall duologue")
    return Sound(*read_audio(data))


def parse_lines(text: str, name: str, where: str) -> LineList:
    """The list `name` from its JSON text; raises `EvaluationError`, naming `where`, for anything not in order."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{where}: not valid JSON ({error})") from error
    try:
        found = LineList.from_dict(values, where)
    except ConfigError as error:
        raise EvaluationError(str(error)) from error
    if found.name != name or found.version < 1 or not found.lines:
        raise EvaluationError(
            f"{where}: name {found.name!r}, version {found.version}, {len(found.lines)} lines; "
            f"expected name {name!r}, a version from 1 and at least one line"
        )
    known: set[str] = set()
    for line, fields in zip(found.lines, values["lines"], strict=True):
        problem = f"the id {line.id!r} occurs twice" if line.id in known else _problem(name, line, fields)
        if problem:
            raise EvaluationError(f"{where}: {problem}")
        known.add(line.id)
    return found


def _problem(name: str, line: Line, fields: dict[str, Any]) -> str:
    """What is wrong with a line, or "" where nothing is."""
    if not _ID.fullmatch(line.id):
        return f"the id {line.id!r} is not a group in lower case, a slash and a number, such as plain/001"
    if any(value == "" or value == [] for value in fields.values()) or not all(
        map(str.strip, (line.text, *line.accepted))
    ):
        return f"line {line.id} has an empty field"
    wanted = _BESIDES.get(f"{name}/{line.group}", _BESIDES.get(name, ()))
    missing = [field for field in wanted if field not in fields]
    unknown = [field for field in fields if field not in (*_EVERYWHERE, *wanted)]
    if missing or unknown:
        return f"line {line.id}: missing field(s) {', '.join(missing) or '-'}, unknown {', '.join(unknown) or '-'}"
    return ""


def _content(line: Line) -> dict[str, Any]:
    """The fields that are not at their default, so that a new kind of field changes no older fingerprint."""
    return {
        field.name: value for field in dataclasses.fields(line) if (value := getattr(line, field.name)) != field.default
    }
