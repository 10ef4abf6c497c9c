"""What every benchmark prints around its figures: the machine, the versions, the command, and where the page goes."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import platform
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
    words = [shlex.quote(_without_place(word)) for word in sys.argv[1:]]
    program = f"python -m benchmarks.{Path(sys.argv[0]).stem}"
    return [
        f"# {title}",
        "",
        f"- {where}, {threads} threads, {platform.system()}, Python {platform.python_version()}",
        f"- {', '.join(versions)}",
        f"- {datetime.datetime.now(tz=datetime.UTC).date().isoformat()}, `{' '.join([program, *words])}`",
        "",
    ]


def _without_place(word: str) -> str:
    """A word of the command, `NAME=VALUE` or plain: where a file lies here is of no use elsewhere, a hub id is."""
    name, equals, value = word.rpartition("=")
    path = Path(value)
    return name + equals + (path.name if path.is_absolute() or path.suffix else value)


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
