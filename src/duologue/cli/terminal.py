"""What a person or a program reads: one-line messages on stderr, JSON on request, progress on a terminal.

stdout carries only what was asked for (audio, a list, a JSON object), so that it can be piped; all else is on stderr.
"""

import contextlib
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, Final, TextIO

from duologue.errors import OptionError

Show = Callable[[str], None]

_MAX_STDIN_BYTES: Final = 1 << 30  # as much as `duologue.audio` takes of a stream

# Arguments of the library that its warnings name, as this command line calls them.
_OPTION_NAMES: Final = {"max_audio_length_ms": "--max-seconds"}

EXIT_FAILURE: Final = 1
EXIT_BAD_INPUT: Final = 2
EXIT_INTERRUPTED: Final = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE: Final = 141  # 128 + SIGPIPE, which Python itself ignores


class PipeClosedError(Exception):
    """Whoever read our stdout has gone. Not an `OSError`, which a writer of audio would report as a full disk."""


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, which file names and foreign messages may hold."""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return "".join(_shown(character) for character in " ".join(lines))


def _shown(character: str) -> str:
    if character.isspace():
        return " "
    return character if character.isprintable() else "?"


def clip(text: str, width: int) -> str:
    """`text` on one line without runs of spaces, cut to `width` characters."""
    line = one_line(" ".join(text.split()))
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def _write_line(text: str) -> None:
    if sys.stderr is not None:  # closed by the caller: 2>&-
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text + "\n")
            sys.stderr.flush()


def say(text: str) -> None:
    """One line on stderr."""
    _write_line(one_line(text))


def fail(text: str) -> None:
    """The one line on stderr that ends a failed command."""
    say(f"error: {text}")


def note(text: str) -> None:
    """One line on stderr about something that the user may not expect; the command goes on."""
    say(f"note: {text}")


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Show the warnings of this library as notes, each once, and none of other libraries (unless `python -W` asks)."""
    seen: set[str] = set()

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if category.__module__.partition(".")[0] != __package__.partition(".")[0]:
            if sys.warnoptions:
                say(f"{category.__name__}: {message} ({filename}:{lineno})")
        elif str(message) not in seen:
            seen.add(str(message))
            text = str(message)
            for name, option in _OPTION_NAMES.items():
                text = text.replace(name, option)
            note(text)

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("always")
        warnings.showwarning = show
        yield


def emit_json(payload: dict[str, Any], file: TextIO | None) -> None:
    """One JSON object on one line of `file`, in ASCII, whatever its encoding. NaN and infinity become null."""
    if file is not None:
        file.write(json.dumps(_plain(payload), allow_nan=False) + "\n")
        file.flush()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


@contextlib.contextmanager
def progress(enabled: bool = True) -> Iterator[Show]:
    """Gives a function that shows a line of text in place on stderr, and removes it at the end.

    It does nothing where stderr is not a terminal.
    """
    if not enabled or sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda text: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    # No refresh thread: the line changes only when there is something new, and the processor is for the model.
    with Live(console=Console(stderr=True), auto_refresh=False, transient=True, redirect_stdout=False) as live:
        yield lambda text: live.update(Text(one_line(text), overflow="ellipsis", no_wrap=True), refresh=True)


def read_standard_input() -> bytes:
    """All of stdin, which may be text or a recording. Raises `OptionError` where it is closed."""
    if sys.stdin is None:
        raise OptionError("standard input is closed; pipe something into it")
    if sys.stdin.isatty():
        note("reading from the terminal; end with Ctrl-D")
    return sys.stdin.buffer.read(_MAX_STDIN_BYTES + 1)


class StandardOutput:
    """stdout as the binary file that audio is written to: raises `PipeClosedError` when its reader has gone."""

    name = "standard output"

    def __init__(self) -> None:
        """Raises `OptionError` where stdout is closed or a terminal, which would show a recording as garbage."""
        if sys.stdout is None:
            raise OptionError("standard output is closed; send it to a program or give a file name instead of -")
        if sys.stdout.isatty():
            raise OptionError("standard output is a terminal; send it on with | or >, or give a file name instead of -")
        self._file: BinaryIO = sys.stdout.buffer

    def write(self, data: bytes) -> int:
        """All of `data`, at once: a player is waiting."""
        with _closed_pipe_named():
            written = self._file.write(data)
            self._file.flush()
            return written

    def flush(self) -> None:
        """Hand over what is buffered."""
        with _closed_pipe_named():
            self._file.flush()

    def seekable(self) -> bool:
        """Whether the header of a wav file can be corrected at the end: not in a pipe, nor with `>>`."""
        if not self._file.seekable():
            return False
        try:
            import fcntl

            return not fcntl.fcntl(self._file.fileno(), fcntl.F_GETFL) & os.O_APPEND
        except (ImportError, OSError, ValueError):
            return True

    def tell(self) -> int:
        """Position in bytes."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a position in bytes."""
        return self._file.seek(offset, whence)


@contextlib.contextmanager
def _closed_pipe_named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise PipeClosedError from None


def silence_standard_output() -> None:
    """After its reader has gone: let the interpreter flush what is left into nothing instead of complaining."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
