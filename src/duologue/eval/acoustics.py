"""What can be told from the sound alone: silence at the ends, abrupt ends, pace, pitch, level.

Levels are RMS in dB of full scale over windows of 10 ms. Pitch is Praat's autocorrelation (Boersma, "Accurate
short-term analysis of the fundamental frequency", 1993) through `praat-parselmouth`. Pace is in syllables per second
between the first and last sound, pauses within included: the text is known, so that its vowels can be counted.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from duologue.errors import EvaluationError
from duologue.text.normalize import normalize
from duologue.text.phonemes import EspeakPhonemizer

_WINDOW_S: Final = 0.01
_ACTIVE_DB: Final = -35.0  # below the loudest window: silence
_FLOOR_DB: Final = -60.0  # of full scale: silence whatever the rest is like
_ABRUPT_DB: Final = -15.0  # the last window of a natural end is quieter than this, relative to the loudest
_PITCH_HZ: Final = (60.0, 500.0)
_LEAST_PITCH_S: Final = 0.1
_VOWEL: Final = re.compile("[AIOWYiuæɑɔəɛɜɪʊʌᵻ]")


@dataclass(frozen=True)
class Span:
    """The part of a recording between its first and last sound, in seconds; `end_s` is 0 where there is none."""

    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """Length of the part."""
        return self.end_s - self.start_s


def levels_db(pcm: Tensor, sample_rate: int) -> Tensor:
    """RMS of every window, `[num_windows]`, in dB of full scale; -inf for digital silence."""
    window = max(1, round(_WINDOW_S * sample_rate))
    padded = torch.nn.functional.pad(pcm.float(), (0, -len(pcm) % window))
    return 10 * padded.view(-1, window).square().mean(dim=1).log10()


def active_span(pcm: Tensor, sample_rate: int) -> Span:
    """Where the recording sounds: from the first window that is not silent to the last."""
    levels = levels_db(pcm, sample_rate)
    if not len(levels):
        return Span(0.0, 0.0)
    threshold = max(_FLOOR_DB, float(levels.max()) + _ACTIVE_DB)
    (loud,) = torch.nonzero(levels > threshold, as_tuple=True)
    if not len(loud):
        return Span(0.0, 0.0)
    return Span(int(loud[0]) * _WINDOW_S, min((int(loud[-1]) + 1) * _WINDOW_S, len(pcm) / sample_rate))


def trailing_silence_s(pcm: Tensor, sample_rate: int) -> float:
    """Seconds after the last sound; the whole length where there is none."""
    return len(pcm) / sample_rate - active_span(pcm, sample_rate).end_s


def ends_abruptly(pcm: Tensor, sample_rate: int) -> bool:
    """Whether the recording stops while it is still loud, as one that was cut does."""
    levels = levels_db(pcm, sample_rate)
    if not len(levels) or float(levels.max()) < _FLOOR_DB:
        return False
    last = levels_db(pcm[-max(1, round(_WINDOW_S * sample_rate)) :], sample_rate)
    return float(last[-1] - levels.max()) > _ABRUPT_DB


def level_db(pcm: Tensor, sample_rate: int) -> float | None:
    """RMS of the active part in dB of full scale; None for silence."""
    span = active_span(pcm, sample_rate)
    part = pcm[round(span.start_s * sample_rate) : round(span.end_s * sample_rate)]
    if not len(part):
        return None
    return 10 * math.log10(float(part.float().square().mean()))


def count_syllables(text: str) -> int:
    """Vowels of the English pronunciation that eSpeak gives the text, numbers and the like spelled out before."""
    return len(_VOWEL.findall(EspeakPhonemizer()(normalize(text))))


def pace(text: str, pcm: Tensor, sample_rate: int) -> float | None:
    """Syllables of the text per second between first and last sound; None without either."""
    duration, syllables = active_span(pcm, sample_rate).duration_s, count_syllables(text)
    return syllables / duration if duration > 0 and syllables else None


def pitch_hz(pcm: Tensor, sample_rate: int) -> float | None:
    """Median fundamental frequency of the voiced parts; None where hardly anything is voiced.

    Raises `EvaluationError` where the extra `eval` is not installed.
    """
    try:
        import parselmouth
    except ImportError as error:
        raise EvaluationError(f"{error.name} is not installed: pip install 'duologue[eval]'") from error
    lowest, highest = _PITCH_HZ
    if len(pcm) / sample_rate < 6.4 / lowest:  # Praat wants three periods in each of its windows, and some more
        return None
    sound = parselmouth.Sound(pcm.double().numpy(), sampling_frequency=sample_rate)
    pitch = sound.to_pitch_ac(pitch_floor=lowest, pitch_ceiling=highest)
    voiced = torch.from_numpy(pitch.selected_array["frequency"])
    voiced = voiced[voiced > 0]
    return float(voiced.median()) if len(voiced) * pitch.time_step >= _LEAST_PITCH_S else None
