"""A model's own speech as something to learn: what is kept, in whose voice, and that a run goes on."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import duologue
from duologue.data import rehearsal
from duologue.data.hearing import Heard, Samples
from duologue.data.rehearsal import Rehearsed, rehearse
from duologue.data.shards import TurnStore
from duologue.engine.generator import Generator
from duologue.errors import DataError, VoiceError
from tests.engine.builders import tiny_csm, tiny_mimi, tiny_tokenizer

LINES = ("Hello there.", "Yes, I do.", "Good morning.")


class Ears:
    """Understands lines in their order, but for those that it is told to mishear."""

    name = "some ears"

    def __init__(self, *misheard: str) -> None:
        self._heard = iter([Heard("something else" if line in misheard else line, 0.0) for line in LINES])

    def __call__(self, pcm: Samples) -> Heard:
        assert pcm.ndim == 1
        assert len(pcm)
        return next(self._heard)


@pytest.fixture(scope="module")
def parlor() -> Generator:
    return duologue.load("parlor")


@pytest.fixture(autouse=True)
def one_line_a_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_SHARD_LINES", 1)


def test_what_was_understood_is_kept_in_the_models_voices_by_turns(parlor: Generator, tmp_path: Path) -> None:
    ears = Ears(LINES[1])
    done = list(rehearse(parlor, LINES, tmp_path, transcriber=ears, seed=5))  # type: ignore[arg-type]
    assert done == [Rehearsed(1, 3, 1), Rehearsed(2, 3, 1), Rehearsed(3, 3, 2)]
    store = TurnStore(tmp_path, fingerprint=parlor.voices.fingerprint)
    (first,), (last,) = (turns for turns in store.conversations if turns)
    voices = parlor.voices.shipped_names
    assert [(turn.voice, turn.text) for turn in (first, last)] == [(voices[0], LINES[0]), (voices[2], LINES[2])]
    alone = parlor.speak(LINES[2], voice=voices[2], temperature=0.7, seed=7)
    assert np.array_equal(last.codes, alone.codes.numpy())


def test_voices_that_are_asked_for(parlor: Generator, tmp_path: Path) -> None:
    names = parlor.voices.shipped_names[2:0:-1]
    list(rehearse(parlor, LINES, tmp_path, voices=names))
    assert [turn.voice for turns in TurnStore(tmp_path).conversations for turn in turns] == [*names, names[0]]
    with pytest.raises(VoiceError, match="nobody"):
        list(rehearse(parlor, LINES, tmp_path / "other", voices=["nobody"]))
    assert not (tmp_path / "other").exists()


def test_a_run_goes_on_where_it_stopped(parlor: Generator, tmp_path: Path) -> None:
    parts = rehearse(parlor, LINES, tmp_path)
    assert isinstance(parts, Iterator)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    shard = tmp_path / "shard-00000.json"
    made = shard.stat().st_mtime_ns
    assert not (tmp_path / "index.json").exists()
    assert list(rehearse(parlor, LINES, tmp_path))[-1].kept == 3
    assert shard.stat().st_mtime_ns == made
    assert [turn.text for turns in TurnStore(tmp_path).conversations for turn in turns] == list(LINES)
    with pytest.raises(DataError, match="shard-00000 of other lines, another model or another recogniser"):
        list(rehearse(parlor, LINES[1:], tmp_path))
    with pytest.raises(DataError, match="shard-00000 of other lines, another model or another recogniser"):
        list(rehearse(parlor, LINES, tmp_path, transcriber=Ears()))  # type: ignore[arg-type]


def test_nothing_to_rehearse_is_said(parlor: Generator, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no lines"):
        list(rehearse(parlor, [], tmp_path))
    with pytest.raises(DataError, match="of 3 lines the model said none well enough"):
        list(rehearse(parlor, LINES, tmp_path, transcriber=Ears(*LINES)))  # type: ignore[arg-type]
    assert not (tmp_path / "index.json").exists()
    torch.manual_seed(0)
    mute = Generator(tiny_csm(), tiny_mimi(), tiny_tokenizer())
    with pytest.raises(DataError, match="the model has no voices"):
        list(rehearse(mute, LINES, tmp_path))
