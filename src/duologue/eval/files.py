"""Small text files: read whole with the reason why not, written whole or not at all; and journals, which only grow."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any, Final, TypeVar

from duologue.config import JsonConfig
from duologue.errors import ConfigError, EvaluationError

Read = TypeVar("Read", bound=JsonConfig)
MAX_BYTES: Final = 64 << 20  # a key or a rater's answers are some kilobytes


def read_text(path: Path, expected: str) -> str:
    """The UTF-8 text of a file. Raises `EvaluationError`, which says that `expected` should be given."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise EvaluationError(f"{path} is larger than {MAX_BYTES >> 20} MiB; give {expected}")
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise EvaluationError(f"{path} does not exist; give {expected}") from None
    except IsADirectoryError:
        raise EvaluationError(f"{path} is a folder; give {expected}") from None
    except UnicodeDecodeError:
        raise EvaluationError(f"{path} is not UTF-8 text; give {expected}") from None
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read: {error.strerror or error}") from None


def read_schema(path: Path, kind: type[Read], schema: int, what: str) -> Read:
    """The configuration `kind` from a JSON file whose `schema` is this one; `what` says what was expected.

    Raises `EvaluationError` for a file that is not there, is no JSON, is of another schema or lacks fields.
    """
    try:
        values = json.loads(read_text(path, f"{what} of duologue eval"))
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{path} is not {what} of duologue eval ({error})") from error
    found = values.get("schema") if isinstance(values, dict) else None
    if found != schema:
        raise EvaluationError(f"{path} has schema {found!r}; this duologue reads {what} of schema {schema}")
    try:
        return kind.from_dict(values, str(path))
    except ConfigError as error:
        raise EvaluationError(str(error)) from error


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises `EvaluationError` where the system refuses."""
    temporary = path.with_name(f".duologue-{secrets.token_hex(8)}.part")
    try:
        if path.exists() and not path.is_file():
            raise EvaluationError(f"cannot write {path}: it is not a file; give a file name")
        try:
            with open(temporary, "x", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error.strerror or error}") from None


class Journal:
    """A file of JSON values by key, one a line, each written as soon as it is known; usable in a `with` block.

    A line that was being written when the program was ended is passed over when the file is opened again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Journal:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.exists() else ""
        for line in text.split("\n"):
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = entry["value"]
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        self._file = self._path.open("a", encoding="utf-8", newline="\n")
        if text and not text.endswith("\n"):
            self._file.write("\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def get(self, key: str) -> dict[str, Any] | None:
        """The value last written for the key."""
        return self._known.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Adds a line."""
        self._file.write(json.dumps({"key": key, "value": value}, ensure_ascii=False) + "\n")
        self._file.flush()
        self._known[key] = value
