"""The lines of the lists, each rendered in every variant of its word by several voices; kept in a folder, as FLAC."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from duologue.audio import write_audio
from duologue.eval.lines import Line, load_lines
from recipes.pronunciation.spelling import spell
from recipes.pronunciation.voices import SAMPLE_RATE, make_voice

LISTS: Final = ("homographs", "pronunciation")
PACES: Final = (0.85, 1.0, 1.15)
_STRIDE: Final = 2  # a voice of Piper speaks every second line
_KOKORO_STRIDE: Final = 4  # Kokoro takes seven times as long


@dataclass(frozen=True)
class Reference:
    """One line to be spoken by one voice, with `word` said as `phones`; `turn` is the line's number in its list."""

    voice: str
    line: str
    text: str
    word: str
    phones: str
    pair: tuple[str, ...]
    turn: int

    def path(self, work: Path) -> Path:
        """Where its recording is kept."""
        name = f"{self.line.replace('/', '-')}_{self.phones.replace(' ', '')}.flac"
        return work / self.voice / name


def pair_of(line: Line) -> tuple[str, ...]:
    """The variants of a line's word, in an order that does not depend on which of them the line means."""
    return line.variants or tuple(sorted((line.phones, line.other_phones)))


def references(voice: str, number: int, lines: Collection[str] | None = None) -> list[Reference]:
    """What a voice, the `number`-th of the calibration, is to say, in every variant; of these `lines` alone if given.

    Voices that follow each other begin with different lines.
    """
    stride = _KOKORO_STRIDE if voice.startswith("ko-") else _STRIDE
    return [
        Reference(voice, line.id, line.text, line.word, phones, pair_of(line), turn)
        for name in LISTS
        for turn, line in enumerate(load_lines(name))
        if (turn + number) % stride == 0 and (lines is None or line.id in lines)
        for phones in pair_of(line)
    ]


def render_references(voice: str, wanted: Sequence[Reference], work: Path) -> Iterator[Reference]:
    """Renders what is not in `work` yet; yields each reference once its recording is there.

    The paces alternate from line to line. Raises what `make_voice` raises.
    """
    missing = [reference for reference in wanted if not reference.path(work).exists()]
    speak = make_voice(voice) if missing else None
    (work / voice).mkdir(parents=True, exist_ok=True)
    for reference in wanted:
        path = reference.path(work)
        if speak is not None and not path.exists():
            ipa = spell(reference.word, reference.phones, reference.turn)
            pcm = speak(reference.text, reference.word, ipa, PACES[reference.turn % len(PACES)])
            whole = path.with_suffix(".part.flac")
            write_audio(whole, torch.clamp(pcm, -1, 1), SAMPLE_RATE)
            whole.replace(path)  # an interrupted run leaves no half a recording
        yield reference
