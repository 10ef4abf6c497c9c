"""`listen` and `cmos` on the command line, in a program that has only these two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import typer
import typer.testing

from duologue.audio import write_audio
from duologue.cli import listening
from duologue.cli.main import Program
from duologue.eval.listening import read_key
from tests.cli.helpers import assert_nothing_left, assert_refused, json_of, lines_of
from tests.eval.listening.builders import FIRST, IN_CONTEXT, ITEMS, RATE, SECOND, attentive, rate, voice_like

Run = Callable[..., typer.testing.Result]
Systems = tuple[Path, Path]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    app = typer.Typer(cls=Program, pretty_exceptions_enable=False)
    listening.register(app)

    def run(*arguments: object) -> typer.testing.Result:
        return typer.testing.CliRunner().invoke(app, [str(item) for item in arguments])

    return run


def test_from_clips_to_opinion(run: Run, systems: Systems) -> None:
    result = run("listen", *systems, "-o", "page.html", "--title", "Which is it?", "--seed", "5")
    assert result.exit_code == 0 and result.stdout == "", result.output
    first, second = lines_of(result.stderr)
    assert first.startswith("page.html: 8 questions on 3 pairs (1 with context), 4 of them attention checks")
    assert second.startswith("key.json: ")
    assert "Which is it?" in Path("page.html").read_text(encoding="utf-8")
    key = read_key(Path("key.json"))
    assert key.seed == 5
    for name, value in (("ada", 2), ("bob", 1)):
        rated = rate(key, name, attentive(lambda trial, value=value: value))  # type: ignore[misc]
        Path(f"{name}.json").write_text(rated.to_json(), encoding="utf-8")
    Path("eve.json").write_text(rate(key, "eve", lambda trial: 3).to_json(), encoding="utf-8")

    result = run("cmos", "ada.json", "bob.json", "eve.json", "--key", "key.json")
    assert result.exit_code == 0, result.output
    assert lines_of(result.stderr) == ["note: rater eve failed 4 of 4 attention checks and is not counted"]
    lines = lines_of(result.stdout)
    assert lines[0] == f"CMOS of {SECOND} over {FIRST}: above 0 where {SECOND} is preferred, from -3 to 3"
    rows = {line.split("  ")[0]: line.split() for line in lines}
    assert rows["no context"][2:6] == ["+1.50", "+1.00", "to", "+2.00"] and rows["no context"][6:9] == ["6", "2", "3"]
    assert rows["context"][1] == "+1.50" and rows["all"][1] == "+1.50" and rows["all"][-3:] == ["100%", "0%", "0%"]
    assert [line.split()[0] for line in lines[-4:]] == [*sorted(ITEMS), *IN_CONTEXT]

    value = json_of(run("cmos", "ada.json", "bob.json", "eve.json", "--key", "key.json", "--json").stdout)
    assert value["num_raters"] == 2 and value["failed_raters"][0]["rater"] == "eve"
    assert [item["value"] for item in value["conditions"]] == [1.5, 1.5, 1.5]
    value = json_of(run("cmos", "ada.json", "eve.json", "--key", "key.json", "--include-failed", "--json").stdout)
    assert value["num_raters"] == 2 and value["failed_raters"][0]["counted"] is True
    value = json_of(run("cmos", "eve.json", "--key", "key.json", "--allowed-failures", "4", "--json").stdout)
    assert value["conditions"][-1]["value"] == 3


def test_what_was_left_out_is_told(run: Run, systems: Systems) -> None:
    for folder in systems:
        (folder / "manifest.jsonl").unlink()
    for number in range(7):
        write_audio(systems[0] / f"more{number}.wav", voice_like(0.2, 200.0), RATE)
    result = run("listen", *systems, "-o", "page.html", "--pairs", "2", "--checks", "0", "--lossless")
    assert result.exit_code == 0, result.output
    note, summary, _ = lines_of(result.stderr)
    assert note.startswith("note: only in ") and "left out: 7 (more0, more1, more2, more3, more4, and 2 more)" in note
    assert "2 questions on 2 pairs (0 with context), 0 of them" in summary
    value = json_of(run("listen", *systems, "-o", "page.html", "--key", "other.json", "--json").stdout)
    assert value["only_in_first"] == [f"more{number}" for number in range(7)] and value["only_in_second"] == []
    assert (value["page"], value["key"], value["pairs"]) == ("page.html", "other.json", 5)
    assert value["bytes"] == Path("page.html").stat().st_size
    quiet = run("listen", *systems, "-o", "page.html", "--key", "other.json", "-q")
    assert quiet.exit_code == 0 and lines_of(quiet.stderr)[0].startswith("note: ") and len(lines_of(quiet.stderr)) == 1


def test_bad_input_to_listen(run: Run, systems: Systems) -> None:
    assert_refused(run("listen", systems[0], "missing", "-o", "page.html"), "missing does not exist")
    assert_refused(run("listen", systems[0], systems[0], "-o", "page.html"), "given twice")
    assert_refused(run("listen", *systems, "-o", "missing/page.html"), "missing/")
    assert_refused(run("listen", *systems, "-o", "page.html", "--title", " "), "title")
    assert_refused(run("listen", *systems, "-o", "page.html", "--title", "\udcff"), "--title", "UTF-8")
    assert_refused(run("listen", *systems, "-o", "page.html", "--pairs", "0"), "--pairs")
    assert_refused(run("listen", *systems), "--output")
    (systems[1] / f"{ITEMS[0]}.wav").write_bytes(b"RIFF")
    assert_refused(run("listen", *systems, "-o", "page.html"), f"{ITEMS[0]}.wav")
    assert_nothing_left(Path())


def test_bad_input_to_cmos(run: Run, tmp_path: Path, systems: Systems) -> None:
    folder = tmp_path / "test"
    folder.mkdir()
    assert run("listen", *systems, "-o", folder / "page.html").exit_code == 0
    key = folder / "key.json"
    assert_refused(run("cmos", key, "--key", key), "key.json holds no ratings")
    assert_refused(run("cmos", folder / "page.html", "--key", key), "page.html holds no ratings")
    assert_refused(run("cmos", folder / "missing.json", "--key", key), "missing.json does not exist")
    assert_refused(run("cmos", key, "--key", folder / "page.html"), "page.html is not the key")
    assert_refused(run("cmos", key), "--key")
    assert_refused(run("cmos", "--key", key), "RATINGS")
