"""Copies of recordings at other speeds: voice, pace and places follow the sound."""

import json
from pathlib import Path

import pytest
import torch

from duologue.audio import read_audio, write_audio
from duologue.errors import TrainingError
from recipes.parlor import revoice

RATE = 24_000


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    time = torch.arange(2 * RATE) / RATE
    pcm = 0.3 * torch.sin(2 * torch.pi * 200 * time) * ((time > 0.5) & (time < 1.5))
    write_audio(folder / "a.flac", pcm, RATE)
    turn = {"speaker": 0, "voice": "ann", "pace": 1.1, "text": "Hello.", "start": RATE // 2, "end": 3 * RATE // 2}
    entry = {"file": "a.flac", "sample_rate": RATE, "samples": 2 * RATE, "shared_pace": False, "turns": [turn]}
    for name in ("manifest-1.jsonl", "manifest-heldout.jsonl"):
        (folder / name).write_text(json.dumps(entry) + "\n")


def test_copies_move_in_pitch_pace_and_place(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in")
    assert list(revoice.revoice(tmp_path / "in", tmp_path / "out", copies=3, workers=1)) == [(0, 3), (3, 3)]
    assert [path.name for path in (tmp_path / "out").glob("manifest-*")] == ["manifest-1.jsonl"]
    entries = [json.loads(line) for line in (tmp_path / "out" / "manifest-1.jsonl").read_text().splitlines()]
    factors = set()
    for entry in entries:
        (turn,) = entry["turns"]
        voice, factor = turn["voice"].split("@")
        factors.add(int(factor))
        assert voice == "ann"
        assert turn["pace"] == pytest.approx(1.1 * int(factor) / 100)
        pcm, rate = read_audio(tmp_path / "out" / entry["file"], RATE)
        assert len(pcm) == entry["samples"] == pytest.approx(2 * RATE * 100 / int(factor), abs=2)
        spoken = pcm[turn["start"] : turn["end"]]
        assert len(spoken) / rate == pytest.approx(100 / int(factor), abs=0.01)
        middle = spoken[rate // 10 : -rate // 10]
        crossings = int((middle > 0).int().diff().abs().sum()) / 2 / (len(middle) / rate)
        assert crossings == pytest.approx(2 * int(factor), rel=0.02)
    assert len(factors) == 3
    assert factors <= set(revoice.FACTORS)


def test_a_second_run_adds_nothing_and_nothing_to_read_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in")
    list(revoice.revoice(tmp_path / "in", tmp_path / "out", copies=2, workers=1))
    before = (tmp_path / "out" / "manifest-1.jsonl").read_text()
    assert list(revoice.revoice(tmp_path / "in", tmp_path / "out", copies=2, workers=1)) == [(2, 2)]
    assert (tmp_path / "out" / "manifest-1.jsonl").read_text() == before
    with pytest.raises(TrainingError, match=r"no manifest-\*\.jsonl of training recordings"):
        list(revoice.revoice(tmp_path, tmp_path / "other", copies=2, workers=1))
