"""A tiny checkpoint with random weights, and the command line run on it, in this process or in one of its own."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.testing

from duologue.audio import write_audio
from duologue.checkpoints import save_checkpoint
from duologue.cli.main import create_app
from duologue.engine.generator import Generator, SpeechRequest
from duologue.engine.sampling import SamplingOptions
from duologue.engine.speech import SpeechStream
from duologue.engine.voices import VoiceLibrary
from tests.engine.builders import tiny_csm, tiny_mimi, tiny_tokenizer, tone

RATE = 24_000
TIMEOUT = 300.0  # seconds; a busy machine is no failure
SOURCES = Path(__file__).resolve().parents[2] / "src"

Run = Callable[..., typer.testing.Result]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder with a model that never ends by itself, and the voices ada and bob."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tiny_tokenizer().save(folder / "tokenizer.json")
    codec = tiny_mimi()
    voices = folder / "voices"
    library = VoiceLibrary(codec, user=voices)
    library.add("ada", tone(1.2, hertz=300), "what ada says", "high")
    library.add("bob", tone(1.2, hertz=100), "what bob says")
    return save_checkpoint(
        folder / "tiny",
        "native",
        model=tiny_csm(),
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


@dataclass(frozen=True)
class Asked:
    """What the generator was asked for: who says what, after which turns (with their frames), in which voices."""

    text: str
    speaker: int
    context: list[tuple[int, str, int | None]]
    voices: dict[int, str]
    defaults: bool
    sampling: SamplingOptions
    max_ms: float
    normalize: bool | None


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """A record of the generator's calls. (What a random model reads changes little of what it says.)"""
    calls: list[Asked] = []
    stream_request = Generator.stream_request

    def recorded(self: Generator, request: SpeechRequest, **others: Any) -> SpeechStream:
        turns = [(one.speaker, one.text, None if one.codes is None else one.codes.shape[1]) for one in request.context]
        plan = request.voices
        voices = {number: voice.name for number, voice in {**(plan.defaults or {}), **plan.chosen}.items()}
        calls.append(
            Asked(
                request.text,
                request.speaker,
                turns,
                voices,
                plan.defaults is None,
                request.sampling,
                request.max_audio_length_ms,
                request.normalize,
            )
        )
        return stream_request(self, request, **others)

    monkeypatch.setattr(Generator, "stream_request", recorded)
    return calls


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


def environment() -> dict[str, str]:
    """That of a program of its own."""
    path = os.pathsep.join([str(SOURCES), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1"}
