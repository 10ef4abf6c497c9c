"""A codec under test, with no model to speak: Mimi in any format, ours or published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from duologue.codec.mimi import Mimi
from duologue.errors import OptionError
from duologue.eval.clips import Clip, OwnLine, Request, Sound, SpeechError
from duologue.eval.systems.model import recode


class CodecSystem:
    """Encodes and decodes recordings with the first `num_codebooks` codebooks, by default all."""

    speaks = False
    takes_context = False
    is_timed = True

    def __init__(self, name: str, load: Callable[[], Mimi], *, source: str, num_codebooks: int | None = None) -> None:
        """`source` is what the report says that `load` loads."""
        self.name = name
        self._load, self._source, self._num_codebooks = load, source, num_codebooks
        self._codec: Mimi | None = None

    @property
    def codec(self) -> Mimi:
        """The loaded codec. Raises what loading raises, and `OptionError` where it has fewer codebooks."""
        if self._codec is None:
            codec = self._load()
            if self._num_codebooks is not None and not 1 <= self._num_codebooks <= codec.num_codebooks:
                raise OptionError(f"{self._num_codebooks} codebooks; {self._source} has 1 to {codec.num_codebooks}")
            self._codec = codec
        return self._codec

    def open(self) -> None:
        _ = self.codec

    def close(self) -> None:
        self._codec = None

    def describe(self) -> dict[str, Any]:
        return {"kind": "codec", "model": self._source, "codebooks": self._num_codebooks}

    def voices(self) -> list[str]:
        return []

    def prompt(self, voice: str) -> Sound | None:
        return None

    def own_lines(self) -> list[OwnLine] | None:
        return None

    def speak(self, request: Request) -> Clip:
        raise SpeechError("a codec does not speak")

    def recode(self, sound: Sound) -> Clip:
        return recode(self.codec, sound, self._num_codebooks or self.codec.num_codebooks)
