"""`duologue convert`: a checkpoint from one published format into another."""

import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from duologue.cli import doctor, groups, options, terminal
from duologue.errors import CheckpointError

# What may lie in a folder that --force replaces: anything else was not put there by a conversion.
_CHECKPOINT_SUFFIXES: Final = (".safetensors", ".json", ".jinja", ".md", ".txt")
_CHECKPOINT_FOLDERS: Final = ("voices", "prompts")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("convert")(groups.grouped(convert))


def convert(
    source: Annotated[str, typer.Argument(help="A checkpoint folder or file, or a hub id.", metavar="SRC")],
    destination: Annotated[str, typer.Argument(help="The folder to make.", metavar="DST")],
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help="native, sesame, transformers, moshi-mimi or transformers-mimi."),
    ],
    force: Annotated[bool, typer.Option("--force", help="Replace a checkpoint that is at DST already.")] = False,
    revision: options.Revision = None,
    offline: options.Offline = False,
    *,
    messages: options.Messages,
) -> None:
    """Write a checkpoint in another format, so that another program can load it.

    The format of SRC is recognised. Every tensor must find its place, or
    nothing is written. The last two formats hold the codec alone.

    Examples:

      duologue convert sesame/csm-1b csm-native --to native
      duologue convert my-model my-model-hf --to transformers
      duologue convert my-model my-codec --to moshi-mimi
    """
    check_destination(source, Path(destination), force)
    with terminal.progress(not messages.quiet) as show:
        show("converting …")
        from duologue import checkpoints

        options.quiet_hub(show_downloads=options.is_watched(messages.quiet))
        started = time.perf_counter()
        checkpoints.convert(source, destination, to, overwrite=force, revision=revision, offline=offline)
    seconds = time.perf_counter() - started
    size = doctor.disk_size(Path(destination))
    if messages.as_json:
        terminal.emit_json({"output": destination, "format": to, "bytes": size, "total_seconds": seconds}, sys.stdout)
    elif not messages.quiet:
        terminal.say(f"{destination}: {to}, {doctor.format_size(size)} in {seconds:.1f} s")


def check_destination(source: str, destination: Path, force: bool) -> None:
    """Raise `CheckpointError` before anything is loaded, rather than overwrite what is not a checkpoint."""
    place, origin = destination.resolve(), Path(source).resolve()
    if Path(source).exists() and (place == origin or place in origin.parents):
        raise CheckpointError(f"{destination} holds the checkpoint that is to be converted; name another DST")
    is_folder = place.is_dir()
    if not place.exists() or (is_folder and not any(place.iterdir())):
        return
    if not force:
        raise CheckpointError(f"{destination} is there already; name another DST, or add --force to replace it")
    strangers = [path.name for path in (sorted(place.iterdir()) if is_folder else [place]) if not _may_replace(path)]
    if strangers:
        raise CheckpointError(
            f"{destination} holds {strangers[0]}, which is no part of a checkpoint: not replaced; name another DST"
        )


def _may_replace(path: Path) -> bool:
    if path.is_dir():
        return path.name in _CHECKPOINT_FOLDERS
    return path.suffix.lower() in _CHECKPOINT_SUFFIXES or path.name in ("LICENSE", ".gitattributes")
