"""A tiny checkpoint with random weights, and the command line run on it, in this process or in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import typer.testing

from duologue.audio import write_audio
from duologue.checkpoints import save_checkpoint
from duologue.cli.main import create_app
from tests.engine.builders import tiny_csm, tiny_mimi, tiny_tokenizer, tone

RATE = 24_000
TIMEOUT = 300.0  # seconds; a busy machine is no failure
SOURCES = Path(__file__).resolve().parents[2] / "src"

Run = Callable[..., typer.testing.Result]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a model that never ends by itself, and the voices ada and bob."""
    from duologue.engine.voices import VoiceLibrary

    folder = tmp_path_factory.mktemp("checkpoints")
    tiny_tokenizer().save(folder / "tokenizer.json")
    codec = tiny_mimi()
    voices = folder / "voices"
    library = VoiceLibrary(codec, user=voices)
    library.add("ada", tone(1.2, hertz=300), "what ada says", "high")
    library.add("bob", tone(1.2, hertz=100), "what bob says")
    model = tiny_csm()
    for head in (model.codebook0_head.weight, model.audio_head):
        head.data.mul_(4.0)  # a new model's logits are so small that what it reads makes no difference
    return save_checkpoint(
        folder / "tiny",
        "native",
        model=model,
        codec=codec,
        tokenizer_path=folder / "tokenizer.json",
        voices_folder=voices,
    )


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """1.5 s of a tone, at a rate that is not the codec's."""
    path = tmp_path / "tone.wav"
    write_audio(path, tone(1.5, sample_rate=16_000), 16_000)
    return path


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a hub cache and a working folder of the test's own."""
    home = tmp_path / "home"
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("DUOLOGUE_HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("DUOLOGUE_TRACEBACK", raising=False)
    monkeypatch.chdir(work)
    return home


@pytest.fixture
def run() -> Run:
    """Run the command line in this process, with another process's exit code and streams."""

    def run(*arguments: object, input: bytes | str | None = None) -> typer.testing.Result:
        threads = torch.get_num_threads()
        try:
            result = typer.testing.CliRunner().invoke(create_app(), [str(item) for item in arguments], input=input)
        finally:
            torch.set_num_threads(threads)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    path = os.pathsep.join([str(SOURCES), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1", **(extra or {})}


def command(*arguments: object) -> list[str]:
    """The program and its arguments."""
    return [sys.executable, "-m", "duologue.cli", *map(str, arguments)]


def program(
    *arguments: object, input: bytes | None = None, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line as a program of its own."""
    return subprocess.run(
        command(*arguments), input=input, capture_output=True, timeout=TIMEOUT, env=environment(extra), check=False
    )
