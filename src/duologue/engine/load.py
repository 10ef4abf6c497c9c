"""From a checkpoint to a `Generator`, or to its codec alone."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import torch

from duologue.codec.mimi import Mimi
from duologue.engine.backends import EAGER, find_backend
from duologue.engine.generator import Generator
from duologue.engine.layout import lay_out
from duologue.engine.native import load_operators
from duologue.engine.packed import pack_products
from duologue.engine.pages import large_pages
from duologue.engine.quantization import Int8CSM, check_quantization
from duologue.engine.voices import VoiceLibrary
from duologue.engine.warming import warm_up
from duologue.errors import CheckpointError, OptionError

DEFAULT_MODEL = "parlor"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load(
    model: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    *,
    backend: str = "eager",
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
    voices_dir: str | os.PathLike[str] | None = None,
) -> Generator:
    """A generator from the bundled model (None or "parlor"), a folder or file, or a hub id such as "sesame/csm-1b".

    `device` is "auto" (CUDA where there is one, else the CPU) or a torch device; `dtype` that of the model, by default
    float32 on a CPU and bfloat16 on CUDA, while the codec is float32 (see `Mimi.steadied` for what decodes in float64);
    `quantize="int8"` packs the model's matrices for a CPU: several times faster, nearly the same speech, neither to be
    trained nor saved. `backend="compiled"` has `torch.compile` make one loop of what lies between two matrix products,
    and calls operators of ours for these where they can be built (Linux, x86-64): about three times as fast on a CPU,
    the same speech but for rounding, after some minutes of compiling (a third of one where that was done before); it
    needs a C++ compiler.
    `backend="cuda-graphs"` launches a frame's kernels on a GPU all at once; the first utterance records them.

    `revision`, `token`, `cache_dir` and `offline` are for the hub. `voices_dir` is a folder of the user's own voices.

    Raises `CheckpointError` (`HubError` where the hub is the reason), `ConfigError` and `OptionError`.
    """
    from duologue.checkpoints import load_checkpoint

    place = find_device(device)
    kept = find_dtype(dtype, place)
    chosen = find_backend(backend, place)
    if quantize is not None:
        check_quantization(quantize, place, kept)
    with large_pages():
        checkpoint = load_checkpoint(
            find_source(model),
            device=place,
            dtype=kept,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            offline=offline,
        )
        shipped = None if checkpoint.folder is None else Path(checkpoint.folder) / "voices"
        codec = checkpoint.codec.steadied()
        native = chosen.name == "compiled" and place.type == "cpu" and load_operators()
        codec = pack_products(codec) if chosen is EAGER else lay_out(codec, by_output=native)
        library = VoiceLibrary(codec, shipped, voices_dir)
        if quantize is None:
            speaking = lay_out(checkpoint.model, by_output=native)
        else:
            speaking = Int8CSM(checkpoint.model, native=native)
        generator = Generator(speaking, codec, checkpoint.tokenizer, library, backend=chosen)
        warm_up(generator.model, generator.codec, chosen)
    return generator


def load_codec(
    model: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    offline: bool = False,
) -> Mimi:
    """The codec alone, from any of Mimi's published weight formats or a checkpoint that holds one; see `load`."""
    from duologue.checkpoints import load_codec as load_codec_checkpoint

    with large_pages():
        codec = load_codec_checkpoint(
            find_source(model),
            device=find_device(device),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            offline=offline,
        )
        return pack_products(codec.eval().steadied())


def find_device(device: str | torch.device) -> torch.device:
    """The device that is meant; raises `OptionError` for one that is unknown or not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise OptionError(f"device {device!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'") from None
    if found.type not in ("cpu", "cuda"):
        raise OptionError(f"device {str(device)!r}; expected 'auto', 'cpu', 'cuda' or 'cuda:N'")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device {str(device)!r}: torch sees {torch.cuda.device_count()} CUDA devices here")
    return found


def find_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of the model's weights on `device`; raises `OptionError` for one that the model does not run in."""
    if dtype is None:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    found = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if found not in _DTYPES.values():
        raise OptionError(f"dtype {dtype!r}; expected {', '.join(_DTYPES)} or None")
    assert isinstance(found, torch.dtype)
    return found


def bundled_model() -> Path:
    """The folder of the model that comes with the package; raises `CheckpointError` where it is not there."""
    folder = Path(str(resources.files("duologue"))) / "pretrained" / DEFAULT_MODEL
    if not folder.is_dir():
        raise CheckpointError(
            f"the bundled model {DEFAULT_MODEL} is not installed ({folder} is missing); "
            "reinstall duologue, or name a model: a folder, or a hub id such as sesame/csm-1b"
        )
    return folder


def find_source(model: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """Where a model lies that is called so: the bundled one for None and "parlor"; raises `OptionError` for no name."""
    if model is None or (model == DEFAULT_MODEL and not os.path.exists(model)):
        return bundled_model()
    if not isinstance(model, str | os.PathLike) or not str(model).strip():
        raise OptionError(f"model {model!r}; expected a folder, a file, or a hub id such as sesame/csm-1b")
    return model
