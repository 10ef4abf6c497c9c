"""Files of codes: one integer tensor, as safetensors (which says more about it) or npy.

The tensor `codes` is `[K, T]`: codebooks, then frames. A safetensors file keeps in its metadata the frame and sample
rates in Hz and the length of the recording in samples, so that decoding can drop the padding of the last frame.
"""

import contextlib
import io
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from duologue.cli import files
from duologue.errors import CodeError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES: Final = (".safetensors", ".npy")
MAX_BYTES: Final = 1 << 30

_KIND: Final = "duologue codes"
_NPY_MAGIC: Final = b"\x93NUMPY"


@dataclass(frozen=True)
class Codes:
    """`codes [K, T]` int64, and the length of the recording in samples where it is known."""

    codes: "Tensor"
    num_samples: int | None = None


def check_suffix(path: str) -> None:
    """Raise `CodeError` unless codes can be written under this name: by its suffix, in a folder that is there."""
    if path == "-":
        return
    if Path(path).suffix.lower() not in SUFFIXES:
        raise CodeError(f"cannot tell the format of {path} from its suffix; end it in {' or '.join(SUFFIXES)}")
    if Path(path).is_dir():
        raise CodeError(f"cannot write {path}: it is a folder; give a file name")
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise CodeError(f"cannot write {path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise CodeError(f"cannot write {path}: no permission to write in {folder}")


def encode_codes(codes: "Tensor", metadata: Mapping[str, str], suffix: str) -> bytes:
    """The bytes of a file that holds `codes [K, T]`, as int16 where they fit."""
    import numpy as np
    import torch

    largest = int(codes.max()) if codes.numel() else 0
    compact = codes.to(torch.int16 if largest <= torch.iinfo(torch.int16).max else torch.int32).contiguous()
    if suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, compact.numpy(), allow_pickle=False)
        return buffer.getvalue()
    from safetensors.torch import save

    return save({"codes": compact}, metadata={"kind": _KIND, **metadata})


def write_atomically(path: str, data: bytes) -> None:
    """Write a file whole or not at all. Raises `CodeError` where the system refuses."""
    final = Path(os.path.realpath(path))
    temporary = final.with_name(f".duologue-{secrets.token_hex(8)}.part")
    try:
        if final.exists() and not final.is_file():  # a pipe or a device
            with open(final, "wb") as stream:
                stream.write(data)
            return
        try:
            with open(temporary, "xb") as file:
                file.write(data)
            os.replace(temporary, final)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise CodeError(f"cannot write {path}: {error.strerror or error}") from None


def read_codes(path: str, stream: BinaryIO | None = None) -> Codes:
    """Read a file of codes, or `stream` where one is given.

    Raises:
        CodeError: missing, truncated or not of codes, not whole numbers, or not `[K, T]`.
    """
    if stream is not None:
        data = stream.read(MAX_BYTES + 1)
    else:
        data = files.read_bytes(path, MAX_BYTES + 1, CodeError, "a file of codes")
    if not data:
        raise CodeError(f"{path} is empty (0 bytes); give a file that duologue codec encode wrote")
    if len(data) > MAX_BYTES:
        raise CodeError(f"{path} is larger than {MAX_BYTES >> 30} GiB; split it")
    codes, num_samples = _from_npy(path, data) if data.startswith(_NPY_MAGIC) else _from_safetensors(path, data)
    return Codes(_checked(path, codes), num_samples)


def _from_npy(path: str, data: bytes) -> "tuple[Tensor, None]":
    import numpy as np
    import torch

    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        reason = "it holds Python objects" if "pickle" in str(error).lower() else "it is truncated or damaged"
        raise CodeError(f"{path} is no npy file of codes: {reason}; encode the recording again") from None
    if array.dtype.kind not in "iu":
        raise CodeError(f"{path} holds {array.dtype} values; expected whole numbers, such as int16")
    return torch.from_numpy(array.astype(np.int64)), None


def _from_safetensors(path: str, data: bytes) -> "tuple[Tensor, int | None]":
    import json

    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError):
        raise CodeError(
            f"{path} is truncated, damaged or not a file of codes; expected {' or '.join(SUFFIXES)}"
        ) from None
    if "codes" not in tensors:
        found = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise CodeError(f"{path} holds {found}, not the tensor codes; give a file that duologue codec encode wrote")
    codes = tensors["codes"]
    if codes.is_floating_point() or codes.is_complex() or str(codes.dtype) == "torch.bool":
        raise CodeError(f"{path} holds {str(codes.dtype).removeprefix('torch.')} values; expected whole numbers")
    length = str(header.get("__metadata__", {}).get("num_samples", ""))
    return codes.long(), int(length) if length.isdecimal() else None


def _checked(path: str, codes: "Tensor") -> "Tensor":
    if codes.dim() == 3 and codes.shape[0] == 1:
        codes = codes[0]
    if codes.dim() != 2 or 0 in codes.shape:
        raise CodeError(f"{path} holds codes of shape {list(codes.shape)}; expected [codebooks, frames]")
    return codes
