"""Speech with known words that needs no corpus: Piper's `joe`, as he is and shifted, and the prompt of a real voice."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import duologue
from duologue.audio import normalize_loudness, resample
from duologue.checkpoints import save_checkpoint
from recipes.parlor.troupes import PiperJoe
from tests.engine.builders import tiny_mimi

RATE = 24_000


@dataclass(frozen=True, eq=False)
class Spoken:
    """A few seconds of a voice at 24 kHz, and what is said."""

    text: str
    pcm: Tensor


@pytest.fixture(scope="session")
def spoken() -> dict[str, Spoken]:
    """By voice: `low`, `joe` and `high` are one man at three heights, `kathleen` a woman, less clear."""
    torch.manual_seed(0)
    joe = PiperJoe()
    found = {}
    for name, text, height in (
        ("low", "The weather was cold and windy all day long.", 0.8),
        ("joe", "I would like a cup of coffee and a piece of cake.", 1.0),
        ("high", "Please close the door before you leave the house.", 1.3),
    ):
        pcm = torch.from_numpy(joe(text, 1 / height))
        pcm = resample(pcm, round(joe.sample_rate * height), RATE)
        found[name] = Spoken(text, normalize_loudness(pcm))
    generator = duologue.load()
    (segment,) = generator.voices.get("kathleen").segments
    with torch.no_grad():
        found["kathleen"] = Spoken(segment.text, generator.codec.decode(segment.codes[None])[0, 0].clamp(-1, 1))
    return found


@pytest.fixture(scope="session")
def codec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec of a few thousand random weights."""
    return save_checkpoint(tmp_path_factory.mktemp("codec") / "tiny", "native", codec=tiny_mimi())


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the recogniser's weights are joined."""
    return tmp_path_factory.mktemp("cache")
