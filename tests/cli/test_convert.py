"""`duologue convert`."""

import shutil
from pathlib import Path

import pytest

from duologue.checkpoints import inspect
from tests.cli.conftest import Run
from tests.cli.helpers import assert_nothing_left, assert_refused, json_of, lines_of


def test_there_and_back(run: Run, tiny: Path) -> None:
    result = run("convert", tiny, "theirs", "--to", "transformers")
    assert result.exit_code == 0 and result.stdout == ""
    (line,) = lines_of(result.stderr)
    assert line.startswith("theirs: transformers, 1.2 MB in ")
    assert inspect("theirs")["layout"] == "transformers"
    value = json_of(run("convert", "theirs", "ours", "--to", "native", "--json").stdout)
    assert (value["output"], value["format"]) == ("ours", "native") and value["bytes"] > 1_000_000
    for name in ("model.safetensors", "codec.safetensors", "config.json"):
        assert Path("ours", name).read_bytes() == (tiny / name).read_bytes()
    assert_nothing_left(Path(), ["ours", "theirs"])


def test_the_codec_alone(run: Run, tiny: Path) -> None:
    assert run("convert", tiny, "codec", "--to", "transformers-mimi", "-q").stderr == ""
    assert inspect("codec")["csm"] is None


def test_an_existing_folder(run: Run, tiny: Path) -> None:
    Path("empty").mkdir()
    assert run("convert", tiny, "empty", "--to", "native").exit_code == 0
    assert run("convert", tiny, "empty", "--to", "transformers", "--force").exit_code == 0
    assert inspect("empty")["layout"] == "transformers" and not Path("empty/voices").exists()
    result = run("convert", tiny, "empty", "--to", "native")
    assert result.exit_code == 2 and "--force" in result.stderr
    assert inspect("empty")["layout"] == "transformers"


@pytest.mark.parametrize("stranger", ["diary.pdf", "photos/1.json"])
def test_force_takes_nothing_but_checkpoints(run: Run, tiny: Path, tmp_path: Path, stranger: str) -> None:
    path = tmp_path / "home" / stranger
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    (tmp_path / "home" / "config.json").write_text("{}")
    result = run("convert", tiny, tmp_path / "home", "--to", "native", "--force")
    assert_refused(result, stranger.split("/")[0], "not replaced")
    assert path.read_text() == "precious"


def test_the_source_is_not_overwritten(run: Run, tiny: Path, tmp_path: Path) -> None:
    copy = tmp_path / "models" / "copy"
    shutil.copytree(tiny, copy)
    for destination in (copy, copy / ".", tmp_path / "models"):
        assert_refused(run("convert", copy, destination, "--to", "sesame", "--force"), "is to be converted")
    source = copy / "model.safetensors"
    assert_refused(run("convert", source, copy, "--to", "sesame", "--force"), "is to be converted")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["TINY", "x", "--to", "gguf"], ["'gguf'", "native, sesame, transformers"]),
        (["missing/model/x", "x", "--to", "native"], ["missing/model/x"]),
        (["TINY", "/proc/x", "--to", "native"], ["/proc/x"]),
    ],
)
def test_bad_input(run: Run, tiny: Path, arguments: list[str], words: list[str]) -> None:
    assert_refused(run("convert", *[argument.replace("TINY", str(tiny)) for argument in arguments]), *words)


def test_a_broken_checkpoint_is_not_converted(run: Run, tiny: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    assert_refused(run("convert", broken, "x", "--to", "transformers"), "model.safetensors")
