"""A Duologue model under test, in this process."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from duologue.audio import resample
from duologue.codec.mimi import Mimi
from duologue.engine.fingerprint import weights_fingerprint
from duologue.engine.generator import Generator
from duologue.errors import DuologueError, DuologueWarning
from duologue.eval import memory
from duologue.eval.clips import Chunk, Clip, OwnLine, Request, Sound, SpeechError
from duologue.frames import Segment

CAP_S = 20.0


@dataclass(frozen=True)
class ModelOptions:
    """How a model is asked to speak; None is up to its checkpoint.

    `voice` is spoken in where a request names none. An utterance of `cap_s` is cut, so that a model that never stops
    shows.
    """

    voice: str | None = None
    temperature: float | None = None
    topk: int | None = None
    guidance: float | None = None
    cap_s: float = CAP_S

    def sampling(self) -> dict[str, Any]:
        """The options of sampling that are given."""
        given = {"temperature": self.temperature, "topk": self.topk, "guidance": self.guidance}
        return {name: value for name, value in given.items() if value is not None}


class ModelSystem:
    """Speaks with a generator that is loaded when it is first needed."""

    speaks = True
    takes_context = True
    is_timed = True

    def __init__(
        self, name: str, load: Callable[[], Generator], *, source: str, options: ModelOptions | None = None
    ) -> None:
        """`source` is what the report says that `load` loads."""
        self.name = name
        self._load, self._source, self._options = load, source, options or ModelOptions()
        self._generator: Generator | None = None
        self._known_voices: list[str] | None = None
        self._fingerprint: str | None = None

    @property
    def generator(self) -> Generator:
        """The loaded generator. Raises what loading raises, and `VoiceError` where it has no such voice."""
        if self._generator is None:
            generator = self._load()
            if self._options.voice is not None:
                generator.find_voice(self._options.voice)
            self._generator = generator
        return self._generator

    def open(self) -> None:
        _ = self.generator
        self.voices()  # both known from now on, without the model
        self.describe()

    def close(self) -> None:
        self._generator = None

    def describe(self) -> dict[str, Any]:
        options = self._options
        if self._fingerprint is None:
            self._fingerprint = weights_fingerprint(self.generator.model)
        return {
            "kind": "model",
            "model": self._source,
            "weights": self._fingerprint,
            "voice": options.voice,
            "cap_s": options.cap_s,
            **options.sampling(),
        }

    def voices(self) -> list[str]:
        if self._known_voices is None:
            first = [] if self._options.voice is None else [self._options.voice]
            self._known_voices = [*first, *(name for name in self.generator.voices.shipped_names if name not in first)]
        return list(self._known_voices)

    def prompt(self, voice: str) -> Sound | None:
        segments = self.generator.find_voice(voice).segments
        if not segments:
            return None
        codes = segments[0].codes[None].to(next(self.generator.codec.parameters()).device)
        return Sound(self.generator.codec.decode(codes)[0, 0].cpu(), self.generator.sample_rate)

    def own_lines(self) -> list[OwnLine] | None:
        return None

    def speak(self, request: Request) -> Clip:
        generator, rate = self.generator, self.generator.sample_rate
        context = [
            Segment(turn.speaker, turn.text, None if turn.sound is None else _at(turn.sound, rate))
            for turn in request.context
        ]
        is_counted = memory.reset_peak()
        started = time.perf_counter()
        chunks = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DuologueWarning)  # the cap and what did not fit are in the result
                stream = generator.stream(
                    request.text,
                    request.speaker,
                    context,
                    max_audio_length_ms=1000 * self._options.cap_s,
                    seed=request.seed,
                    voice=request.voice or self._options.voice,
                    **self._options.sampling(),
                )
                for chunk in stream:
                    chunks.append(Chunk(time.perf_counter() - started, len(chunk) / rate))
        except DuologueError as error:
            raise SpeechError(str(error)) from error
        assert stream.result is not None
        return Clip(
            Sound(stream.result.audio, rate),
            time.perf_counter() - started,
            tuple(chunks),
            "end" if stream.result.stop_reason == "end" else "cap",
            memory.peak_mb() if is_counted else None,
        )

    def recode(self, sound: Sound) -> Clip:
        return recode(self.generator.codec, sound, self.generator.model.num_codebooks)


def recode(codec: Mimi, sound: Sound, num_codebooks: int) -> Clip:
    """A recording through a codec and back, as long as it was, with the codes of the first `num_codebooks`."""
    pcm = _at(sound, codec.sample_rate)
    started = time.perf_counter()
    device = next(codec.parameters()).device
    codes = codec.encode(pcm[None, None].to(device))[:, :num_codebooks]  # [1, K, T]
    decoded = codec.decode(codes)[0, 0, : len(pcm)].cpu()
    return Clip(
        Sound(decoded, codec.sample_rate),
        time.perf_counter() - started,
        codes=tuple(tuple(row) for row in codes[0].tolist()),
        codebook_size=codec.config.codebook_size,
    )


def _at(sound: Sound, rate: int) -> Tensor:
    return resample(sound.pcm, sound.sample_rate, rate)
