"""How a system under test is written on one line: `NAME=KIND:WHAT`.

`parlor2=model:runs/parlor`, `espeak=command:espeak-ng -w {wav} -- {text}`, `mine=server:http://127.0.0.1:8000?voice=nova`,
`real=recordings:../corpus/heldout`, `mimi=codec:kyutai/mimi#8`.
"""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from duologue.errors import EvaluationError
from duologue.eval.clips import System
from duologue.eval.systems.command import CommandSystem
from duologue.eval.systems.recordings import RecordedSystem
from duologue.eval.systems.server import ServerOptions, ServerSystem

KINDS: Final = ("model", "server", "command", "recordings", "codec")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_SERVER_FIELDS: Final = {"voice", "model"}


class Open(Protocol):
    """Makes a system of what is under test here: a name, a checkpoint, and for a codec how many codebooks."""

    def model(self, name: str, source: str) -> System: ...

    def codec(self, name: str, source: str, num_codebooks: int | None) -> System: ...


@dataclass(frozen=True)
class SystemAddress:
    """A system by name, kind and whatever the kind wants to know."""

    name: str
    kind: str
    what: str


def parse_system(text: str) -> SystemAddress:
    """Reads `NAME=KIND:WHAT`; raises `EvaluationError` for anything else."""
    name, equals, rest = text.partition("=")
    kind, colon, what = rest.partition(":")
    if not (equals and colon and what.strip() and _NAME.fullmatch(name) and kind in KINDS):
        raise EvaluationError(
            f"system {text!r}; expected NAME=KIND:WHAT with a name of letters, digits, . _ - and one of the kinds "
            f"{', '.join(KINDS)}, such as 'espeak=command:espeak-ng -w {{wav}} -- {{text}}'"
        )
    return SystemAddress(name, kind, what)


def open_system(address: SystemAddress, open_: Open, *, token: str | None) -> System:
    """The system; `token` is what servers are sent.

    Raises `EvaluationError` and `OptionError`.
    """
    if address.kind == "model":
        return open_.model(address.name, address.what)
    if address.kind == "codec":
        source, _, count = address.what.partition("#")
        if count and not count.isdecimal():
            raise EvaluationError(f"codec {address.what!r}; expected a checkpoint, and perhaps #8 for 8 codebooks")
        return open_.codec(address.name, source, int(count) if count else None)
    if address.kind == "command":
        return CommandSystem(address.name, address.what)
    if address.kind == "recordings":
        folder, _, pattern = address.what.partition("#")
        return RecordedSystem(address.name, Path(folder), **({"pattern": pattern} if pattern else {}))
    return _open_server(address, token)


def _open_server(address: SystemAddress, token: str | None) -> ServerSystem:
    parts = urllib.parse.urlsplit(address.what)
    asked = urllib.parse.parse_qs(parts.query)
    unknown = sorted(asked.keys() - _SERVER_FIELDS)
    if unknown:
        known = ", ".join(sorted(_SERVER_FIELDS))
        raise EvaluationError(f"server {address.what!r} has {unknown[0]!r} behind its ?; known are {known}")
    usual = ServerOptions()
    options = ServerOptions(
        model=asked.get("model", [usual.model])[0], voices=tuple(asked.get("voice", usual.voices)), token=token
    )
    return ServerSystem(address.name, urllib.parse.urlunsplit(parts._replace(query="")), options)
