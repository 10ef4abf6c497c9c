"""What is asked of a speech system, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from duologue.errors import DuologueError


class SpeechError(DuologueError):
    """One utterance that a system did not deliver; the reason in one line. It is counted, and the run goes on."""


@dataclass(frozen=True, eq=False)
class Sound:
    """A recording: float32 `pcm [num_samples]` in [-1, 1] at `sample_rate` Hz."""

    pcm: Tensor
    sample_rate: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.pcm) / self.sample_rate


@dataclass(frozen=True, eq=False)
class ContextTurn:
    """A turn that came before: who, what, and the recording if there is one."""

    speaker: int
    text: str
    sound: Sound | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """One utterance to be spoken.

    `id` is unique within its suite and fit for a file name, `group` the part of the suite that it counts in. `voice`
    is a name that the system knows (None: its default), `seed` belongs to the request, so that a suite gives the same
    figures whatever else is run. `facts` is what the suite wants to find again when it counts.
    """

    id: str
    group: str
    text: str
    seed: int
    speaker: int = 0
    voice: str | None = None
    context: tuple[ContextTurn, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """A piece of audio as it arrived: seconds since the request, and seconds of audio in it."""

    arrived_s: float
    audio_s: float


@dataclass(frozen=True, eq=False)
class Clip:
    """What a system said, and how it came.

    `stop_reason` is "end" or "cap" where the system tells, else None. `total_s` is the time from request to end,
    `chunks` the pieces where audio came in pieces.
    """

    sound: Sound
    total_s: float | None = None
    chunks: tuple[Chunk, ...] = ()
    stop_reason: str | None = None


@dataclass(frozen=True)
class OwnLine:
    """A line that a system brings with it, such as the text of a recording."""

    id: str
    text: str
    voice: str | None


class System(Protocol):
    """A speech system under test."""

    name: str
    is_timed: bool

    def describe(self) -> dict[str, Any]:
        """What a report says of it: kind, model, options; plain JSON values."""
        ...

    def voices(self) -> list[str]:
        """The voices that it can be asked for; empty where it has only its own."""
        ...

    def prompt(self, voice: str) -> Sound | None:
        """The recording that defines a voice, or None where there is none to compare with."""
        ...

    def own_lines(self) -> list[OwnLine] | None:
        """The only lines that it can speak, or None where it speaks any."""
        ...

    def speak(self, request: Request) -> Clip:
        """Speaks; raises `SpeechError` where nothing usable comes of it."""
        ...
