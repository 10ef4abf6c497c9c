"""The ways in which the references are changed, by name; each change takes all of them and a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from torch import Tensor

from duologue.eval import acoustics, changes
from duologue.eval.calibration.references import Reference
from duologue.eval.clips import Sound
from duologue.eval.suites.suite import request_seed

Make = Callable[[Sequence[Reference], int], list[Reference]]
Alter = Callable[[Reference, int], Tensor]

UNTOUCHED: Final = "untouched"
PACE_SLOW, PACE_FAST = 0.75, 1.5
SEMITONES: Final = 4.0
GAIN_DB: Final = -12.0
SILENCE_S: Final = 2.0
CUT_S: Final = 0.3
LOOP_TIMES: Final = 4


@dataclass(frozen=True)
class Condition:
    """A change; references that it cannot be made to are left out of what `make` returns."""

    name: str
    title: str
    make: Make


def each(alter: Alter) -> Make:
    """Every reference by itself: `alter` gives its new PCM, drawing with a seed of the reference's own."""

    def make(references: Sequence[Reference], seed: int) -> list[Reference]:
        return [
            replace(
                reference,
                sound=Sound(alter(reference, request_seed(seed, reference.id)), reference.sound.sample_rate),
            )
            for reference in references
        ]

    return make


def _sound(change: Callable[..., Tensor], **options: float) -> Make:
    """A change of the sound alone."""
    return each(lambda reference, seed: change(reference.sound.pcm, reference.sound.sample_rate, **options))


def _noise(snr_db: float, spectrum: changes.Spectrum) -> Make:
    return each(
        lambda reference, seed: changes.add_noise(
            reference.sound.pcm, reference.sound.sample_rate, snr_db=snr_db, spectrum=spectrum, seed=seed
        )
    )


def _shuffled(references: Sequence[Reference], seed: int) -> list[Reference]:
    """Each recording with the text of another one of its folder, as far as there is one with another text."""
    made = []
    for folder in dict.fromkeys(reference.folder for reference in references):
        own = [reference for reference in references if reference.folder == folder]
        order = list(own)
        random.Random(seed).shuffle(order)
        for index, reference in enumerate(order):
            others = (other for other in order[index + 1 :] + order[:index] if other.text != reference.text)
            other = next(others, None)
            made += [replace(reference, text=other.text)] if other is not None else []
    return made


def _swapped(references: Sequence[Reference], seed: int) -> list[Reference]:
    """Each recording held against the prompt of another voice, every other one in turn."""
    voices = sorted({reference.voice for reference in references if reference.voice is not None})
    made = []
    for index, reference in enumerate(references):
        others = [voice for voice in voices if voice != reference.voice]
        if reference.voice is not None and others:
            made.append(replace(reference, voice=others[(index + seed) % len(others)]))
    return made


def _looped(references: Sequence[Reference], seed: int) -> list[Reference]:
    """Two words in the middle, as the recogniser placed them, said four times in a row."""
    made = []
    for reference in references:
        first = len(reference.words) // 2 - 1
        if first >= 0:
            start_s, end_s = reference.words[first].start_s, reference.words[first + 1].end_s
            made.append(_repeated(reference, start_s, end_s))
    return made


def _stuck(references: Sequence[Reference], seed: int) -> list[Reference]:
    """The last word, as the recogniser placed it, said four times in a row."""
    made = []
    for reference in references:
        if reference.words:
            span = acoustics.active_span(reference.sound.pcm, reference.sound.sample_rate)
            made.append(_repeated(reference, reference.words[-1].start_s, span.end_s))
    return made


def _repeated(reference: Reference, start_s: float, end_s: float) -> Reference:
    rate = reference.sound.sample_rate
    pcm = changes.repeat(reference.sound.pcm, rate, start_s=start_s, end_s=end_s, times=LOOP_TIMES)
    return replace(reference, sound=Sound(pcm, rate))


_ALL = (
    Condition(UNTOUCHED, "nothing", lambda references, seed: list(references)),
    Condition("shuffled-texts", "each recording has another one's text", _shuffled),
    Condition("swapped-voices", "each recording is held against another voice's prompt", _swapped),
    Condition("white-noise", "white noise at 20 dB SNR", _noise(20.0, "white")),
    Condition("speech-noise", "noise of the speech's own spectrum at 0 dB SNR", _noise(0.0, "speech")),
    Condition("telephone", "telephone: 8 kHz, 8 bits mu-law", _sound(changes.telephone)),
    Condition("low-pass", "low-pass at 1 kHz", _sound(changes.low_pass, limit_hz=1000.0)),
    Condition("softer", f"{-GAIN_DB:g} dB softer", _sound(changes.gain, by_db=GAIN_DB)),
    Condition("cut", f"cut {CUT_S * 1000:g} ms before the last sound", _sound(changes.cut_end, seconds=CUT_S)),
    Condition("silence", f"{SILENCE_S:g} s of silence after it", _sound(changes.append_silence, seconds=SILENCE_S)),
    Condition("loop", f"two words in the middle said {LOOP_TIMES} times", _looped),
    Condition("stuck", f"the last word said {LOOP_TIMES} times", _stuck),
    Condition("slower", f"{PACE_SLOW:g} times as fast, same pitch", _sound(changes.change_speed, factor=PACE_SLOW)),
    Condition("faster", f"{PACE_FAST:g} times as fast, same pitch", _sound(changes.change_speed, factor=PACE_FAST)),
    Condition("higher", f"{SEMITONES:g} semitones up, same pace", _sound(changes.shift_pitch, semitones=SEMITONES)),
    Condition("lower", f"{SEMITONES:g} semitones down, same pace", _sound(changes.shift_pitch, semitones=-SEMITONES)),
)

CONDITIONS: dict[str, Condition] = {condition.name: condition for condition in _ALL}
