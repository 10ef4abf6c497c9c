"""Writing a checkpoint in any layout, and converting between them: whole, or not at all."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from duologue.checkpoints import csm_config, hub, moshi_mimi, native, sesame, transformers_csm, transformers_mimi
from duologue.checkpoints.hub import HubOptions
from duologue.checkpoints.io import new_folder, write_json, write_tensors
from duologue.checkpoints.layouts import LAYOUTS, build_codec, build_csm, codec_links, csm_links, survey
from duologue.checkpoints.loading import read_codec, read_csm
from duologue.checkpoints.packing import packed_tensors
from duologue.checkpoints.registry import TOKENIZER_FILE
from duologue.checkpoints.rules import module_shapes, write
from duologue.codec.mimi import Mimi
from duologue.errors import CheckpointError, DuologueWarning, OptionError
from duologue.model.csm import CSM

MAX_SHARD_BYTES = 5_000_000_000
# What training accumulates in the codebooks; rounding it would move the vectors.
_KEPT_FLOAT32 = ("embedding_sum", "cluster_usage")
_NEEDS = {
    "native": (),
    "sesame": ("model",),
    "transformers": ("model", "codec"),
    "moshi-mimi": ("codec",),
    "transformers-mimi": ("codec",),
}


def save_checkpoint(
    folder: str | os.PathLike[str],
    layout: str,
    *,
    model: CSM | None = None,
    codec: Mimi | None = None,
    tokenizer_path: str | os.PathLike[str] | None = None,
    voices_folder: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    codec_dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> Path:
    """Writes a checkpoint folder in one of `LAYOUTS` and returns it. It appears whole or not at all.

    Tensors keep their dtype unless `dtype` (the speech model's) or `codec_dtype` says otherwise, but nothing is stored
    in float64; the codebooks' sums keep it even then, and are float32 in all layouts but the native one. `torch.int8`,
    for the speech model in the native layout, packs its matrices with a scale a row (see `packing`). `max_shard_bytes`
    bounds the files of transformers' layouts; the others have one per network.
    `tokenizer_path` is copied as `tokenizer.json`, and `voices_folder` as `voices/` (native only). Warns where the
    layout has no place for the model's guidance.

    Raises `OptionError` for an unknown layout or a missing part, and `CheckpointError` when the folder is already there
    (unless `overwrite`, which replaces all of it) or cannot be written, or for a codec that the layout cannot hold.
    """
    if layout not in LAYOUTS:
        raise OptionError(f"layout {layout!r} is unknown; known are {', '.join(LAYOUTS)}")
    given = {"model": model, "codec": codec}
    missing = [name for name in _NEEDS[layout] if given[name] is None]
    if missing or (model is None and codec is None):
        raise OptionError(f"the {layout} layout needs a {' and a '.join(missing or given)}, which is not there")
    if torch.int8 in (dtype, codec_dtype) and (layout != "native" or codec_dtype == torch.int8):
        raise OptionError("int8 is for the speech model in the native layout: choose another dtype or layout")
    if max_shard_bytes <= 0:
        raise OptionError(f"max_shard_bytes must be positive, not {max_shard_bytes}")
    if voices_folder is not None and layout != "native":
        raise OptionError(f"the {layout} layout has no place for voices; leave them out or save as native")
    if codec is not None and codec.config.harmonic is not None and layout != "native":
        raise CheckpointError(
            f"the {layout} layout has no place for a decoder of harmonics, which this codec has; save it as native"
        )
    if layout in ("moshi-mimi", "transformers-mimi"):
        if model is not None or tokenizer_path is not None:
            raise OptionError(f"the {layout} layout holds a codec alone, without model and tokenizer")
    elif layout == "sesame" and codec is not None and model is not None:
        _require_same_codes(model, codec)
    destination = Path(folder).expanduser()
    with new_folder(destination, overwrite=overwrite) as work:
        if layout == "native":
            _write_native(work, model, codec, dtype, codec_dtype)
        elif layout == "sesame":
            assert model is not None
            write_tensors(work, _tensors_csm(layout, model, dtype))
            write_json(work / "config.json", sesame.write_config(model.config))
            if codec is not None:
                _write_moshi(work, codec, codec_dtype)
        elif layout == "transformers":
            assert model is not None and codec is not None
            _write_transformers(work, model, codec, dtype, codec_dtype, max_shard_bytes)
        elif layout == "moshi-mimi":
            assert codec is not None
            _write_moshi(work, codec, codec_dtype)
        else:
            assert codec is not None
            tensors = _tensors_codec(layout, codec, codec_dtype)
            write_tensors(work, tensors, max_shard_bytes=max_shard_bytes)
            write_json(work / "config.json", transformers_mimi.write_config(codec.config))
        if tokenizer_path is not None:
            _copy_tokenizer(Path(tokenizer_path), work)
        if voices_folder is not None:
            shutil.copytree(voices_folder, work / native.VOICES_FOLDER)
    if model is not None and layout != "native" and model.config.guidance != 1:
        warnings.warn(
            f"the {layout} layout has no place for guidance {model.config.guidance:g}: ask for it when speaking from "
            f"{destination}",
            DuologueWarning,
            stacklevel=2,
        )
    return destination


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    layout: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    overwrite: bool = False,
) -> Path:
    """Writes the checkpoint `source` (folder, file or hub id) to the folder `destination` in another of `LAYOUTS`.

    Tensors keep the values and the dtype that they have, unless `dtype` says otherwise for the speech model; the codec
    is float32. Only what the source holds is written: its codec, tokenizer and voices come along where the layout has a
    place for them; warns of a codec that stays behind. Raises as `load_checkpoint` and `save_checkpoint`.
    """
    if layout not in LAYOUTS:
        raise OptionError(f"layout {layout!r} is unknown; known are {', '.join(LAYOUTS)}")
    codec_only = layout in ("moshi-mimi", "transformers-mimi") or hub.names_codec(source)
    path = hub.resolve(source, HubOptions(revision, token, cache_dir, offline), codec_only=codec_only)
    contents = survey(path, codec_only=codec_only)
    cpu = torch.device("cpu")
    voices = contents.folder / native.VOICES_FOLDER
    codec = None if contents.codec is None else read_codec(contents.codec, cpu)
    if layout == "sesame" and contents.csm is not None and codec is not None and codec.config.harmonic is not None:
        warnings.warn(
            f"sesame's layout has no place for a decoder of harmonics; {destination} gets the model without its codec",
            DuologueWarning,
            stacklevel=2,
        )
        codec = None
    return save_checkpoint(
        destination,
        layout,
        model=None if contents.csm is None else read_csm(contents.csm, cpu, None),
        codec=codec,
        tokenizer_path=None if codec_only else contents.tokenizer,
        voices_folder=voices if layout == "native" and contents.layout == "native" and voices.is_dir() else None,
        dtype=dtype,
        max_shard_bytes=max_shard_bytes,
        overwrite=overwrite,
    )


def _write_native(
    folder: Path, model: CSM | None, codec: Mimi | None, dtype: torch.dtype | None, codec_dtype: torch.dtype | None
) -> None:
    if model is not None:
        packs = dtype == torch.int8
        tensors = _tensors_csm("native", model, None if packs else dtype)
        write_tensors(folder, packed_tensors(tensors) if packs else tensors, name=native.CSM_NAME)
    if codec is not None:
        write_tensors(folder, _tensors_codec("native", codec, codec_dtype), name=native.CODEC_NAME)
    values = native.write_config(
        model.config if model is not None else None, codec.config if codec is not None else None
    )
    write_json(folder / "config.json", values)


def _write_moshi(folder: Path, codec: Mimi, dtype: torch.dtype | None) -> None:
    name = sesame.CODEC_FILE.removesuffix(".safetensors")
    write_tensors(folder, _tensors_codec("moshi-mimi", codec, dtype), name=name)
    values = moshi_mimi.write_config(codec.config)
    if values is not None:
        write_json(folder / moshi_mimi.CONFIG_FILE, values)


def _write_transformers(
    folder: Path,
    model: CSM,
    codec: Mimi,
    dtype: torch.dtype | None,
    codec_dtype: torch.dtype | None,
    max_shard_bytes: int,
) -> None:
    _require_same_codes(model, codec)

    def tensors() -> Iterator[tuple[str, Tensor]]:
        yield from _tensors_csm("transformers", model, dtype)
        yield from _tensors_codec("transformers", codec, codec_dtype)

    write_tensors(folder, tensors(), max_shard_bytes=max_shard_bytes)
    values: dict[str, Any] = csm_config.to_transformers(model.config, transformers_mimi.write_config(codec.config))
    stored = dtype if dtype is not None else model.text_embeddings.weight.dtype
    write_json(folder / "config.json", {**values, "torch_dtype": str(stored).removeprefix("torch.")})
    write_json(folder / "generation_config.json", transformers_csm.GENERATION_CONFIG)


def _tensors_csm(layout: str, model: CSM, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    _require_plain(model, build_csm(model.config))
    for name, tensor in write(csm_links(layout, model), model.state_dict()):
        yield name, tensor if dtype is None else tensor.to(dtype)


def _tensors_codec(layout: str, codec: Mimi, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    _require_plain(codec, build_codec(codec.config))
    state = codec.state_dict()
    for name, tensor in state.items():
        if name.endswith(_KEPT_FLOAT32):
            state[name] = tensor if layout == "native" else tensor.float()
        elif dtype is not None or tensor.dtype == torch.float64:
            state[name] = tensor.to(dtype or torch.float32)
    yield from write(codec_links(layout, codec), state)


def _require_plain(module: nn.Module, expected: nn.Module) -> None:
    if module_shapes(module) != module_shapes(expected):
        raise CheckpointError(
            f"the {type(module).__name__} holds other tensors than its configuration says; save it before it is "
            "quantized, compiled or extended"
        )


def _require_same_codes(model: CSM, codec: Mimi) -> None:
    if (model.config.num_codebooks, model.config.codebook_size) != (codec.num_codebooks, codec.config.codebook_size):
        raise CheckpointError(
            f"the model speaks {model.config.num_codebooks} codebooks of {model.config.codebook_size} codes, the codec "
            f"{codec.num_codebooks} of {codec.config.codebook_size}: they cannot be saved together"
        )


def _copy_tokenizer(source: Path, folder: Path) -> None:
    if not source.is_file():
        raise CheckpointError(f"{source}: no such tokenizer file")
    shutil.copyfile(source, folder / TOKENIZER_FILE)
