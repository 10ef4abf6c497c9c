"""Instruments with known answers, and systems that say what they are told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from duologue.eval.clips import Chunk, Clip, OwnLine, Request, Sound, SpeechError
from duologue.eval.instruments import HeardWord, Instruments, Quality, Transcript
from duologue.eval.phones import SpokenVariant

RATE = 16_000


def buzz(seconds: float = 1.0, hertz: float = 150.0) -> torch.Tensor:
    """A tone with a fade at either end: float32 `[num_samples]` at 16 kHz."""
    time = torch.arange(round(seconds * RATE)) / RATE
    wave = sum(0.3 / n**2 * torch.sin(2 * torch.pi * n * hertz * time) for n in range(1, 6))
    assert isinstance(wave, torch.Tensor)
    ramp = torch.linspace(0, 1, min(len(wave), RATE // 10))
    wave[: len(ramp)] *= ramp
    wave[len(wave) - len(ramp) :] *= ramp.flip(0)
    return wave


class Scripted:
    """All three instruments: hears `heard` whatever is played; a voice is its pitch as an angle."""

    name = "scripted"

    def __init__(self, heard: str = "hello there") -> None:
        self.heard = heard
        self.calls = 0

    def transcript(self, pcm: torch.Tensor, sample_rate: int) -> Transcript:
        self.calls += 1
        return Transcript(self.heard, (HeardWord(self.heard, 0.0, len(pcm) / sample_rate),))

    def voice(self, pcm: torch.Tensor, sample_rate: int) -> npt.NDArray[np.float32] | None:
        spectrum = torch.fft.rfft(pcm).abs()
        angle = float(spectrum.argmax()) * sample_rate / len(pcm) / 200
        return np.asarray([np.cos(angle), np.sin(angle)], dtype=np.float32)

    def quality(self, pcm: torch.Tensor, sample_rate: int) -> Quality:
        return Quality(3.0, 4.0, 2.5, 3.5)


class _Judge:
    """Finds the second way of saying a word in recordings below 0.9 s, the first in others; no word below 0.3 s."""

    name = "scripted"

    def __call__(
        self, pcm: torch.Tensor, sample_rate: int, text: str, word: str, variants: Sequence[str]
    ) -> SpokenVariant | None:
        seconds = len(pcm) / sample_rate
        return None if seconds < 0.3 else SpokenVariant(int(seconds < 0.9), 1.0, 0.0, seconds)


class _Instrument:
    def __init__(self, call: Any) -> None:
        self.name, self._call = "scripted", call

    def __call__(self, pcm: torch.Tensor, sample_rate: int) -> Any:
        return self._call(pcm, sample_rate)


def instruments(folder: Path, scripted: Scripted | None = None) -> Instruments:
    """A set that loads nothing."""
    scripted = scripted or Scripted()
    return Instruments(
        folder,
        recognizer_override=_Instrument(scripted.transcript),
        speaker_encoder_override=_Instrument(scripted.voice),
        quality_judge_override=_Instrument(scripted.quality),
        pronunciation_judge_override=_Judge(),
    )


class Speaker:
    """A system with two voices of 150 and 250 Hz; fails for texts in `failing`."""

    speaks = True
    is_timed = True

    def __init__(self, name: str = "speaker", failing: tuple[str, ...] = (), takes_context: bool = False) -> None:
        self.name, self.failing, self.takes_context = name, failing, takes_context
        self.is_open = False
        self.asked: list[Request] = []
        self.interrupt_after: int | None = None

    def open(self) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def describe(self) -> dict[str, Any]:
        return {"kind": "test"}

    def voices(self) -> list[str]:
        return ["low", "high"]

    def prompt(self, voice: str) -> Sound | None:
        return Sound(buzz(1.0, {"low": 150.0, "high": 250.0}[voice]), RATE)

    def own_lines(self) -> list[OwnLine] | None:
        return None

    def speak(self, request: Request) -> Clip:
        if self.interrupt_after is not None and len(self.asked) >= self.interrupt_after:
            raise KeyboardInterrupt
        self.asked.append(request)
        if request.text in self.failing:
            raise SpeechError("no free slot")
        hertz = 250.0 if request.voice == "high" else 150.0
        chunks = (Chunk(0.1, 0.5), Chunk(0.9, 0.5))
        return Clip(Sound(buzz(1.0, hertz), RATE), 1.0, chunks, "end", memory_mb=100.0)
