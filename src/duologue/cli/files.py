"""What is named on the command line: texts and recordings to read, and where audio goes; - is a standard stream."""

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from duologue.cli import terminal
from duologue.errors import DuologueError, TextError

if TYPE_CHECKING:
    from duologue.audio.writing import AudioTarget

# What a person may type or pipe as text; more is a mistake, such as a recording instead of its transcript.
MAX_TEXT_BYTES: Final = 4 << 20

_ANY_RATE: Final = 48_000  # the check of a path needs one; every format allows it


def name_of_input(argument: str) -> str:
    """How an input file is called in a message."""
    return "standard input" if argument == "-" else argument


def check_utf8(argument: str, name: str) -> str:
    """Text of the command line. Raises `TextError` where it holds bytes that were not UTF-8."""
    try:
        argument.encode("utf-8")
    except UnicodeEncodeError:
        raise TextError(f"{name} holds bytes that are not UTF-8; use a UTF-8 terminal, or give a file") from None
    return argument


def read_text_argument(argument: str) -> str:
    """The text given on the command line, or all of stdin for `-`. Raises `TextError` where it is not UTF-8."""
    if argument == "-":
        return decode_text(terminal.read_standard_input(), "standard input")
    return check_utf8(argument, "the text")


def decode_text(data: bytes, name: str) -> str:
    """`data` as UTF-8 text, with or without a byte order mark. Raises `TextError`, naming the offset of a bad byte."""
    if len(data) > MAX_TEXT_BYTES:
        raise TextError(f"{name} is larger than {MAX_TEXT_BYTES >> 20} MiB; expected text to speak")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{name} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}; convert it to UTF-8"
        ) from None


def read_text_file(path: str) -> str:
    """The text of a file, or of stdin for `-`. Raises `TextError`."""
    if path == "-":
        return decode_text(terminal.read_standard_input(), "standard input")
    return decode_text(read_bytes(path, MAX_TEXT_BYTES + 1, TextError, "a text file"), path)


def read_bytes(path: str, most: int, error_type: type[DuologueError], expected: str) -> bytes:
    """The first `most` bytes of a file. Raises `error_type`, which says that `expected` should be given."""
    try:
        with open(path, "rb") as handle:
            return handle.read(most)
    except FileNotFoundError:
        raise error_type(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise error_type(f"{path} is a folder; give {expected}") from None
    except (OSError, ValueError) as error:
        raise error_type(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def audio_source(argument: str) -> str | bytes:
    """What `read_audio` takes: a path, or all of stdin for `-`."""
    return terminal.read_standard_input() if argument == "-" else argument


def audio_target(output: str) -> "AudioTarget":
    """What `StreamWriter` takes. Raises before anything slow is done where a recording cannot be written there."""
    if output == "-":
        return cast(BinaryIO, terminal.StandardOutput())
    from duologue.audio import StreamWriter

    path = Path(output)
    if path.is_file() or path.is_dir() or not path.exists():  # to open a pipe would be noticed at its other end
        StreamWriter(output, _ANY_RATE).abort()
    return output
