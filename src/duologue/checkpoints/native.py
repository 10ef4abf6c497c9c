"""Our own layout: a folder with `config.json`, tensors under our names, the tokenizer, and voices.

`config.json` is `{"format": "duologue", "version": 1, "csm": ..., "mimi": ...}`, either part of which may be absent.
Tensors may be stored in any floating-point type, and matrices of the speech model as int8 (see `packing`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from duologue.checkpoints.rules import Rule
from duologue.config import CSMConfig, MimiConfig
from duologue.errors import CheckpointError, ConfigError

FORMAT, VERSION = "duologue", 1
CSM_NAME, CODEC_NAME = "model", "codec"
VOICES_FOLDER = "voices"


def rules(shapes: Mapping[str, torch.Size]) -> tuple[Rule, ...]:
    """The table: every name stands for itself."""
    return tuple(Rule(name, name) for name in shapes)


def is_native(config: Mapping[str, Any] | None) -> bool:
    """Whether a `config.json` is ours."""
    return config is not None and config.get("format") == FORMAT


def read_config(values: Mapping[str, Any], where: str) -> tuple[CSMConfig | None, MimiConfig | None]:
    """Both configurations. Raises `CheckpointError` for another version, unknown fields, or neither part."""
    if values.get("version") != VERSION:
        raise CheckpointError(
            f"{where}: format version {values.get('version')!r}; this duologue reads {VERSION}: update it"
        )
    unknown = sorted(values.keys() - {"format", "version", "csm", "mimi"})
    if unknown:
        raise CheckpointError(f"{where}: unknown field(s) {', '.join(unknown)}")
    csm, mimi = values.get("csm"), values.get("mimi")
    if csm is None and mimi is None:
        raise CheckpointError(f"{where}: describes neither a csm nor a mimi")
    try:
        return (
            None if csm is None else CSMConfig.from_dict(csm, f"{where}: csm"),
            None if mimi is None else MimiConfig.from_dict(mimi, f"{where}: mimi"),
        )
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def write_config(csm: CSMConfig | None, mimi: MimiConfig | None) -> dict[str, Any]:
    """The `config.json`."""
    values: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    if csm is not None:
        values["csm"] = csm.to_dict()
    if mimi is not None:
        values["mimi"] = mimi.to_dict()
    return values
