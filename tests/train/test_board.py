"""What TensorBoard is given, read back with its own reader."""

import sys
from pathlib import Path

import pytest
import torch

from duologue.errors import TrainingError
from duologue.train.board import Board, mel_picture


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_curves_sounds_and_pictures_are_written(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    board = Board(tmp_path)
    board.scalars({"loss": 2.0, "eval_wer": 30.0, "perplexity_3": 500.0}, 7)
    board.sound("line", 0.1 * torch.sin(torch.arange(24_000) * 0.1), 24_000, 7)
    board.close()
    events = reader.EventAccumulator(str(tmp_path), size_guidance={"audio": 1, "images": 1})
    events.Reload()
    tags = events.Tags()
    assert sorted(tags["scalars"]) == ["eval/wer", "perplexity/3", "train/loss"]
    assert [(event.step, event.value) for event in events.Scalars("eval/wer")] == [(7, 30.0)]
    assert tags["audio"] == ["line/sound"]
    assert tags["images"] == ["line/spectrogram"]


def test_a_tone_is_a_line_in_its_picture() -> None:
    picture = mel_picture(0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(24_000) / 24_000), 24_000)
    assert picture.shape == (1, 80, 94)
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    brightest = picture[0, :, 10:-10].argmax(dim=0)  # from the top
    assert bool((brightest == brightest[0]).all())
    assert 40 < int(brightest[0]) < 60  # 1 kHz is 35 % of the way up the mel scale to 12 kHz


def test_a_missing_tensorboard_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(TrainingError, match=r"pip install 'duologue\[train\]'"):
        Board(tmp_path)
