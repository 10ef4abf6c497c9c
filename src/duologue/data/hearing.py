"""What is heard in a recording of which nothing is known: where there is speech, whose it is, and what is said.

Sources of the instruments: Silero's voice detector and Whisper, both as faster-whisper has them; Resemblyzer's voices
(Wan et al., 2018), of windows that slide over the speech, and scikit-learn's agglomerative clustering of them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from duologue.checkpoints.whisper import bundled_whisper, torch_threads_kept
from duologue.errors import CheckpointError, DataError

RATE: Final = 16_000  # of every instrument here

_PAD_MS: Final = 100
_LEAST_SPEECH_MS: Final = 200
_WINDOW_S: Final = 1.6  # of speech that tells a voice
_HOP_S: Final = 0.4
# Cosine distance of two groups of windows at which they are two voices. On 28 recordings, conversations of two
# synthetic voices and kathleen alone: 13 % of the windows with the wrong speaker at 0.3, 19 at 0.35, 24 at 0.25.
_APART: Final = 0.3

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Span:
    """A stretch of speech in seconds; `speaker` numbers the voices of a recording."""

    start_s: float
    end_s: float
    speaker: int = 0


@dataclass(frozen=True)
class Heard:
    """What was understood, and how sure the recogniser is: its mean log-probability a token, 0 at best."""

    text: str
    confidence: float


def find_speech(pcm: Samples, *, max_pause_s: float, max_s: float) -> list[Span]:
    """Where there is speech in `pcm [S]`, cut at pauses of `max_pause_s` or more, and after `max_s` at the latest."""
    try:
        from faster_whisper.vad import VadOptions, get_speech_timestamps
    except ImportError as error:
        raise _missing(error) from error
    options = VadOptions(
        min_speech_duration_ms=_LEAST_SPEECH_MS,
        min_silence_duration_ms=round(1000 * max_pause_s),
        max_speech_duration_s=max_s,
        speech_pad_ms=_PAD_MS,
    )
    return [Span(one["start"] / RATE, one["end"] / RATE) for one in get_speech_timestamps(pcm, options)]


class Transcriber:
    """Whisper on one core; the same recording gives the same words."""

    def __init__(self, model: str | None, *, language: str | None, cache: Path) -> None:
        """`model` is a CTranslate2 folder or a size to download, by default the whisper-base of installed wheels.

        Raises `DataError` for a model that is not to be had.
        """
        try:
            import ctranslate2
            from faster_whisper import WhisperModel
        except ImportError as error:
            raise _missing(error) from error
        try:
            source = str(bundled_whisper(cache)) if model is None else model
            with torch_threads_kept():
                self._model: Any = WhisperModel(source, device="cpu", compute_type="int8", cpu_threads=1)
        except CheckpointError as error:
            raise DataError(str(error)) from error
        except Exception as error:  # of the hub client, of CTranslate2: no common base
            raise DataError(f"the recogniser {model} cannot be loaded ({error})") from error
        self._seed: Any = ctranslate2.set_random_seed
        self._language = language
        self.name = f"{model or 'whisper-base'}, {language or 'any language'}"

    def __call__(self, pcm: Samples) -> Heard:
        """The words of `[S]`."""
        self._seed(0)  # of the temperatures that it falls back to where it doubts itself
        found, _ = self._model.transcribe(
            pcm, language=self._language, beam_size=5, condition_on_previous_text=False, without_timestamps=True
        )
        segments = list(found)
        tokens = sum(len(segment.tokens) for segment in segments)
        text = " ".join(segment.text.strip() for segment in segments).strip()
        if not tokens:
            return Heard("", -math.inf)
        return Heard(text, sum(segment.avg_logprob * len(segment.tokens) for segment in segments) / tokens)


class SpeakerSeparator:
    """Tells the voices of a recording apart."""

    def __init__(self, num_speakers: int | None = None) -> None:
        """`num_speakers` is known, or found; raises `DataError` where the extra `diarize` is not installed."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of webrtcvad's and librosa's imports
                from resemblyzer import VoiceEncoder
                from sklearn.cluster import AgglomerativeClustering
        except ImportError as error:
            raise DataError(f"{error.name} is not installed: pip install 'duologue[diarize]'") from error
        self._encoder: Any = VoiceEncoder("cpu", verbose=False)
        self._num_speakers, self._clustering = num_speakers, AgglomerativeClustering

    def cluster(self, voices: npt.NDArray[np.float32]) -> list[int]:
        """A label for each of `voices [N, D]`."""
        count = None if self._num_speakers is None else min(self._num_speakers, len(voices))
        clusters = self._clustering(
            n_clusters=count,
            distance_threshold=_APART if count is None else None,
            metric="cosine",
            linkage="average",
        )
        return [int(label) for label in clusters.fit_predict(voices)]

    def __call__(self, pcm: Samples, spans: Sequence[Span]) -> list[Span]:
        """The spans cut where the speaker changes; speakers are numbered as they come up."""
        windows = [place for span in spans for place in _windows(span)]
        if len(windows) < 2:
            return list(spans)
        voices = np.stack([self._encoder.embed_utterance(pcm[round(a * RATE) : round(b * RATE)]) for a, b in windows])
        labels = self.cluster(voices)
        order = {label: number for number, label in enumerate(dict.fromkeys(labels))}
        found, at = [], 0
        for span in spans:
            places = _windows(span)
            found += _cut(span, places, [order[label] for label in labels[at : at + len(places)]])
            at += len(places)
        return found


def _windows(span: Span) -> list[tuple[float, float]]:
    """Windows over a span, one at least."""
    count = max(1, 1 + math.floor((span.end_s - span.start_s - _WINDOW_S) / _HOP_S))
    starts = [span.start_s + index * _HOP_S for index in range(count)]
    return [(start, min(start + _WINDOW_S, span.end_s)) for start in starts]


def _cut(span: Span, places: Sequence[tuple[float, float]], speakers: Sequence[int]) -> list[Span]:
    """Between two windows of different speakers, half-way between their middles."""
    pieces, start = [], span.start_s
    for index in range(1, len(places)):
        if speakers[index] != speakers[index - 1]:
            middle = (sum(places[index]) + sum(places[index - 1])) / 4
            pieces.append(Span(start, middle, speakers[index - 1]))
            start = middle
    return [*pieces, Span(start, span.end_s, speakers[-1])]


def join_spans(spans: Sequence[Span], *, max_pause_s: float, max_s: float) -> list[Span]:
    """Turns: spans of one speaker that follow each other within `max_pause_s` become one, up to `max_s`."""
    turns: list[Span] = []
    for span in spans:
        last = turns[-1] if turns else None
        if (
            last is not None
            and last.speaker == span.speaker
            and span.start_s - last.end_s <= max_pause_s
            and span.end_s - last.start_s <= max_s
        ):
            turns[-1] = Span(last.start_s, span.end_s, span.speaker)
        else:
            turns.append(span)
    return turns


def _missing(error: ImportError) -> DataError:
    return DataError(f"{error.name} is not installed: pip install 'duologue[prepare]'")
