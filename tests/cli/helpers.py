"""What the tests of the command line ask of a result."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer.testing


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def assert_refused(result: typer.testing.Result, *words: str, code: int = 2) -> str:
    """The command ended with one line on stderr that holds `words`, and left no file in the working folder."""
    assert result.exit_code == code, (result.exit_code, result.output)
    assert result.stdout == ""
    lines = lines_of(result.stderr)
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0], (word, lines[0])
    assert "Traceback" not in lines[0]
    assert_nothing_left(Path())
    return lines[0]


def assert_nothing_left(folder: Path, besides: Iterable[str] = ()) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(besides)


def json_of(text: str) -> dict[str, Any]:
    """The one JSON object that `text` is."""
    lines = lines_of(text)
    assert len(lines) == 1, text
    value = json.loads(lines[0], parse_constant=lambda name: (_ for _ in ()).throw(AssertionError(name)))
    assert isinstance(value, dict)
    return value
