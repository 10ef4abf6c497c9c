"""Whisper beside torch, in one process."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from duologue.checkpoints.whisper import bundled_whisper
from duologue.data.hearing import Transcriber
from duologue.data.teacher import WhisperTeacher
from duologue.eval.instruments import WhisperRecognizer


@pytest.mark.parametrize(
    "load",
    [
        lambda cache: Transcriber(None, language="en", cache=cache),
        lambda cache: WhisperRecognizer(cache=cache, threads=1, offline=True),
        lambda cache: WhisperTeacher(bundled_whisper(cache), frame_rate=12.5, threads=1),
    ],
)
def test_loading_it_leaves_torch_its_threads(load: Callable[[Path], object], cache: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        load(cache)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
