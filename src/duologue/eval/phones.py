"""Which of several pronunciations of a word was spoken, and how far the answer can be trusted.

The default judge aligns the whole sentence with the sound once for each pronunciation of the one word, and compares
how likely the acoustic model finds the sound: PocketSphinx 5 with its US English model (Huggins-Daines et al.,
"PocketSphinx", 2006; the model and CMUdict come in the wheel). The model knows few voices: the frequency axis is first
warped by the factor that suits the speaker best (Lee and Rose, "Speaker normalization using efficient frequency
warping procedures", 1996). `python -m recipes.pronunciation` measures the judge on references with a known answer and
writes `lists/pronunciation_accuracy.json`, which `pair_accuracy` reads.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

from torch import Tensor

from duologue.audio import is_silent, normalize_loudness, resample
from duologue.config import JsonConfig
from duologue.errors import ConfigError, EvaluationError
from duologue.text.normalize import normalize
from duologue.text.phonemes import EspeakPhonemizer

_RATE: Final = 16_000
_FRAME_S: Final = 0.01
_LEAST_S: Final = 0.2
_WARPS: Final = (1.0, 0.78, 0.88, 1.14)  # of frequency; below 1 for a vocal tract longer than the model's
_BEAMS: Final[tuple[dict[str, float], ...]] = (
    {},  # PocketSphinx's own
    {"beam": 1e-80, "wbeam": 1e-60, "pbeam": 1e-80},  # where the path to the end was lost; far wider ones lose it too
)
_LEAST_TEXT: Final = -7.0  # nats a frame below the best sound of the model: something else was said (right: above -5.1)
_LEAST_WORD: Final = -8.0  # the same of the word alone (right ones: above -6.4; another word in its place: -8 to -19)
_FAR: Final = -12.0  # nats a frame of the word, for a variant that cannot be brought together with the sound
_TARGET: Final = "the-word-in-question"  # its label: no word of a text has a hyphen
_FILLERS: Final = ("<", "[", "+")
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")

_ARPABET: Final[dict[str, str]] = {
    "əɹ": "ER", "ɜɹ": "ER", "A": "EY", "I": "AY", "O": "OW", "W": "AW", "Y": "OY", "ʤ": "JH", "ʧ": "CH", "b": "B",
    "d": "D", "f": "F", "h": "HH", "i": "IY", "j": "Y", "k": "K", "l": "L", "m": "M", "n": "N", "p": "P", "s": "S",
    "t": "T", "u": "UW", "v": "V", "w": "W", "z": "Z", "æ": "AE", "ð": "DH", "ŋ": "NG", "ɑ": "AA", "ɔ": "AO",
    "ə": "AH", "ɛ": "EH", "ɜ": "ER", "ɡ": "G", "ɪ": "IH", "ɹ": "R", "ɾ": "D", "ʃ": "SH", "ʊ": "UH", "ʌ": "AH",
    "ʒ": "ZH", "θ": "TH", "ᵻ": "IH",
}  # fmt: skip
_SOUND: Final = re.compile("|".join(_ARPABET))  # the two-letter ones stand first


@dataclass(frozen=True)
class SpokenVariant:
    """The pronunciation that is nearest to what was said, and where the word lies in the recording, in seconds.

    `index` counts in the variants that were asked for. `margin` is how much likelier it is than the next one, in nats
    per frame of 10 ms of the word, after the threshold of the pair if there is one: 0 or more.
    """

    index: int
    margin: float
    start_s: float
    end_s: float


class PronunciationJudge(Protocol):
    """Tells pronunciations of one word apart."""

    name: str

    def __call__(
        self, pcm: Tensor, sample_rate: int, text: str, word: str, variants: Sequence[str]
    ) -> SpokenVariant | None:
        """Which of `variants` (ARPAbet without stress, between spaces) `word` has in a recording of `text`.

        `pcm` is float32 `[num_samples]` in [-1, 1]. None where the text and the sound cannot be brought together.
        """
        ...


@dataclass(frozen=True)
class PairAccuracy(JsonConfig):
    """How well the default judge tells the two pronunciations of one word apart, on references with a known answer.

    `threshold` is how much likelier the first variant has to be than the second to be taken, in nats per frame.
    `count` references were judged, `counts` by the variant that was said; `correct` are the shares of right answers by
    variant, `accuracy` that of all with its bootstrap 95 % interval from `low` to `high`. `unaligned` is the share of
    all references that got no answer; they are in no other figure. `separable` is whether a suite may use the pair.
    """

    word: str
    variants: tuple[str, ...]
    threshold: float
    count: int
    counts: tuple[int, ...]
    correct: tuple[float, ...]
    unaligned: float
    accuracy: float
    low: float
    high: float
    separable: bool


@dataclass(frozen=True)
class Calibration(JsonConfig):
    """The file of the figures. Thresholds were set on the voices `tuned_on`; every figure is of `measured_on`.

    A pair is separable where each variant is right in `least_correct` of its references or more and the interval of
    the accuracy lies above `least_low`.
    """

    name: str
    version: int
    instrument: str
    tuned_on: tuple[str, ...]
    measured_on: tuple[str, ...]
    least_correct: float
    least_low: float
    pairs: tuple[PairAccuracy, ...]


@functools.cache
def load_calibration() -> Calibration:
    """Reads the file of the package; raises `EvaluationError` where it is not in order."""
    file = resources.files("duologue").joinpath("eval", "lists", "pronunciation_accuracy.json")
    try:
        return Calibration.from_json(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{file} cannot be read ({error}); reinstall duologue") from error
    except ConfigError as error:
        raise EvaluationError(str(error)) from error


def pair_accuracy() -> dict[str, PairAccuracy]:
    """The pairs by word; raises `EvaluationError` where the file of the package is not in order."""
    return {pair.word: pair for pair in load_calibration().pairs}


def to_arpabet(phonemes: str) -> str:
    """Phonemes of `EspeakPhonemizer` as ARPAbet without stress: `"hˈA"` -> `"HH EY"`; marks are left out."""
    return " ".join(_ARPABET[sound] for sound in _SOUND.findall(re.sub("[ˈˌ]", "", phonemes)))


@dataclass(frozen=True)
class _Path:
    """The best path through a sentence: its score in all, and the word's place, in frames of 10 ms.

    Scores are nats, those of the model's best sound in each frame being 0. `alternative` is the pronunciation taken.
    """

    score: float
    num_frames: int
    alternative: int
    start: int
    end: int
    word_score: float

    @property
    def per_frame(self) -> float:
        """The mean over the sentence."""
        return self.score / self.num_frames

    @property
    def word_per_frame(self) -> float:
        """The mean over the word."""
        return self.word_score / (self.end - self.start)


class PocketsphinxJudge:
    """Forced alignment with PocketSphinx; the same call gives the same answer, whatever was judged before."""

    def __init__(self, *, thresholds: Mapping[str, PairAccuracy] | None = None) -> None:
        """`thresholds` by word, those of the package by default; an empty mapping judges by likelihood alone.

        Raises `EvaluationError` where the extra `eval` is not installed.
        """
        try:
            import pocketsphinx
        except ImportError as error:
            raise EvaluationError(f"{error.name} is not installed: pip install 'duologue[eval]'") from error
        self._decoder: Any = pocketsphinx.Decoder
        model = Path(pocketsphinx.get_model_path("en-us"))
        self._acoustic_model = str(model / "en-us")
        self._dictionary = _read_dictionary(model / "cmudict-en-us.dict")
        self._phonemizer = EspeakPhonemizer("en-us")
        self._thresholds = pair_accuracy() if thresholds is None else thresholds
        self.name = f"forced alignment, pocketsphinx {importlib.metadata.version('pocketsphinx')}, en-us"

    def __call__(
        self, pcm: Tensor, sample_rate: int, text: str, word: str, variants: Sequence[str]
    ) -> SpokenVariant | None:
        """As the Protocol says; raises `EvaluationError` unless `word` stands once in `text` and has two variants."""
        words = self._words(text, word)
        if len(set(variants)) != len(variants) or len(variants) < 2:
            raise EvaluationError(f"variants {list(variants)} of {word!r}; expected at least two, all different")
        heard = resample(pcm, sample_rate, _RATE)
        if is_silent(heard) or len(heard) < _LEAST_S * _RATE:
            return None
        sound = (normalize_loudness(heard) * 32767).round().short().numpy().tobytes()
        found = [(warp, path) for warp in _WARPS if (path := self._align(sound, words, variants, warp)) is not None]
        if not found:
            return None
        warp, nearest = max(found, key=lambda entry: entry[1].per_frame)
        if nearest.per_frame < _LEAST_TEXT or nearest.word_per_frame < _LEAST_WORD:
            return None
        paths = [
            nearest if number == nearest.alternative else self._align(sound, words, [phones], warp)
            for number, phones in enumerate(variants)
        ]
        return self._choose(word, variants, paths, nearest)

    def _choose(
        self, word: str, variants: Sequence[str], paths: Sequence[_Path | None], nearest: _Path
    ) -> SpokenVariant:
        """The likeliest variant after the threshold; one without a path is far behind."""
        known = [path for path in paths if path is not None]
        num_frames = sum(path.end - path.start for path in known) / len(known)
        scores = [_FAR if path is None else max(_FAR, (path.score - nearest.score) / num_frames) for path in paths]
        pair = self._thresholds.get(word)
        if pair is not None and set(pair.variants) == set(variants):
            scores[list(variants).index(pair.variants[0])] -= pair.threshold
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        place = paths[order[0]] or nearest
        return SpokenVariant(
            order[0], scores[order[0]] - scores[order[1]], place.start * _FRAME_S, place.end * _FRAME_S
        )

    def _words(self, text: str, word: str) -> list[tuple[str, Sequence[str]]]:
        """The words of a text with their pronunciations, of which the target has none."""
        found = [piece.lower() for piece in _WORD.findall(normalize(text).replace("’", "'"))]
        if found.count(word.lower()) != 1:
            raise EvaluationError(f"{word!r} stands {found.count(word.lower())} times in {text!r}; expected once")
        words = [(piece, () if piece == word.lower() else self._pronounce(piece)) for piece in found]
        return [(piece, phones) for piece, phones in words if phones or piece == word.lower()]

    def _pronounce(self, word: str) -> Sequence[str]:
        """What CMUdict has, else what eSpeak says; empty where that is nothing."""
        if word in self._dictionary:
            return self._dictionary[word]
        phones = to_arpabet(self._phonemizer(word))
        return (phones,) if phones else ()

    def _align(
        self, sound: bytes, words: Sequence[tuple[str, Sequence[str]]], variants: Sequence[str], warp: float
    ) -> _Path | None:
        """The best path of PCM16 `sound` through all `words`, with any of `variants` for the one without phones.

        A decoder lives for one utterance: the next would begin with its Gaussians. All sounds of the model are scored
        in each frame, so that scores have one zero, whatever is searched for.
        """
        for beams in _BEAMS:
            decoder = self._decoder(
                hmm=self._acoustic_model, lm=None, dict=None, loglevel="FATAL", compallsen=True,
                warp_params=str(warp), **beams,
            )  # fmt: skip
            labels = [word if phones else _TARGET for word, phones in words]
            entries = {label: phones or variants for label, (_, phones) in zip(labels, words, strict=True)}
            for label, pronunciations in entries.items():
                for number, phones in enumerate(pronunciations):
                    decoder.add_word(label if number == 0 else f"{label}({number + 1})", phones, False)
            decoder.set_align_text(" ".join(labels))
            decoder.start_utt()
            decoder.process_raw(sound, full_utt=True)
            decoder.end_utt()
            path = _read_path(decoder, labels)
            if path is not None:
                return path
        return None


def _read_path(decoder: Any, labels: Sequence[str]) -> _Path | None:
    """What a decoder found; None where it did not come to the end of the sentence."""
    if decoder.hyp() is None:
        return None
    score, num_frames, said = 0.0, 0, []
    target: tuple[int, int, int, float] | None = None
    for segment in decoder.seg():
        if segment.word in ("<s>", "</s>"):
            continue
        length = segment.end_frame - segment.start_frame + 1
        nats = math.log(max(segment.ascore, math.ulp(0.0)))
        score, num_frames = score + nats, num_frames + length
        label, _, alternative = segment.word.partition("(")
        if label == _TARGET:
            number = int(alternative.rstrip(")")) - 1 if alternative else 0
            target = number, segment.start_frame, segment.end_frame + 1, nats
        if not label.startswith(_FILLERS):
            said.append(label)
    if said != list(labels) or target is None:
        return None
    number, start, end, word_score = target
    return _Path(score, num_frames, number, start, end, word_score)


@functools.cache
def _read_dictionary(path: Path) -> Mapping[str, Sequence[str]]:
    """CMUdict as PocketSphinx ships it: every word with its pronunciations."""
    found: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            label, _, phones = line.strip().partition(" ")
            found.setdefault(label.partition("(")[0], []).append(phones)
    return MappingProxyType(found)
