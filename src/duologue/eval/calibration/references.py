"""The recordings that the instruments are calibrated on: which ones, and in whose voice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from duologue.errors import EvaluationError
from duologue.eval import acoustics
from duologue.eval.clips import Clip, OwnLine, Request, Sound, SpeechError
from duologue.eval.instruments import HeardWord, Instruments
from duologue.eval.measure import Voice
from duologue.eval.systems import RecordedSystem

LEAST_SECONDS: Final = 1.5
LEAST_WORDS: Final = 4


@dataclass(frozen=True, eq=False)
class Reference:
    """A recording with its text and voice; `folder` names where it is from, `id` the recording in there.

    `words` are those that the recogniser heard in it before anything was changed, with their places.
    """

    folder: str
    id: str
    text: str
    voice: str | None
    sound: Sound
    words: tuple[HeardWord, ...] = ()

    @property
    def request(self) -> Request:
        """What a system would have been asked for to say this."""
        return Request(self.id, self.folder, self.text, seed=0, voice=self.voice)

    @property
    def clip(self) -> Clip:
        """The recording as what a system said."""
        return Clip(self.sound)


@dataclass(frozen=True, eq=False)
class Sample:
    """What is measured: `changed` undergoes every change; `untouched` is held to the bounds of true recordings.

    `prompts` are the voices of all folders together, as the speaker encoder hears them. A voice of the same name in two
    folders is one voice, with the first folder's prompt. `about` describes the folders, by name.
    """

    changed: tuple[Reference, ...]
    untouched: tuple[Reference, ...]
    prompts: dict[str, Voice]
    about: dict[str, Any]

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the folders, in order."""
        return tuple(self.about)


def open_recordings(addresses: Sequence[str]) -> list[RecordedSystem]:
    """Folders of recordings, each `FOLDER` or `FOLDER#PATTERN`, by the folder's name; a second one of a name gets "-2".

    Raises `EvaluationError` for none, and for a folder without a manifest of recordings.
    """
    if not addresses:
        raise EvaluationError("no recordings to calibrate on; give --recordings FOLDER, one with a manifest*.jsonl")
    systems: list[RecordedSystem] = []
    for address in addresses:
        folder, _, pattern = address.partition("#")
        if not folder:
            raise EvaluationError(f"recordings {address!r}; expected FOLDER or FOLDER#PATTERN, as in spoken#man*.jsonl")
        stem = Path(folder).resolve().name or "recordings"
        names = [stem, *(f"{stem}-{number}" for number in range(2, len(systems) + 2))]
        name = next(name for name in names if name not in {system.name for system in systems})
        systems.append(RecordedSystem(name, Path(folder), **({"pattern": pattern} if pattern else {})))
    return systems


def gather(
    systems: Sequence[RecordedSystem], instruments: Instruments, *, limit: int, everything: bool = False
) -> Sample:
    """`limit` recordings of each folder for the changes, and the same, or `everything`, for the bounds.

    A recording that is changed lasts 1.5 s and has four words at least. A voice's prompt, its first recording of 3 s or
    more, is not among them. Raises `EvaluationError` for a folder that has none, or one that cannot be read.
    """
    prompts: dict[str, Voice] = {}
    changed: list[Reference] = []
    untouched: list[Reference] = []
    for system in systems:
        taken = _prompts(system)
        for voice, prompt in taken.items():
            heard = instruments.speaker_encoder(prompt.sound.pcm, prompt.sound.sample_rate)
            if heard is not None:
                prompts.setdefault(voice, heard)
        prompt_ids = {prompt.id for prompt in taken.values()}
        lines = [line for line in system.own_lines() if line.id not in prompt_ids]
        sampled = _sampled(system, [line for line in lines if len(line.text.split()) >= LEAST_WORDS], limit)
        if not sampled:
            raise EvaluationError(
                f"{system.name} has no recording of {LEAST_SECONDS:g} s and {LEAST_WORDS} words or more besides the "
                "prompt of each voice; give a folder with more recordings"
            )
        changed += sampled
        untouched += [_reference(system, line) for line in lines] if everything else sampled
    return Sample(tuple(changed), tuple(untouched), prompts, {system.name: system.describe() for system in systems})


def _reference(system: RecordedSystem, line: OwnLine) -> Reference:
    request = Request(line.id, system.name, line.text, seed=0, voice=line.voice, facts={"own_line": line.id})
    try:
        return Reference(system.name, line.id, line.text, line.voice, system.speak(request).sound)
    except SpeechError as error:
        raise EvaluationError(f"{system.name}, {line.id}: {error}") from error


def _prompts(system: RecordedSystem) -> dict[str, Reference]:
    """The prompt of each voice, as an evaluation of these recordings takes it."""
    chosen = {system.prompt_line(voice) for voice in system.voices()}
    return {
        reference.voice: reference
        for reference in (_reference(system, line) for line in system.own_lines() if line.id in chosen)
        if reference.voice is not None
    }


def _sampled(system: RecordedSystem, lines: Sequence[OwnLine], limit: int) -> list[Reference]:
    """Up to `limit` recordings, as many of each voice as of any other, spread over the manifest."""
    voices = list(dict.fromkeys(line.voice for line in lines))
    taken: list[Reference] = []
    for index, voice in enumerate(voices):
        share = limit // len(voices) + (index < limit % len(voices))
        own = [line for line in lines if line.voice == voice]
        for block in _blocks(own, share):
            fit = (reference for line in block if _lasts(reference := _reference(system, line), LEAST_SECONDS))
            taken += [reference for reference in (next(fit, None),) if reference is not None]
    return taken


def _blocks(lines: Sequence[OwnLine], count: int) -> Iterator[Sequence[OwnLine]]:
    """`count` runs of neighbours, about equally long, each read from its middle on."""
    count = min(count, len(lines))
    for index in range(count):
        block = lines[index * len(lines) // count : (index + 1) * len(lines) // count]
        middle = len(block) // 2
        yield [*block[middle:], *reversed(block[:middle])]


def _lasts(reference: Reference, seconds: float) -> bool:
    sound = reference.sound
    return sound.duration_s >= seconds and acoustics.active_span(sound.pcm, sound.sample_rate).duration_s > 0
