"""A conversation's recordings become turns: found or cut out, heard or checked, filtered, and of one loudness."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from duologue.audio import read_channels, resample
from duologue.config import JsonConfig
from duologue.data.hearing import RATE, Span, SpeakerSeparator, Transcriber, find_speech, join_spans
from duologue.data.sources import Conversation, Part
from duologue.errors import AudioError, ConfigError, DataError

Samples = npt.NDArray[np.float32]

# What a known turn takes along of the silence around it.
LEAD_S: Final = 0.05
TAIL_S: Final = 0.12

_FULL_SCALE: Final = 0.999
_SILENT_PEAK: Final = 10 ** (-60 / 20)
_MAX_PEAK: Final = 0.99


@dataclass(frozen=True)
class TurnConfig(JsonConfig):
    """How turns are found, and which are kept.

    `speakers` says how voices are told apart where nobody wrote them down: all `one`, one for each of the `channels`,
    or by `diarize`, as `num_speakers` or as many as there seem to be. `voice` names the voice of recordings that do not
    say whose they are; without, each recording has its own. Turns end at pauses of `max_pause_s`. `language` is what
    Whisper is told, None for its own guess, and `recogniser` a CTranslate2 folder or size, None for the installed
    whisper-base.

    A turn is left out that is not `min_s` to `max_s` long, has a `max_clipped` share of its samples at full scale,
    has fewer than `min_rate` or more than `max_rate` letters and digits a second, was recognised with a mean
    log-probability below `min_confidence`, or, with `check_text`, whose text is further than `max_disagreement` (word
    error rate) from what is recognised. `loudness_db` is the level, in dB of full scale, to which each voice of a
    conversation is brought; None leaves levels alone.
    """

    speakers: Literal["one", "channels", "diarize"] = "one"
    num_speakers: int | None = None
    voice: str | None = None
    language: str | None = "en"
    recogniser: str | None = None
    check_text: bool = False
    max_pause_s: float = 0.6
    min_s: float = 0.5
    max_s: float = 30.0
    max_clipped: float = 0.01
    min_rate: float = 3.0
    max_rate: float = 30.0
    min_confidence: float = -0.8
    max_disagreement: float = 0.3
    loudness_db: float | None = -22.0

    def __post_init__(self) -> None:
        if self.num_speakers is not None and self.num_speakers < 1:
            raise ConfigError(f"num_speakers is {self.num_speakers}; expected 1 or more")
        if not 0 < self.min_s < self.max_s or not 0 <= self.min_rate < self.max_rate:
            raise ConfigError("min_s must be positive and below max_s, and min_rate below max_rate")


@dataclass(frozen=True, eq=False)
class Turn:
    """A turn that is kept: its voice, its text, its samples at the codec's rate."""

    voice: str
    text: str
    pcm: Samples


@dataclass
class Prepared:
    """What has become of a conversation.

    `left_out` are pairs of a place and a reason, `seconds` what was read.
    """

    turns: list[Turn] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0


class TurnMaker:
    """Makes turns; what it listens with is loaded when it is first needed."""

    def __init__(self, config: TurnConfig, sample_rate: int, *, cache: Path) -> None:
        """`sample_rate` is that of the turns in Hz; `cache` keeps the recogniser's joined weights."""
        self.config, self.sample_rate, self._cache = config, sample_rate, cache

    @cached_property
    def _transcriber(self) -> Transcriber:
        return Transcriber(self.config.recogniser, language=self.config.language, cache=self._cache)

    @cached_property
    def _separator(self) -> SpeakerSeparator:
        return SpeakerSeparator(self.config.num_speakers)

    def __call__(self, conversation: Conversation) -> Prepared:
        """All turns of a conversation in order. A recording that cannot be read, or is silent, is left out."""
        prepared = Prepared()
        for part in conversation.parts:
            try:
                channels, rate = read_channels(part.path)
            except AudioError as error:
                prepared.left_out.append((part.name, f"unreadable: {str(error).replace(str(part.path), part.name)}"))
                continue
            prepared.seconds += channels.shape[1] / rate
            if float(channels.abs().max()) < _SILENT_PEAK:
                prepared.left_out.append((part.name, "silent: nothing above -60 dB"))
                continue
            self._add(part, resample(channels, rate, self.sample_rate).clamp(-1, 1).numpy(), prepared)
        if self.config.loudness_db is not None:
            prepared.turns = _level(prepared.turns, self.config.loudness_db)
        return prepared

    def _add(self, part: Part, channels: Samples, prepared: Prepared) -> None:
        is_known = part.utterances and not _is_unsplit(part, channels.shape[1] / self.sample_rate)
        pieces = self._known(part, channels) if is_known else self._found(part, channels)
        if not pieces:
            prepared.left_out.append((part.name, "no speech found"))
        for turn, start_s in pieces:
            text, reason = self._judge(turn)
            if reason is None:
                prepared.turns.append(Turn(turn.voice, text, turn.pcm))
            else:
                prepared.left_out.append((f"{part.name} at {start_s:.2f} s", reason))

    def _known(self, part: Part, channels: Samples) -> list[tuple[Turn, float]]:
        """Turns as the source gives them, each with a little of the silence around it and nothing of its neighbours."""
        mono, rate, turns = channels.mean(axis=0), self.sample_rate, part.utterances
        total = len(mono) / rate
        pieces = []
        for index, turn in enumerate(turns):
            end = total if turn.end_s is None else turn.end_s
            before = (turns[index - 1].end_s or total) if index else 0.0
            after = turns[index + 1].start_s if index + 1 < len(turns) else total
            first = max(turn.start_s - LEAD_S, min(before, turn.start_s), 0.0)
            last = min(end + TAIL_S, max(after, end), total)
            pcm = mono[round(first * rate) : max(round(first * rate), round(last * rate))]
            pieces.append((Turn(turn.speaker, turn.text or "", pcm), turn.start_s))
        return pieces

    def _found(self, part: Part, channels: Samples) -> list[tuple[Turn, float]]:
        """Turns by voice detection, in the order in which they begin."""
        config = self.config
        apart = config.speakers == "channels" and len(channels) > 1
        tracks = list(channels) if apart else [channels.mean(axis=0)]
        found: list[tuple[Span, Samples]] = []
        for number, track in enumerate(tracks):
            heard = resample(torch.from_numpy(track), self.sample_rate, RATE).numpy()
            spans = find_speech(heard, max_pause_s=config.max_pause_s, max_s=config.max_s)
            if config.speakers == "diarize":
                spans = self._separator(heard, spans)
            joined = join_spans(spans, max_pause_s=config.max_pause_s, max_s=config.max_s)
            found += [(Span(s.start_s, s.end_s, number if apart else s.speaker), track) for s in joined]
        found.sort(key=lambda pair: (pair[0].start_s, pair[0].speaker))
        is_shared = len({span.speaker for span, _ in found}) > 1
        voice = part.utterances[0].speaker if part.utterances else config.voice or part.name
        return [
            (
                Turn(
                    f"{voice}#{span.speaker}" if is_shared else voice,
                    "",
                    track[round(span.start_s * self.sample_rate) : round(span.end_s * self.sample_rate)],
                ),
                span.start_s,
            )
            for span, track in found
        ]

    def _judge(self, turn: Turn) -> tuple[str, str | None]:
        """The text of a turn, and why it is left out, or None."""
        config, seconds = self.config, len(turn.pcm) / self.sample_rate
        if seconds < config.min_s:
            return turn.text, f"too short: under {config.min_s:g} s"
        if seconds > config.max_s:
            return turn.text, f"too long: over {config.max_s:g} s"
        if float(np.abs(turn.pcm).max()) < _SILENT_PEAK:
            return turn.text, "silent: nothing above -60 dB"
        if float((np.abs(turn.pcm) >= _FULL_SCALE).mean()) > config.max_clipped:
            return turn.text, f"clipped: over {100 * config.max_clipped:g} % of the samples at full scale"
        text = turn.text
        if not text or config.check_text:
            heard = self._transcriber(resample(torch.from_numpy(turn.pcm), self.sample_rate, RATE).numpy())
            if not text and heard.confidence < config.min_confidence:
                return heard.text, f"recognition in doubt: mean log-probability under {config.min_confidence:g}"
            if text and disagreement(text, heard.text) > config.max_disagreement:
                return text, f"text and recognition disagree: over {100 * config.max_disagreement:g} % of the words"
            text = text or heard.text
        letters = sum(map(str.isalnum, text))
        if not letters:
            return text, "no words"
        if not config.min_rate <= letters / seconds <= config.max_rate:
            return text, f"speech rate: not {config.min_rate:g} to {config.max_rate:g} letters a second"
        return text, None


def _is_unsplit(part: Part, seconds: float) -> bool:
    """Whether a recording's source says at most whose it is, as a whole."""
    if len(part.utterances) != 1:
        return False
    (turn,) = part.utterances
    return not turn.text and turn.start_s == 0 and (turn.end_s is None or turn.end_s > seconds - TAIL_S)


def disagreement(text: str, heard: str) -> float:
    """Word error rate of `heard` against `text`, spelling and punctuation aside."""
    try:
        import jiwer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError as error:
        raise DataError(f"{error.name} is not installed: pip install 'duologue[prepare]'") from error
    normalize = EnglishTextNormalizer()
    reference = normalize(re.sub(r"\s+", " ", text)).strip()
    return float(jiwer.wer(reference, normalize(heard).strip())) if reference else 1.0


def _level(turns: Sequence[Turn], target_db: float) -> list[Turn]:
    """Brings each voice as a whole to a loudness, so that what it says louder than the rest stays louder."""
    gains = {}
    for voice in {turn.voice for turn in turns}:
        own = np.concatenate([turn.pcm for turn in turns if turn.voice == voice])
        gain = 10 ** (target_db / 20) / max(float(np.sqrt(np.square(own, dtype=np.float64).mean())), 1e-9)
        gains[voice] = min(gain, _MAX_PEAK / max(float(np.abs(own).max()), 1e-9))
    return [Turn(turn.voice, turn.text, (turn.pcm * gains[turn.voice]).astype(np.float32)) for turn in turns]
