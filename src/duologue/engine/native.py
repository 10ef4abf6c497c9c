"""Operators in C++ for the compiled backend, built once by the compiler that it needs anyway.

A frame's products read many weights for a row or two. torch's read them from one place in memory after another, from
which a core fetches two thirds to four fifths of what it can (dev/LOG.md); ours read four places side by side. And
nothing between two products is Python, which lies all over memory and is read anew whenever a large model's weights
have been.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from duologue.errors import DuologueWarning
from duologue.nn.operators import Operators, register

_SOURCES = Path(__file__).parent / "kernels"


@cache
def load_operators() -> bool:
    """Whether `torch.ops.duologue_native` is there: built where nobody has, which takes some seconds, and loaded.

    Without it graphs call torch's products, those in eight bits through Python; a warning says why where a build fails.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64" or not torch.cpu.get_capabilities().get("avx2"):
        return False
    try:
        torch.ops.load_library(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        told = str(getattr(error, "stderr", None) or error).strip()
        warnings.warn(f"compiled products are torch's: {told}", DuologueWarning, stacklevel=2)
        return False
    own = torch.ops.duologue_native
    for name, shaped in (("float_product", _float_shaped), ("int8_product", int8_shaped), ("attend", _attend_shaped)):
        torch.library.register_fake(f"duologue_native::{name}", shaped)
    register(Operators(own.float_product, own.attend))
    return True


def has_vnni() -> bool:
    """Whether the processor adds up products of bytes in one instruction."""
    return bool(torch.cpu.get_capabilities().get("avx512_vnni", False))


def _float_shaped(rows: Tensor, weights: Tensor) -> Tensor:
    return rows.new_empty(*rows.shape[:-1], weights.shape[0])


def _attend_shaped(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    return torch.empty_like(queries, memory_format=torch.contiguous_format)


def int8_shaped(rows: Tensor, levels: int, number: int, num_outputs: int) -> Tensor:
    """The shape and kind of what `int8_product` gives."""
    return rows.new_empty(rows.shape[0], num_outputs)


def _built() -> Path:
    """The library, built unless these sources were built before with this compiler and torch, for this processor."""
    root, sources = Path(torch.__file__).parent, sorted(_SOURCES.iterdir())
    compiler = [*shlex.split(os.environ.get("CXX", "g++")), "-O3", "-std=c++20", "-fPIC", "-fopenmp"]
    compiler += ["-mavx2", "-mfma", *(("-mavx512vl", "-mavx512vnni") if has_vnni() else ())]
    compiler += ["-DCPU_CAPABILITY=AVX2", "-DCPU_CAPABILITY_AVX2"]  # for torch's vectors
    compiler += [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
    libraries = [f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10"]
    made_of = "\0".join((*compiler, torch.__version__, *(source.read_text(encoding="utf-8") for source in sources)))
    target = _folder() / f"kernels-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder, ThreadPoolExecutor() as pool:
            objects = {source: Path(folder) / f"{source.stem}.o" for source in sources if source.suffix == ".cpp"}
            list(pool.map(lambda each: _run(*compiler, "-c", each[0], "-o", each[1]), objects.items()))
            made = Path(folder) / target.name
            _run(*compiler, "-shared", *objects.values(), *libraries, "-o", made)
            made.replace(target)  # at once, whoever else is building it
    return target


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _folder() -> Path:
    """Where torch keeps what is built for it."""
    kept = os.environ.get("TORCH_EXTENSIONS_DIR")
    if kept:
        return Path(kept) / "duologue"
    cached = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cached) / "torch_extensions" / "duologue"
