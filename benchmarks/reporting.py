"""What every benchmark prints around its figures: the machine, the versions, the command, and where the page goes."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import duologue
from duologue.engine.machine import processor_name


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that all have."""
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    parser.add_argument("--out", type=Path, help="a .md file for the page (default: it is printed)")


def header(title: str, threads: int, packages: Sequence[str] = ()) -> list[str]:
    """The beginning of a page; `packages` are named with their versions beside torch and duologue."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name()
    versions = [f"torch {torch.__version__}", f"duologue {duologue.__version__}"]
    for name in packages:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} not installed")
    # Where a file or an absolute folder lies here is of no use elsewhere; a hub id stays whole.
    words = [shlex.quote(re.sub(r"[^=]*/(?=[^/]+\.\w+$)|(?<![^=])/.*/", "", word)) for word in sys.argv[1:]]
    program = f"python -m benchmarks.{Path(sys.argv[0]).stem}"
    return [
        f"# {title}",
        "",
        f"- {where}, {threads} threads, {platform.system()}, Python {platform.python_version()}",
        f"- {', '.join(versions)}",
        f"- {datetime.datetime.now(tz=datetime.UTC).date().isoformat()}, `{' '.join([program, *words])}`",
        "",
    ]


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table; floats with three digits that count."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return [*lines, *(f"| {' | '.join(_cell(value) for value in row)} |" for row in rows), ""]


def finish(lines: Sequence[str], out: Path | None) -> None:
    """Prints the page, and writes it where it is asked for."""
    page = "\n".join(lines).rstrip() + "\n"
    print(page)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
