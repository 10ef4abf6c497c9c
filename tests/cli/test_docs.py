"""docs/cli.md is what the help texts say."""

from pathlib import Path

from duologue.cli import docs


def test_the_page_is_current(repository: Path) -> None:
    page = (repository / docs.DEFAULT_FILE).read_text(encoding="utf-8")
    assert page == docs.render(), "docs/cli.md is out of date; run: python -m duologue.cli.docs"


def test_every_command_is_there() -> None:
    page = docs.render()
    for command in ("speak", "converse", "voices add", "codec decode", "convert", "doctor"):
        assert f"### `duologue {command}`" in page
    assert "| `--seed SEED` |" in page and "| `--output FILE`, `-o FILE` |" in page


def test_it_is_written_where_one_asks(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("sys.argv", ["docs", str(tmp_path / "page.md")])
    docs.main()
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == docs.render()
