"""Safetensors files: strict headers, tensors read one at a time, folders written whole or not at all.

Source: the format's README, https://github.com/huggingface/safetensors (8 bytes of header length, a JSON header, data).
The header is parsed here and tensors are read with plain reads, because a memory map counts twice: once as the file's
pages, once as the converted tensor. A float32 csm-1b then loads in little more than its own size.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from duologue.checkpoints.packing import SCALE_SUFFIX, unpack
from duologue.checkpoints.rules import TensorInfo
from duologue.errors import CheckpointError

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_LFS_START = b"version "  # of "version https://git-lfs.github.com/spec/v1"
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class _Place:
    path: Path
    start: int
    num_bytes: int


class TensorFiles:
    """The tensors of one or more safetensors files, read lazily."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Reads the headers. Raises `CheckpointError` for a file that is not whole, and for a name in two files."""
        self.paths = tuple(paths)
        self._infos: dict[str, TensorInfo] = {}
        self._places: dict[str, _Place] = {}
        for path in self.paths:
            for name, info, place in _read_header(path):
                if name in self._places:
                    raise CheckpointError(
                        f"{path}: tensor {name} is doubled: {self._places[name].path.name} has it too"
                    )
                self._infos[name], self._places[name] = info, place
        self._scales: dict[str, TensorInfo] = {}
        for name, info in list(self._infos.items()):
            scale = self._infos.get(name + SCALE_SUFFIX)
            if info.dtype == torch.int8 and scale is not None:
                if scale != TensorInfo(torch.float32, (*info.shape[:-1], 1)):
                    raise CheckpointError(
                        f"{self.where}: {name}{SCALE_SUFFIX} does not fit {name}: expected float32 "
                        f"{[*info.shape[:-1], 1]}, found {str(scale.dtype).removeprefix('torch.')} {list(scale.shape)}"
                    )
                self._infos[name] = TensorInfo(scale.dtype, info.shape, stored=info.dtype)
                self._scales[name] = self._infos.pop(name + SCALE_SUFFIX)

    @property
    def where(self) -> str:
        """The first file, and how many more there are."""
        more = len(self.paths) - 1
        return f"{self.paths[0]}" + (f" and {more} more" if more else "")

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Names of all tensors, with dtype and shape."""
        return self._infos

    def read(self, name: str) -> Tensor:
        """One tensor, in memory of its own, unpacked. Raises `CheckpointError` when the file has become shorter."""
        info = self._infos[name]
        if info.stored is None:
            return self._read(name, info.shape, info.dtype)
        scale = self._scales[name]
        return unpack(
            self._read(name, info.shape, info.stored), self._read(name + SCALE_SUFFIX, scale.shape, scale.dtype)
        )

    def _read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        place = self._places[name]
        tensor = torch.empty(shape, dtype=dtype)
        view = memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)
        try:
            with place.path.open("rb", buffering=0) as file:
                file.seek(place.start)
                done = 0
                while done < place.num_bytes:
                    count = file.readinto(view[done:])  # the system reads at most 2 GB at once
                    if not count:
                        raise CheckpointError(f"{place.path}: the file ended inside tensor {name}")
                    done += count
        except OSError as error:
            raise CheckpointError(f"{place.path}: cannot be read ({error.strerror or error})") from error
        return tensor


def _read_header(path: Path) -> Iterator[tuple[str, TensorInfo, _Place]]:
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise CheckpointError(
            f"{path}: a pickle can run code when it is opened and is refused; give a .safetensors file"
        )
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(_LENGTH_BYTES)
            length = int.from_bytes(start, "little")
            text = file.read(length) if length <= min(size, _MAX_HEADER_BYTES) else b""
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(start) < _LENGTH_BYTES or length > _MAX_HEADER_BYTES or not text.startswith(b"{"):
        plausible = len(start) == _LENGTH_BYTES and size < length + _LENGTH_BYTES <= _MAX_HEADER_BYTES
        reason = "is truncated (its header is not whole)" if plausible else "is not a safetensors file"
        reason = reason if size else "is empty"
        if start == _LFS_START:
            reason = "is a Git LFS pointer and not the file itself; run git lfs pull"
        if start.startswith(_PICKLE_STARTS):
            reason = "is a pickle, which can run code when it is opened: refused"
        raise CheckpointError(f"{path}: {reason}")
    if len(text) < length:
        raise CheckpointError(f"{path}: is truncated (its header is not whole)")
    header = _parse_header(path, text)
    data = _LENGTH_BYTES + length
    spans = []
    for name, entry in header.items():
        info, first, last = _entry(path, name, entry)
        spans.append((first, last))
        if data + last > size:
            raise CheckpointError(
                f"{path}: is truncated: {size} bytes, but tensor {name} ends at {data + last}; download it again"
            )
        yield name, info, _Place(path, data + first, last - first)
    position = 0
    for first, last in sorted(spans):
        if first != position:
            raise CheckpointError(f"{path}: is not a safetensors file (its tensors overlap or leave gaps)")
        position = last
    if data + position != size:
        raise CheckpointError(f"{path}: has {size - data - position} bytes after its last tensor; it is damaged")


def _parse_header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            doubled = sorted({name for name in names if names.count(name) > 1})
            raise CheckpointError(f"{path}: doubled in its header: {', '.join(doubled[:10])}")
        return values

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file (its header is not JSON)") from error
    header.pop("__metadata__", None)
    return dict(header)


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    try:
        dtype_name, shape, (first, last) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        counts = (*shape, first, last)
        if not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: is not a safetensors file (the header entry of {name} is malformed)") from error
    dtype = _DTYPES.get(dtype_name)
    if dtype is None:
        raise CheckpointError(f"{path}: tensor {name} is of type {dtype_name}; expected one of {', '.join(_DTYPES)}")
    if math.prod(shape) * dtype.itemsize != last - first:
        raise CheckpointError(f"{path}: tensor {name} has {last - first} bytes, which is not what its shape needs")
    return TensorInfo(dtype, shape), first, last


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `CheckpointError` for anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # not JSON, or not text
        raise CheckpointError(f"{path}: is not valid JSON ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values


def sharded(index: Path) -> TensorFiles:
    """The files that an index (`*.safetensors.index.json`) names.

    Raises `CheckpointError` for a shard that is not there and for an index that does not tell what the shards hold.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map from tensors to files")
    names = sorted(set(weight_map.values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names the file {name!r}, which is not beside it")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: names {name}, which is not there; download it too")
    files = TensorFiles([index.parent / name for name in names])
    wrong = sorted(
        name
        for name in files.infos.keys() | weight_map.keys()
        if name not in files.infos or weight_map.get(name) != files._places[name].path.name
    )
    if wrong:
        raise CheckpointError(
            f"{index}: disagrees with its shards about {len(wrong)} tensor(s): {', '.join(wrong[:10])}"
        )
    return files


def write_tensors(
    folder: Path, tensors: Iterator[tuple[str, Tensor]], *, name: str = "model", max_shard_bytes: int | None = None
) -> list[Path]:
    """Writes `<name>.safetensors`, or numbered shards with an index where one file would be too large.

    Only the tensors of one shard are in memory at a time. Raises `CheckpointError` when the disk is full or read-only.
    """
    parts: list[Path] = []
    weight_map: dict[str, int] = {}
    total = size = 0
    held: dict[str, Tensor] = {}

    def flush() -> None:
        path = folder / f"{name}.part{len(parts)}"
        try:
            save_file(held, path, metadata={"format": "pt"})
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder}: cannot write {name}.safetensors ({' '.join(str(error).split())})"
            ) from error
        path.chmod(folder.stat().st_mode & 0o666)  # the library makes files that only their owner can read
        parts.append(path)
        held.clear()

    for key, tensor in tensors:
        num_bytes = tensor.numel() * tensor.element_size()
        if held and max_shard_bytes is not None and size + num_bytes > max_shard_bytes:
            flush()
            size = 0
        held[key] = tensor.cpu()
        weight_map[key] = len(parts)
        size += num_bytes
        total += num_bytes
    flush()
    if len(parts) == 1:
        return [parts[0].rename(folder / f"{name}.safetensors")]
    names = [f"{name}-{i + 1:05}-of-{len(parts):05}.safetensors" for i in range(len(parts))]
    written = [part.rename(folder / final) for part, final in zip(parts, names, strict=True)]
    index = {"metadata": {"total_size": total}, "weight_map": {key: names[i] for key, i in sorted(weight_map.items())}}
    write_json(folder / f"{name}.safetensors.index.json", index)
    return written


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A JSON object, indented, as text that ends in a newline."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def new_folder(destination: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill that becomes `destination` at the end, or vanishes if anything goes wrong (Ctrl-C included).

    Raises `CheckpointError` when something is already there (unless `overwrite`, which replaces it) or it cannot be
    written.
    """
    destination = Path(os.path.abspath(destination))
    is_empty = destination.is_dir() and not destination.is_symlink() and not any(destination.iterdir())
    if os.path.lexists(destination) and not is_empty and not overwrite:
        raise CheckpointError(f"{destination}: is already there; choose another folder or ask to overwrite it")
    work: Path | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{destination.name}.", dir=destination.parent))
        folder = work / "new"
        folder.mkdir()
        yield folder
        if os.path.lexists(destination):
            destination.rename(work / "old")
        folder.rename(destination)
    except OSError as error:
        raise CheckpointError(f"{destination}: cannot be written ({error.strerror or error})") from error
    finally:
        if work is not None:
            if (work / "old").exists() and not destination.exists():
                (work / "old").rename(destination)
            shutil.rmtree(work, ignore_errors=True)
