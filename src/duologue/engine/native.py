"""An operator in C++ for the products of compiled graphs, built once by the compiler that those need anyway.

Between two products of a large model the caches have been emptied by its weights, and Python, which lies all over
memory, takes as long as the arithmetic that it calls for: at csm-1b's size a fifth of a frame (dev/LOG.md).
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
from functools import cache
from pathlib import Path

import torch

from duologue.errors import DuologueWarning

_SOURCE = Path(__file__).with_name("int8_product.cpp")


@cache
def load_operators() -> bool:
    """Whether `torch.ops.duologue_native` is there: built where nobody has, which takes some seconds, and loaded.

    Without one graphs call the same products through Python; a warning says why where a build fails.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    try:
        torch.ops.load_library(str(_built()))
    except (OSError, subprocess.SubprocessError) as error:
        told = str(getattr(error, "stderr", None) or error).strip()
        warnings.warn(f"compiled products in eight bits go through Python: {told}", DuologueWarning, stacklevel=2)
        return False
    return True


def _built() -> Path:
    """The library, built unless this source was built before with this compiler and torch."""
    root = Path(torch.__file__).parent
    command = [*shlex.split(os.environ.get("CXX", "g++")), "-O2", "-std=c++20", "-shared", "-fPIC"]
    command += [f"-I{root / 'include'}", f"-I{root / 'include/torch/csrc/api/include'}"]
    command += [str(_SOURCE), f"-L{root / 'lib'}", "-ltorch_cpu", "-lc10"]
    made_of = "\0".join((*command, torch.__version__, _SOURCE.read_text(encoding="utf-8")))
    target = _folder() / f"{_SOURCE.stem}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            subprocess.run([*command, "-o", str(made)], check=True, capture_output=True, text=True)
            made.replace(target)  # at once, whoever else is building it
    return target


def _folder() -> Path:
    """Where torch keeps what is built for it."""
    kept = os.environ.get("TORCH_EXTENSIONS_DIR")
    if kept:
        return Path(kept) / "duologue"
    cached = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cached) / "torch_extensions" / "duologue"
