"""What a folder or file holds: its layout told by the names of its tensors, and everything checked before it is read.

Where two layouts lie side by side, as in the hub's sesame/csm-1b, one is taken whole: ours, then transformers' (the
codec is inside), then Sesame's original.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from duologue.checkpoints import csm_config, moshi_mimi, native, sesame, transformers_csm, transformers_mimi
from duologue.checkpoints.io import PICKLE_SUFFIXES, TensorFiles, read_json, sharded
from duologue.checkpoints.registry import TOKENIZER_FILE
from duologue.checkpoints.rules import Link, Rule, TensorInfo, check, link, module_shapes
from duologue.codec.mimi import Mimi
from duologue.config import CSMConfig, MimiConfig
from duologue.errors import CheckpointError
from duologue.model.csm import CSM

logger = logging.getLogger(__name__)

LAYOUTS = ("native", "sesame", "transformers", "moshi-mimi", "transformers-mimi")
_FINGERPRINTS = {
    "transformers": transformers_csm.FINGERPRINT,
    "sesame": sesame.FINGERPRINT,
    "moshi-mimi": moshi_mimi.FINGERPRINT,
    "transformers-mimi": transformers_mimi.FINGERPRINT,
}
# In the order of preference.
_CSM_LAYOUTS = ("transformers", "sesame")
_LONE_CODECS = ("moshi-mimi", "transformers-mimi")
_CODEC_LAYOUTS = ("transformers", *_LONE_CODECS)
_CONFIG_FILE = "config.json"
_INDEX_SUFFIX = ".safetensors.index.json"

Config = TypeVar("Config", CSMConfig, MimiConfig)


@dataclass(frozen=True)
class Part(Generic[Config]):
    """One network of a checkpoint: the files that hold it, its configuration, and where each tensor is."""

    layout: str
    files: TensorFiles
    config: Config
    links: list[Link]


@dataclass(frozen=True)
class Contents:
    """What was found. `tokenizer` is the folder's `tokenizer.json`, where it has one."""

    folder: Path
    layout: str
    csm: Part[CSMConfig] | None
    codec: Part[MimiConfig] | None
    tokenizer: Path | None


class _NoInitialValues(TorchFunctionMode):
    """Skips `torch.nn.init`: random draws on the meta device import torch's compiler, seconds for values not kept."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == torch.nn.init.__name__:
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


def build_csm(config: CSMConfig) -> CSM:
    """The speech model without memory for its tensors."""
    with torch.device("meta"), _NoInitialValues():
        return CSM(config)


def build_codec(config: MimiConfig) -> Mimi:
    """The codec without memory for its tensors."""
    with torch.device("meta"), _NoInitialValues():
        return Mimi(config)


def survey(path: Path, *, codec_only: bool = False) -> Contents:
    """What is at `path`, a folder or one of its files; only headers are read, and held against the model's tensors.

    Raises `CheckpointError` where there is no checkpoint, more than one of a layout, or one that does not fit.
    """
    folder = path if path.is_dir() else path.parent
    config_path = folder / _CONFIG_FILE
    config = read_json(config_path) if config_path.is_file() else None
    tokenizer = folder / TOKENIZER_FILE if (folder / TOKENIZER_FILE).is_file() else None
    if native.is_native(config):
        assert config is not None
        csm, codec = _survey_native(folder, config, codec_only)
        return Contents(folder, "native", csm, codec, tokenizer)
    found = _candidates(path)
    order = _CODEC_LAYOUTS if codec_only else (*_CSM_LAYOUTS, *_LONE_CODECS)
    layout = next((name for name in order if name in found), None)
    if layout is None:
        raise CheckpointError(_nothing(path, codec_only))
    files = _the_one(found, layout)
    aside = [f"{name} ({_the_one(found, name).where})" for name in _CSM_LAYOUTS if name in found and name != layout]
    logger.info("%s: %s layout%s", files.where, layout, f", leaving aside {', '.join(aside)}" if aside else "")
    if layout == "transformers":
        if config is None:
            raise CheckpointError(f"{folder}: has transformers' tensors but no {_CONFIG_FILE}")
        csm, codec = _survey_transformers(folder, files, config, codec_only)
    elif layout == "sesame":
        side = next((name for name in _LONE_CODECS if name in found), None)
        codec = None if side is None else _survey_codec(folder, side, _the_one(found, side), config)
        csm = _survey_sesame(files, config, codec)
    else:
        csm, codec = None, _survey_codec(folder, layout, files, config)
    return Contents(folder, layout, csm, codec, tokenizer)


def csm_rules(layout: str, config: CSMConfig, shapes: Mapping[str, torch.Size]) -> Sequence[Rule]:
    """The table of a layout for the speech model's tensors."""
    tables = {"native": lambda: native.rules(shapes), "sesame": lambda: sesame.RULES}
    return tables.get(layout, lambda: transformers_csm.rules(config))()


def codec_rules(layout: str, config: MimiConfig, shapes: Mapping[str, torch.Size]) -> Sequence[Rule]:
    """The table of a layout for the codec's tensors."""
    if layout == "native":
        return native.rules(shapes)
    if layout == "moshi-mimi":
        return moshi_mimi.rules(config)
    return transformers_mimi.rules(config, transformers_csm.CODEC_PREFIX if layout == "transformers" else "")


def csm_links(layout: str, module: CSM) -> list[Link]:
    """Where each tensor of the speech model is in a layout."""
    shapes = module_shapes(module)
    return link(csm_rules(layout, module.config, shapes), shapes)


def codec_links(layout: str, module: Mimi) -> list[Link]:
    """Where each tensor of the codec is in a layout."""
    shapes = module_shapes(module)
    return link(codec_rules(layout, module.config, shapes), shapes)


def _survey_native(
    folder: Path, values: Mapping[str, Any], codec_only: bool
) -> tuple[Part[CSMConfig] | None, Part[MimiConfig] | None]:
    csm_values, codec_values = native.read_config(values, f"{folder / _CONFIG_FILE}")
    csm: Part[CSMConfig] | None = None
    codec: Part[MimiConfig] | None = None
    if csm_values is not None and not codec_only:
        files = TensorFiles([_present(folder / f"{native.CSM_NAME}.safetensors")])
        csm = Part("native", files, csm_values, csm_links("native", build_csm(csm_values)))
        check(csm.links, files.infos, files.where)
    if codec_values is not None:
        files = TensorFiles([_present(folder / f"{native.CODEC_NAME}.safetensors")])
        codec = Part("native", files, codec_values, codec_links("native", build_codec(codec_values)))
        check(codec.links, files.infos, files.where)
    return csm, codec


def _survey_transformers(
    folder: Path, files: TensorFiles, values: Mapping[str, Any], codec_only: bool
) -> tuple[Part[CSMConfig] | None, Part[MimiConfig] | None]:
    where = str(folder / _CONFIG_FILE)
    if values.get("model_type") != "csm":
        raise CheckpointError(f"{where}: model_type is {values.get('model_type')!r}, but the tensors are those of csm")
    codec_config = transformers_mimi.read_config(values.get("codec_config") or {}, f"{where}: codec_config")
    codec = Part("transformers", files, codec_config, codec_links("transformers", build_codec(codec_config)))
    prefix = transformers_csm.CODEC_PREFIX
    if codec_only:
        check(codec.links, {name: info for name, info in files.infos.items() if name.startswith(prefix)}, files.where)
        return None, codec
    config = csm_config.from_transformers(values, where)
    csm = Part("transformers", files, config, csm_links("transformers", build_csm(config)))
    check([*csm.links, *codec.links], files.infos, files.where)
    return csm, codec


def _survey_sesame(
    files: TensorFiles, values: Mapping[str, Any] | None, codec: Part[MimiConfig] | None
) -> Part[CSMConfig]:
    config = sesame.read_config(values, files.infos, files.where)
    if codec is not None and codec.config.codebook_size <= config.audio_vocab_size:
        config = replace(config, codebook_size=codec.config.codebook_size)
    part = Part("sesame", files, config, csm_links("sesame", build_csm(config)))
    check(part.links, files.infos, files.where)
    return part


def _survey_codec(folder: Path, layout: str, files: TensorFiles, values: Mapping[str, Any] | None) -> Part[MimiConfig]:
    infos: Mapping[str, TensorInfo] = files.infos
    if layout == "moshi-mimi":
        beside = folder / moshi_mimi.CONFIG_FILE
        config = moshi_mimi.read_config(read_json(beside) if beside.is_file() else None, infos, files.where)
    else:
        values = values or {}
        own = values if values.get("model_type") == "mimi" else values.get("codec_config") or {}
        config = transformers_mimi.read_config(own, f"{folder / _CONFIG_FILE}")
    part = Part(layout, files, config, codec_links(layout, build_codec(config)))
    check(part.links, infos, files.where)
    return part


def _candidates(path: Path) -> dict[str, list[TensorFiles]]:
    """Every set of files whose layout is known, by layout; files of other kinds are passed over.

    Of a single file, the folder is searched for a codec beside it only.
    """
    if path.is_file():
        named = sharded(path) if path.name.endswith(_INDEX_SUFFIX) else TensorFiles([path])
        found = _sorted_by_layout([named])
        if "sesame" in found:
            beside = [TensorFiles([file]) for file in sorted(path.parent.glob("*.safetensors")) if file != path]
            codecs = _sorted_by_layout(beside)
            found |= {layout: codecs[layout] for layout in _LONE_CODECS if layout in codecs}
        return found
    groups = [sharded(index) for index in sorted(path.glob(f"*{_INDEX_SUFFIX}"))]
    taken = {shard for group in groups for shard in group.paths}
    groups += [TensorFiles([file]) for file in sorted(path.glob("*.safetensors")) if file not in taken]
    return _sorted_by_layout(groups)


def _sorted_by_layout(groups: Sequence[TensorFiles]) -> dict[str, list[TensorFiles]]:
    found: dict[str, list[TensorFiles]] = {}
    for group in groups:
        for layout, names in _FINGERPRINTS.items():
            if all(name in group.infos for name in names):
                found.setdefault(layout, []).append(group)
    return found


def _the_one(found: Mapping[str, list[TensorFiles]], layout: str) -> TensorFiles:
    groups = found[layout]
    if len(groups) > 1:
        raise CheckpointError(
            f"{groups[0].paths[0].parent}: holds {len(groups)} checkpoints of the {layout} layout "
            f"({', '.join(group.paths[0].name for group in groups)}); name one of the files"
        )
    return groups[0]


def _nothing(path: Path, codec_only: bool) -> str:
    wanted = "Mimi codec" if codec_only else "CSM or Mimi checkpoint"
    if path.is_file():
        return f"{path}: its tensors are those of no known {wanted} ({', '.join(LAYOUTS)})"
    files = sorted(file.name for file in path.iterdir() if file.is_file())
    pickles = [name for name in files if name.lower().endswith(PICKLE_SUFFIXES)]
    tensors = [name for name in files if name.endswith(".safetensors")]
    if pickles and not tensors:
        return f"{path}: holds only {', '.join(pickles)}: a pickle can run code when it is opened and is refused"
    return f"{path}: holds no {wanted}; safetensors files there: {', '.join(tensors) or 'none'}"


def _present(path: Path) -> Path:
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing, though {_CONFIG_FILE} describes it")
    return path
