"""What is asked of a speech system, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from duologue.config import JsonConfig
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


@dataclass(frozen=True)
class Change:
    """How a turn of the history is altered before it is heard: 1, 0 and 0 leave it as it is.

    `pace` is a factor of the speaking rate at the same pitch, `semitones` move the pitch at the same pace, `gain_db`
    the level.
    """

    pace: float = 1.0
    semitones: float = 0.0
    gain_db: float = 0.0


@dataclass(frozen=True, eq=False)
class ContextTurn:
    """A turn that came before: who, what, and the recording if there is one.

    The recording is `sound`, or what the system itself has said as `clip`, the id of an earlier request of the same
    suite; the run puts it in, with `change`.
    """

    speaker: int
    text: str
    sound: Sound | None = None
    clip: str | None = None
    change: Change = Change()


@dataclass(frozen=True, eq=False)
class Request:
    """One utterance to be spoken.

    `id` is unique within its suite and fit for a file name, `group` the part of the suite that it counts in. `voice`
    is a name that the system knows (None: its default), `seed` belongs to the request, so that a suite gives the same
    figures whatever else is run. `facts` is what the suite wants to find again when it counts; plain JSON values in it
    reach the row. `reference` is the id of an earlier request of the suite that this one is compared with.

    A request with `original` is none for speech: that recording goes through the system's codec, or is taken as it is
    where not `recode`.
    """

    id: str
    group: str
    text: str
    seed: int
    speaker: int = 0
    voice: str | None = None
    context: tuple[ContextTurn, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    reference: str | None = None
    original: Sound | None = None
    recode: bool = True


@dataclass(frozen=True)
class Chunk(JsonConfig):
    """A piece of audio as it arrived: seconds since the request, and seconds of audio in it."""

    arrived_s: float
    audio_s: float


@dataclass(frozen=True, eq=False)
class Clip:
    """What a system said, and how it came.

    `stop_reason` is "end" or, where it had to be stopped, "cap", if the system tells, else None. `total_s` is the time
    from request to end, `chunks` the pieces where audio came in pieces, `memory_mb` the resident memory of the speaking
    process at its peak. `codes` `[K][T]` are those of a codec, of `codebook_size` each.
    """

    sound: Sound
    total_s: float | None = None
    chunks: tuple[Chunk, ...] = ()
    stop_reason: str | None = None
    memory_mb: float | None = None
    codes: tuple[tuple[int, ...], ...] = ()
    codebook_size: int | None = None


@dataclass(frozen=True)
class OwnLine:
    """A line that a system brings with it, such as the text of a recording.

    `is_prompt` marks what its voice is compared with: the likeness to itself would say nothing.
    """

    id: str
    text: str
    voice: str | None
    is_prompt: bool = False


class System(Protocol):
    """A speech system under test. What it holds is loaded by `open`, or when it is first needed, and let go by `close`.

    `speaks` is false for one that has a codec alone, `takes_context` true where `Request.context` is heard, `is_timed`
    where the times of its clips are those of making them.
    """

    name: str
    speaks: bool
    takes_context: bool
    is_timed: bool

    def describe(self) -> dict[str, Any]:
        """What a report says of it: kind, model, options; plain JSON values."""
        ...

    def voices(self) -> list[str]:
        """The voices that it can be asked for, its default first; empty where it has only its own."""
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

    def open(self) -> None:
        """Loads what it needs; raises what is wrong with it, such as `CheckpointError`."""
        ...

    def close(self) -> None:
        """Lets go of what takes memory; it is loaded again when it is needed."""
        ...


@runtime_checkable
class Recoder(Protocol):
    """A system with a codec."""

    def recode(self, sound: Sound) -> Clip:
        """The recording after encoding and decoding, with its codes; raises `SpeechError`."""
        ...
