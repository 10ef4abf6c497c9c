"""One clip and everything that is measured of it: a row. Suites ask for clips and add up rows; they measure nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from duologue.config import JsonConfig
from duologue.eval import acoustics
from duologue.eval.clips import Chunk, Clip, Request, Sound
from duologue.eval.instruments import Instruments, Transcript, similarity
from duologue.eval.words import WordErrors, WordScorer

LEAST_SECONDS = 0.2  # less than this is no speech: nothing is understood, nothing else is measured

Voice = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Row(JsonConfig):
    """What is known of one utterance; None where a measure does not apply.

    `failure` is the reason why there is no clip; the utterance then counts as not understood, with all words missing.
    Times and silences are in seconds, pace in syllables per second, pitch in Hz, level in dB of full scale.
    `similarity` is to the voice's prompt, `right_voice_first` whether no other voice's prompt is nearer. `underruns`
    counts how often a player that begins with the first chunk would have had to wait. `measures` are those that only
    its suite has.
    """

    suite: str
    group: str
    id: str
    text: str
    seed: int
    voice: str | None = None
    failure: str | None = None
    heard: str = ""
    heard_words: tuple[dict[str, Any], ...] = ()
    num_words: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    num_characters: int = 0
    character_errors: int = 0
    last_word_heard: bool | None = None
    loops: bool | None = None
    similarity: float | None = None
    right_voice_first: bool | None = None
    signal: float | None = None
    background: float | None = None
    overall: float | None = None
    p808: float | None = None
    duration_s: float | None = None
    trailing_silence_s: float | None = None
    ends_abruptly: bool | None = None
    pace: float | None = None
    pitch_hz: float | None = None
    level_db: float | None = None
    stop_reason: str | None = None
    total_s: float | None = None
    first_audio_s: float | None = None
    underruns: int | None = None
    memory_mb: float | None = None
    codes: tuple[tuple[int, ...], ...] = ()
    codebook_size: int | None = None
    measures: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def word_errors(self) -> int:
        """Word errors of all kinds."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def word_error_rate(self) -> float | None:
        """Of this utterance alone; None for a text without words."""
        return self.word_errors / self.num_words if self.num_words else None

    @property
    def real_time_factor(self) -> float | None:
        """Computing time over audio time."""
        return self.total_s / self.duration_s if self.total_s is not None and self.duration_s else None


@dataclass(frozen=True, eq=False)
class Heard:
    """A clip that has sound in it, and what it can be compared with: `reference` where its request names one, `prompt`
    the voice that it should be as the speaker encoder hears it."""

    request: Request
    clip: Clip
    instruments: Instruments
    reference: Sound | None = None
    prompt: Voice | None = None


Measure = Callable[[Heard], dict[str, float]]
"""What only some suites want to know, by name; empty where it does not apply."""


class Meter:
    """Measures clips with one set of instruments."""

    def __init__(self, instruments: Instruments, *, prompts: Mapping[str, Voice] | None = None) -> None:
        """`prompts` are the voices of the system, by name, as the speaker encoder hears their prompts."""
        self.instruments = instruments
        self.words = WordScorer(instruments.language)
        self.prompts = dict(prompts or {})

    def failed(self, suite: str, request: Request, reason: str, *, voice: str | None = None) -> Row:
        """The row of an utterance that was not delivered."""
        return Row(
            failure=reason,
            **_asked_fields(suite, request, voice),
            **_word_fields(self.best_reading(request.text, request.facts.get("accepted", ()), "")),
        )

    def measure(
        self,
        suite: str,
        request: Request,
        clip: Clip,
        *,
        voice: str | None = None,
        reference: Sound | None = None,
        listens: bool = True,
        besides: Sequence[Measure] = (),
    ) -> Row:
        """The row of a clip; `voice` is the name among the prompts that it should sound like.

        A request that says in its facts that it `is_prompt` is not compared with itself. Without `listens` only lengths
        and times are taken. `besides` are measures of the suite's own, of `reference` perhaps.
        """
        heard = self._listen(request, clip, voice, reference, besides) if listens else {}
        return Row(
            duration_s=clip.sound.duration_s,
            stop_reason=clip.stop_reason,
            total_s=clip.total_s,
            first_audio_s=clip.chunks[0].arrived_s if clip.chunks else None,
            underruns=underruns(clip.chunks) if clip.chunks else None,
            memory_mb=clip.memory_mb,
            codes=clip.codes,
            codebook_size=clip.codebook_size,
            **_asked_fields(suite, request, voice),
            **heard,
        )

    def _listen(
        self,
        request: Request,
        clip: Clip,
        voice: str | None,
        reference: Sound | None,
        besides: Sequence[Measure],
    ) -> dict[str, Any]:
        pcm, rate = clip.sound.pcm, clip.sound.sample_rate
        spoken = clip.sound.duration_s >= LEAST_SECONDS and acoustics.active_span(pcm, rate).duration_s > 0
        transcript = self.instruments.recognizer(pcm, rate) if spoken else Transcript("")
        fields: dict[str, Any] = {
            "heard": transcript.text,
            "heard_words": tuple(
                {"text": word.text, "start_s": round(word.start_s, 3), "end_s": round(word.end_s, 3)}
                for word in transcript.words
            ),
            "loops": self.words.loops(request.text, transcript.text),
            "trailing_silence_s": acoustics.trailing_silence_s(pcm, rate),
            "ends_abruptly": acoustics.ends_abruptly(pcm, rate),
            **_word_fields(self.best_reading(request.text, request.facts.get("accepted", ()), transcript.text)),
        }
        if not spoken:
            return fields
        if request.facts.get("is_prompt"):
            voice = None
        quality = self.instruments.quality_judge(pcm, rate)
        heard = Heard(request, clip, self.instruments, reference, None if voice is None else self.prompts.get(voice))
        measures: dict[str, float] = {}
        for measure in besides:
            measures |= measure(heard)
        return fields | {
            "signal": quality.signal,
            "background": quality.background,
            "overall": quality.overall,
            "p808": quality.p808,
            "pace": acoustics.pace(request.text, pcm, rate),
            "pitch_hz": acoustics.pitch_hz(pcm, rate),
            "level_db": acoustics.level_db(pcm, rate),
            "measures": measures,
            **self._likeness(clip, voice),
        }

    def best_reading(self, text: str, accepted: Sequence[str], heard: str) -> WordErrors:
        """The errors against the accepted reading that is nearest to what was heard; the text itself by default."""
        return min((self.words(reading, heard) for reading in accepted or (text,)), key=lambda e: e.errors)

    def _likeness(self, clip: Clip, voice: str | None) -> dict[str, Any]:
        if voice is None or voice not in self.prompts:
            return {}
        heard = self.instruments.speaker_encoder(clip.sound.pcm, clip.sound.sample_rate)
        if heard is None:
            return {}
        own = similarity(heard, self.prompts[voice])
        others = [similarity(heard, prompt) for name, prompt in self.prompts.items() if name != voice]
        return {"similarity": own, "right_voice_first": all(own > other for other in others) if others else None}


def hear_prompts(
    prompt: Callable[[str], Sound | None], voices: Sequence[str], instruments: Instruments
) -> dict[str, Voice]:
    """The voices by name, as the speaker encoder hears what `prompt` gives for each; those without are left out."""
    prompts = {}
    for voice in voices:
        sound = prompt(voice)
        heard = None if sound is None else instruments.speaker_encoder(sound.pcm, sound.sample_rate)
        if heard is not None:
            prompts[voice] = heard
    return prompts


def underruns(chunks: Sequence[Chunk]) -> int:
    """How often a player that starts with the first chunk and never skips runs dry before the next one arrives."""
    count, played_until = 0, chunks[0].arrived_s
    for chunk in chunks:
        if chunk.arrived_s > played_until:
            count += 1
            played_until = chunk.arrived_s
        played_until += chunk.audio_s
    return count


def _asked_fields(suite: str, request: Request, voice: str | None) -> dict[str, Any]:
    return {
        "suite": suite,
        "group": request.group,
        "id": request.id,
        "text": request.text,
        "seed": request.seed,
        "voice": voice,
        "facts": _kept(request.facts),
    }


def _word_fields(errors: WordErrors) -> dict[str, Any]:
    return {
        "num_words": errors.num_words,
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
        "num_characters": errors.num_characters,
        "character_errors": errors.character_errors,
        "last_word_heard": errors.last_word_heard,
    }


def _kept(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that are plain JSON values; a row is written to disk."""
    return {key: value for key, value in facts.items() if isinstance(value, str | int | float | bool | None)}
