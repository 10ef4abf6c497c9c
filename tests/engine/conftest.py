"""Fixtures of the engine's tests: tiny parts with random weights, shared because nothing in them remembers a test."""

import threading
from collections.abc import Callable, Iterable, Iterator

import pytest
import torch

from duologue.codec.mimi import Mimi
from duologue.engine.generator import Generator
from duologue.engine.step import FrameStep
from duologue.engine.voices import VoiceLibrary
from duologue.model.csm import CSM
from duologue.text.tokenizer import TextTokenizer
from tests.engine.builders import tiny_csm, tiny_mimi, tiny_tokenizer, tone


@pytest.fixture(scope="session")
def model() -> CSM:
    return tiny_csm()


@pytest.fixture(scope="session")
def codec() -> Mimi:
    return tiny_mimi()


@pytest.fixture(scope="session")
def tokenizer() -> TextTokenizer:
    return tiny_tokenizer()


@pytest.fixture
def generator(model, codec, tokenizer) -> Generator:
    return Generator(model, codec, tokenizer)


@pytest.fixture
def library(codec, tmp_path) -> VoiceLibrary:
    """Three shipped voices in the order zoe, adam, bea, and an empty folder of the user's."""
    maker = VoiceLibrary(codec, None, tmp_path / "shipped")
    for index, name in enumerate(("adam", "bea", "zoe")):
        maker.add(name, tone(1.2, hertz=110.0 * (index + 1)), f"I am {name}", f"voice {index}")
    (tmp_path / "shipped" / "order.json").write_text('["zoe", "gone", "adam"]', encoding="utf-8")
    return VoiceLibrary(codec, tmp_path / "shipped", tmp_path / "own")


@pytest.fixture
def voiced(model, codec, tokenizer, library) -> Generator:
    """A generator whose checkpoint ships voices."""
    return Generator(model, codec, tokenizer, library)


@pytest.fixture
def hold(voiced, monkeypatch) -> Iterator[threading.Event]:
    """Frames are made only while this is set."""
    gate = threading.Event()
    forward = voiced.model.depth_step

    def gated(*arguments):
        assert gate.wait(30)
        return forward(*arguments)

    monkeypatch.setattr(voiced.model, "depth_step", gated)
    yield gate
    gate.set()


@pytest.fixture
def script_frames(monkeypatch) -> Callable[[Iterable[list[int]]], None]:
    """Makes the model say given frames (one list of K codes each), the same in every row, then code 1 for ever."""

    def install(frames: Iterable[list[int]]) -> None:
        given = list(frames)

        def step(self: FrameStep, hidden: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            index = getattr(self, "num_said", 0)
            self.num_said = index + 1
            frame = given[index] if index < len(given) else [1] * noise.shape[1]
            return torch.tensor([frame] * len(hidden))

        monkeypatch.setattr(FrameStep, "__call__", step)

    return install


@pytest.fixture
def counts(model, monkeypatch) -> list[int]:
    """The rows of every pass through the backbone from here on."""
    seen: list[int] = []
    forward = model.forward

    def counting(tokens, *arguments, **options):
        seen.append(tokens.shape[1])
        return forward(tokens, *arguments, **options)

    monkeypatch.setattr(model, "forward", counting)
    return seen


@pytest.fixture
def prompts(monkeypatch) -> list[torch.Tensor]:
    """The rows `[T, K+1]` of every prompt that reaches the model from here on."""
    from duologue.engine import batch

    seen: list[torch.Tensor] = []
    original = batch.prefill_together

    def spy(model, prompts, state, *arguments):
        seen.extend(rows.tokens for rows in prompts)
        return original(model, prompts, state, *arguments)

    monkeypatch.setattr(batch, "prefill_together", spy)
    return seen
