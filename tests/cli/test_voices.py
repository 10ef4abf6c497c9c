"""`duologue voices`."""

import os
from pathlib import Path

import pytest
import torch

from duologue.audio import write_audio
from tests.cli.conftest import RATE, Run
from tests.cli.helpers import assert_nothing_left, assert_refused, json_of, lines_of
from tests.engine.builders import tone

TEXT = ("--text", "What is said.")


def test_the_list(run: Run, tiny: Path, own_home: Path) -> None:
    result = run("voices", "list", "-m", tiny)
    assert result.exit_code == 0 and result.stderr == ""
    assert lines_of(result.stdout) == ["ada  1.2 s; high", "bob  1.2 s"]
    value = json_of(run("voices", "list", "-m", tiny, "--json").stdout)
    assert value["folder"] == str(own_home / "voices")
    assert value["voices"][0] == {
        "name": "ada",
        "description": "high",
        "shipped": True,
        "seconds": pytest.approx(1.2),
        "texts": ["what ada says"],
    }


def test_add_speak_remove(run: Run, tiny: Path, recording: Path, own_home: Path) -> None:
    result = run("voices", "add", "carl", recording, *TEXT, "--description", "new", "-m", tiny)
    assert result.exit_code == 0 and result.stdout == "" and "carl: a voice of 1.5 s" in result.stderr
    assert_nothing_left(own_home / "voices", ["carl.safetensors"])
    assert "carl  your own; 1.5 s; new" in run("voices", "list", "-m", tiny).stdout
    assert run("speak", "Hello.", "--voice", "carl", "-m", tiny, "--max-seconds", "0.2").exit_code == 0
    assert_refused_here(run("voices", "add", "carl", recording, *TEXT, "-m", tiny), "'carl'", "already")
    result = run("voices", "remove", "carl", "-m", tiny)
    assert result.exit_code == 0 and lines_of(result.stderr) == ["carl: removed"]
    assert_nothing_left(own_home / "voices")


def assert_refused_here(result: object, *words: str) -> None:
    for path in Path().iterdir():
        path.unlink()
    assert_refused(result, *words)  # type: ignore[arg-type]


def test_json_and_standard_input(run: Run, tiny: Path, recording: Path, own_home: Path) -> None:
    result = run("voices", "add", "carl", "-", *TEXT, "-m", tiny, "--json", input=recording.read_bytes())
    value = json_of(result.stdout)
    assert (value["name"], value["texts"], value["folder"]) == ("carl", ["What is said."], str(own_home / "voices"))
    assert json_of(run("voices", "remove", "carl", "-m", tiny, "--json").stdout) == {"removed": "carl"}


def test_stereo_and_odd_rates_are_taken(run: Run, tiny: Path, tmp_path: Path) -> None:
    import soundfile

    pcm = tone(2.0, sample_rate=11_025).numpy()
    soundfile.write(tmp_path / "stereo.flac", [[sample, sample] for sample in pcm.tolist()], 11_025)
    result = run("voices", "add", "carl", tmp_path / "stereo.flac", *TEXT, "-m", tiny)
    assert result.exit_code == 0, result.stderr


def make_recordings(folder: Path) -> None:
    write_audio(folder / "silence.wav", torch.zeros(2 * RATE), RATE)
    write_audio(folder / "short.wav", tone(0.3), RATE)
    write_audio(folder / "long.wav", tone(40.0), RATE)
    write_audio(folder / "none.wav", torch.zeros(0), RATE)
    write_audio(folder / "good.wav", tone(2.0), RATE)
    (folder / "cut.wav").write_bytes((folder / "good.wav").read_bytes()[:1000])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("This is not a recording." * 10)


@pytest.mark.parametrize(
    ("name", "file", "text", "words"),
    [
        ("carl", "missing.wav", "Hi.", ["missing.wav"]),
        ("carl", "empty.wav", "Hi.", ["empty.wav"]),
        ("carl", "none.wav", "Hi.", ["none.wav", "0 s"]),
        ("carl", "cut.wav", "Hi.", ["cut.wav", "truncated"]),
        ("carl", "text.wav", "Hi.", ["text.wav", "not audio"]),
        ("carl", "silence.wav", "Hi.", ["silent"]),
        ("carl", "short.wav", "Hi.", ["0.3 s", "1 to 30 s"]),
        ("carl", "long.wav", "Hi.", ["40.0 s", "1 to 30 s"]),
        ("carl", ".", "Hi.", ["folder"]),
        ("carl", "good.wav", " ", ["transcript"]),
        ("carl", "good.wav", "\udcff", ["--text", "UTF-8"]),
        ("Carl", "good.wav", "Hi.", ["'Carl'"]),
        ("../carl", "good.wav", "Hi.", ["'../carl'"]),
        ("none", "good.wav", "Hi.", ["'none'"]),
        ("ada", "good.wav", "Hi.", ["'ada'", "already"]),
    ],
)
def test_bad_input(
    run: Run, tiny: Path, tmp_path: Path, own_home: Path, name: str, file: str, text: str, words: list[str]
) -> None:
    make_recordings(tmp_path)
    assert_refused(run("voices", "add", name, tmp_path / file, "--text", text, "-m", tiny), *words)
    assert not own_home.exists() or not any((own_home / "voices").iterdir())


def test_what_cannot_be_removed(run: Run, tiny: Path) -> None:
    assert_refused(run("voices", "remove", "ada", "-m", tiny), "ada", "ships with the model")
    assert_refused(run("voices", "remove", "nobody", "-m", tiny), "nobody")


def test_a_folder_that_cannot_be_written(
    run: Run, tiny: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUOLOGUE_HOME", "/proc/nowhere")
    assert_refused(run("voices", "add", "carl", recording, *TEXT, "-m", tiny), "carl")
    assert "/proc/nowhere" in json_of(run("voices", "list", "-m", tiny, "--json").stdout)["folder"]


def test_a_voice_that_cannot_be_read_is_a_note(run: Run, tiny: Path, own_home: Path) -> None:
    (own_home / "voices").mkdir(parents=True)
    (own_home / "voices" / "broken.safetensors").write_bytes(os.urandom(100))
    result = run("voices", "list", "-m", tiny)
    assert result.exit_code == 0 and lines_of(result.stdout) == ["ada  1.2 s; high", "bob  1.2 s"]
    (line,) = lines_of(result.stderr)
    assert line.startswith("note: ") and "broken" in line
