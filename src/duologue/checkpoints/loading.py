"""Loading a checkpoint of any layout, from a folder, a file or the hub, into our modules.

The modules are built without memory and receive their tensors one at a time, so that loading needs little more memory
than the model itself, and a missing tensor can never leave random weights behind.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from duologue.checkpoints import hub, sesame
from duologue.checkpoints.hub import HubOptions
from duologue.checkpoints.layouts import Contents, Part, build_codec, build_csm, survey
from duologue.checkpoints.registry import CODEC_SOURCE, TOKENIZER_FILE, TOKENIZER_SOURCE
from duologue.checkpoints.rules import fill, read
from duologue.codec.mimi import Mimi
from duologue.config import CSMConfig, MimiConfig
from duologue.errors import CheckpointError, HubError
from duologue.model.csm import CSM
from duologue.text.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """Everything that speaking needs: `layout` is how it was stored, `folder` where (voices lie in it, if any do)."""

    model: CSM
    codec: Mimi
    tokenizer: TextTokenizer
    folder: Path
    layout: str


def load_checkpoint(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
    num_codebooks: int | None = None,
) -> Checkpoint:
    """Loads model, codec and tokenizer from a folder, one of its files, or a hub id such as "sesame/csm-1b".

    `dtype` is the speech model's: by default bfloat16 on a CUDA device and float32 elsewhere; the codec is float32.
    `num_codebooks` is the codec's, by default as many as the model speaks. What the checkpoint lacks (a codec, a
    tokenizer) comes from the repositories that the registry names; with `offline`, from the hub's cache.

    Raises `CheckpointError` for a checkpoint that is damaged, refused or does not fit, and `HubError` (one of its kind)
    for one that cannot be had.
    """
    options = HubOptions(revision, token, cache_dir, offline)
    contents = survey(hub.resolve(source, options))
    if contents.csm is None:
        raise CheckpointError(f"{contents.folder}: holds a codec and no CSM; load it as a codec")
    extras = replace(options, revision=None)
    codec_part = contents.codec if contents.codec is not None else _codec_elsewhere(contents, extras)
    count = contents.csm.config.num_codebooks if num_codebooks is None else num_codebooks
    _require_match(contents.csm, codec_part, count)
    tokenizer_path = contents.tokenizer if contents.tokenizer is not None else _tokenizer_elsewhere(contents, extras)
    tokenizer = TextTokenizer.from_file(tokenizer_path, contents.csm.config.text)
    if tokenizer.vocab_size > contents.csm.config.text_vocab_size:
        raise CheckpointError(
            f"{tokenizer_path}: has {tokenizer.vocab_size} tokens, but the model embeds "
            f"{contents.csm.config.text_vocab_size}; it belongs to another checkpoint"
        )
    device = torch.device(device)
    codec = read_codec(codec_part, device, count)
    model = read_csm(contents.csm, device, dtype if dtype is not None else default_dtype(device))
    return Checkpoint(model, codec, tokenizer, contents.folder, contents.layout)


def load_codec(
    source: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    num_codebooks: int | None = None,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
) -> Mimi:
    """Loads Mimi alone, in float32: from our folder, moshi's file, or a folder of transformers (Mimi's or CSM's).

    `num_codebooks` takes the first so many of those in the checkpoint (default: all). Raises as `load_checkpoint`.
    """
    options = HubOptions(revision, token, cache_dir, offline)
    contents = survey(hub.resolve(source, options, codec_only=True), codec_only=True)
    if contents.codec is None:
        raise CheckpointError(f"{contents.folder}: holds no codec")
    return read_codec(contents.codec, torch.device(device), num_codebooks)


def inspect(
    source: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
) -> dict[str, Any]:
    """What a checkpoint is, without loading it: plain values, ready for JSON.

    `layout`, `folder`, `files`, `csm` and `codec` (each `None` or its `config`, `num_parameters`, `dtypes` and, by
    name, `tensors` with dtype and shape), and `tokenizer`. Raises as `load_checkpoint`.
    """
    codec_only = hub.names_codec(source)
    options = HubOptions(revision, token, cache_dir, offline)
    contents = survey(hub.resolve(source, options, codec_only=codec_only), codec_only=codec_only)
    parts: list[Part[CSMConfig] | Part[MimiConfig]] = [p for p in (contents.csm, contents.codec) if p is not None]
    return {
        "layout": contents.layout,
        "folder": str(contents.folder),
        "files": sorted({path.name for part in parts for path in part.files.paths}),
        "csm": None if contents.csm is None else _describe(contents.csm),
        "codec": None if contents.codec is None else _describe(contents.codec),
        "tokenizer": None if contents.tokenizer is None else contents.tokenizer.name,
    }


def default_dtype(device: torch.device) -> torch.dtype:
    """The speech model's dtype where none is asked for."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def read_csm(part: Part[CSMConfig], device: torch.device, dtype: torch.dtype | None) -> CSM:
    """The speech model with its tensors, ready to speak; `dtype` None keeps the file's."""
    model = build_csm(part.config)
    fill(model, read(part.links, part.files, model.state_dict()), device=device, dtype=dtype)
    return model.eval()


def read_codec(part: Part[MimiConfig], device: torch.device, num_codebooks: int | None = None) -> Mimi:
    """The codec with its tensors, float32, with the first `num_codebooks` (default: all) of the file's codebooks."""
    available = part.config.num_codebooks
    count = available if num_codebooks is None else num_codebooks
    if not 2 <= count <= available:
        raise CheckpointError(f"{part.files.where}: num_codebooks must be 2..{available}, not {count}")
    codec = build_codec(replace(part.config, num_codebooks=count))
    fill(codec, read(part.links, part.files, codec.state_dict()), device=device, dtype=torch.float32)
    return codec.eval()


def _require_match(csm: Part[CSMConfig], codec: Part[MimiConfig], count: int) -> None:
    if codec.config.codebook_size != csm.config.codebook_size:
        raise CheckpointError(
            f"{codec.files.where}: codebooks of {codec.config.codebook_size} codes; the model has "
            f"{csm.config.codebook_size}: it belongs to another checkpoint"
        )
    if not csm.config.num_codebooks <= count <= codec.config.num_codebooks:
        raise CheckpointError(
            f"{csm.files.where}: the model speaks {csm.config.num_codebooks} codebooks and the codec has "
            f"{codec.config.num_codebooks}; num_codebooks cannot be {count}"
        )


def _codec_elsewhere(contents: Contents, options: HubOptions) -> Part[MimiConfig]:
    logger.info("%s: holds no codec; taking %s of %s", contents.folder, sesame.CODEC_FILE, CODEC_SOURCE)
    what = f"{contents.folder}: holds no codec; put {sesame.CODEC_FILE} beside it"
    codec = survey(_extra(CODEC_SOURCE, sesame.CODEC_FILE, options, what), codec_only=True).codec
    assert codec is not None
    return codec


def _tokenizer_elsewhere(contents: Contents, options: HubOptions) -> Path:
    logger.info("%s: holds no %s; taking that of %s", contents.folder, TOKENIZER_FILE, TOKENIZER_SOURCE)
    what = f"{contents.folder}: holds no {TOKENIZER_FILE}; put one beside it"
    return _extra(TOKENIZER_SOURCE, TOKENIZER_FILE, options, what)


def _extra(repo_id: str, name: str, options: HubOptions, what: str) -> Path:
    """One file of a registered repository. Raises `HubError` that says what is missing and why it cannot be had."""

    def choose(names: Iterable[str]) -> list[str]:
        if name not in names:
            raise HubError(f"{repo_id}: has no {name}")
        return [name]

    try:
        path = hub.fetch(repo_id, choose, options) / name
    except HubError as error:
        raise HubError(f"{what} ({error})") from error
    if not path.is_file():
        raise HubError(f"{what} (the cached copy of {repo_id} has no {name})")
    return path


def _describe(part: Part[CSMConfig] | Part[MimiConfig]) -> dict[str, Any]:
    infos = part.files.infos
    used = [name for item in part.links for name in (item.foreign, *item.aliases, *item.copies) if name in infos]
    dtypes = {name: str(infos[name].stored or infos[name].dtype).removeprefix("torch.") for name in used}
    first = [next(name for name in item.spellings() if name in infos) for item in part.links]
    return {
        "config": part.config.to_dict(),
        "num_parameters": sum(torch.Size(infos[name].shape).numel() for name in first),
        "dtypes": sorted(set(dtypes.values())),
        "tensors": {name: {"dtype": dtypes[name], "shape": list(infos[name].shape)} for name in sorted(used)},
    }
