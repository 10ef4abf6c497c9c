"""What is done to a recording so that a metric has a known answer: noise, filters, cuts, silence, loops, speed, pitch.

Every function takes float32 PCM `[num_samples]` in [-1, 1] at `sample_rate` Hz and returns new PCM at the same rate;
none changes its argument, and what is drawn depends on the seed alone. Values may leave [-1, 1] where noise or gain
takes them there. Sources: Moulines and Charpentier, "Pitch-synchronous waveform processing techniques for
text-to-speech synthesis using diphones" (1990), as Praat implements it, for speed and pitch; ITU-T G.711 (1988) for the
telephone.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, Final, Literal

import torch
from torch import Tensor

from duologue.audio import resample
from duologue.errors import EvaluationError
from duologue.eval import acoustics

Spectrum = Literal["white", "speech"]

_SEMITONES_PER_OCTAVE: Final = 12
_TAPER: Final = 0.95  # a low-pass begins to fall at this share of its limit
_PSOLA_HZ: Final = (60.0, 500.0)  # where Praat looks for pitch marks
_PSOLA_STEP_S: Final = 0.01
_MOST_SLOWING: Final = 3.0  # Praat's own limit
_TELEPHONE_RATE: Final = 8_000
_MU: Final = 255.0  # G.711's compression in North America and Japan
_MU_LEVELS: Final = 128  # of either sign


def add_noise(pcm: Tensor, sample_rate: int, *, snr_db: float, spectrum: Spectrum = "white", seed: int = 0) -> Tensor:
    """With Gaussian noise, its power `snr_db` below that of the part that sounds.

    "speech" gives the noise the recording's own spectrum: the same magnitudes with phases drawn at random. Raises
    `EvaluationError` for silence, below which there is no level to set.
    """
    level = acoustics.level_db(pcm, sample_rate)
    if level is None:
        raise EvaluationError("noise cannot be set against a silent recording; give one with speech")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(pcm), generator=generator)
    if spectrum == "speech":
        phases = torch.rand(len(pcm) // 2 + 1, generator=generator) * 2 * math.pi
        magnitudes = torch.fft.rfft(pcm.float()).abs()
        noise = torch.fft.irfft(torch.polar(magnitudes, phases), n=len(pcm))
    scale: float = 10 ** ((level - snr_db) / 20) / float(noise.square().mean().sqrt())
    return pcm + noise * scale


def low_pass(pcm: Tensor, sample_rate: int, *, limit_hz: float) -> Tensor:
    """Without anything at or above `limit_hz`; a cosine slope over the 5 % below it keeps the ringing low."""
    spectrum = torch.fft.rfft(pcm.float())
    frequencies = torch.fft.rfftfreq(len(pcm), 1 / sample_rate)
    slope = ((limit_hz - frequencies) / (limit_hz * (1 - _TAPER))).clamp(0, 1)
    filtered: Tensor = torch.fft.irfft(spectrum * (0.5 - 0.5 * torch.cos(math.pi * slope)), n=len(pcm))
    return filtered


def telephone(pcm: Tensor, sample_rate: int) -> Tensor:
    """As over a telephone line: 8 kHz sample rate and 8 bits with mu-law compression (G.711), back at `sample_rate`."""
    narrow = resample(pcm, sample_rate, _TELEPHONE_RATE).clamp(-1, 1)
    squeezed = narrow.sign() * torch.log1p(_MU * narrow.abs()) / math.log1p(_MU)
    stepped = (squeezed * _MU_LEVELS).round() / _MU_LEVELS
    expanded = stepped.sign() * torch.expm1(stepped.abs() * math.log1p(_MU)) / _MU
    wide = resample(expanded, _TELEPHONE_RATE, sample_rate)
    return torch.nn.functional.pad(wide, (0, max(0, len(pcm) - len(wide))))[: len(pcm)]


def gain(pcm: Tensor, sample_rate: int, *, by_db: float) -> Tensor:
    """Louder by `by_db`, or softer where that is negative; the rate does not matter."""
    return pcm * 10 ** (by_db / 20)


def cut_end(pcm: Tensor, sample_rate: int, *, seconds: float) -> Tensor:
    """Without the last `seconds` before its last sound, nor the silence after them; a cut as with scissors."""
    end_s = acoustics.active_span(pcm, sample_rate).end_s - seconds
    return pcm[: max(0, round(end_s * sample_rate))].clone()


def append_silence(pcm: Tensor, sample_rate: int, *, seconds: float) -> Tensor:
    """With digital silence after it."""
    return torch.nn.functional.pad(pcm, (0, round(seconds * sample_rate)))


def repeat(pcm: Tensor, sample_rate: int, *, start_s: float, end_s: float, times: int) -> Tensor:
    """With the part from `start_s` to `end_s` said `times` times in a row instead of once."""
    first, last = round(start_s * sample_rate), round(end_s * sample_rate)
    return torch.cat([pcm[:first], pcm[first:last].repeat(times), pcm[last:]])


def change_speed(pcm: Tensor, sample_rate: int, *, factor: float) -> Tensor:
    """Spoken `factor` times as fast at the same pitch (PSOLA), so about `1 / factor` as long.

    Raises `EvaluationError` below a third, which Praat does not do, and where the extra `eval` is not installed.
    """
    if not factor >= 1 / _MOST_SLOWING:
        raise EvaluationError(f"speed factor {factor:g}; expected at least {1 / _MOST_SLOWING:.2f}")
    with _praat(pcm, sample_rate) as (sound, call):
        return _pcm(call(sound, "Lengthen (overlap-add)", *_PSOLA_HZ, 1 / factor))


def shift_pitch(pcm: Tensor, sample_rate: int, *, semitones: float) -> Tensor:
    """Spoken `semitones` higher, or lower where negative, in the same time (PSOLA); formants stay where they are.

    Raises `EvaluationError` where the extra `eval` is not installed.
    """
    with _praat(pcm, sample_rate) as (sound, call):
        plan = call(sound, "To Manipulation", _PSOLA_STEP_S, *_PSOLA_HZ)
        tier = call(plan, "Extract pitch tier")
        call(tier, "Multiply frequencies", 0.0, len(pcm) / sample_rate, 2 ** (semitones / _SEMITONES_PER_OCTAVE))
        call([plan, tier], "Replace pitch tier")
        return _pcm(call(plan, "Get resynthesis (overlap-add)"))


@contextlib.contextmanager
def _praat(pcm: Tensor, sample_rate: int) -> Iterator[tuple[Any, Any]]:
    """The recording as Praat holds it, and the function that gives Praat its orders.

    PSOLA draws where the pitch marks of voiceless parts lie; in here the draws are always the same.
    """
    try:
        import parselmouth
        from parselmouth.praat import call, run
    except ImportError as error:
        raise EvaluationError(f"{error.name} is not installed: pip install 'duologue[eval]'") from error
    run("random_initializeWithSeedUnsafelyButPredictably (0)")
    try:
        yield parselmouth.Sound(pcm.double().numpy(), sampling_frequency=sample_rate), call
    finally:
        run("random_initializeSafelyAndUnpredictably ()")


def _pcm(sound: Any) -> Tensor:
    return torch.from_numpy(sound.values[0]).float()
