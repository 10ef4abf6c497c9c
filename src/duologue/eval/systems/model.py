"""A Duologue model under test, in this process."""

from __future__ import annotations

import time
import warnings
from typing import Any

from duologue.audio import resample
from duologue.engine.generator import Generator
from duologue.errors import DuologueError, DuologueWarning
from duologue.eval.clips import Chunk, Clip, OwnLine, Request, Sound, SpeechError
from duologue.frames import Segment

CAP_S = 20.0


class ModelSystem:
    """Speaks with a loaded generator; every utterance has the cap `cap_s`, so that a model that never stops shows."""

    is_timed = True

    def __init__(
        self,
        name: str,
        generator: Generator,
        *,
        source: str,
        voice: str | None = None,
        temperature: float | None = None,
        topk: int | None = None,
        guidance: float | None = None,
        cap_s: float = CAP_S,
    ) -> None:
        """`voice` is spoken in where a request names none; how codes are drawn is up to the generator unless given."""
        self.name = name
        self.generator = generator
        self._source, self._voice, self._cap_s = source, voice, cap_s
        if voice is not None:
            generator.find_voice(voice)
        self._sampling = {
            key: value
            for key, value in (("temperature", temperature), ("topk", topk), ("guidance", guidance))
            if value is not None
        }

    def describe(self) -> dict[str, Any]:
        return {"kind": "model", "model": self._source, "voice": self._voice, "cap_s": self._cap_s, **self._sampling}

    def voices(self) -> list[str]:
        return list(self.generator.voices.shipped_names)

    def prompt(self, voice: str) -> Sound | None:
        segments = self.generator.find_voice(voice).segments
        if not segments:
            return None
        codes = segments[0].codes[None].to(next(self.generator.codec.parameters()).device)
        return Sound(self.generator.codec.decode(codes)[0, 0].cpu(), self.generator.sample_rate)

    def own_lines(self) -> list[OwnLine] | None:
        return None

    def speak(self, request: Request) -> Clip:
        rate = self.generator.sample_rate
        context = [
            Segment(
                turn.speaker,
                turn.text,
                None if turn.sound is None else resample(turn.sound.pcm, turn.sound.sample_rate, rate),
            )
            for turn in request.context
        ]
        voice = request.voice or self._voice
        started = time.perf_counter()
        chunks = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DuologueWarning)  # the cap and what did not fit are in the result
                stream = self.generator.stream(
                    request.text,
                    request.speaker,
                    context,
                    max_audio_length_ms=1000 * self._cap_s,
                    seed=request.seed,
                    voice=voice,
                    **self._sampling,  # type: ignore[arg-type]
                )
                for chunk in stream:
                    chunks.append(Chunk(time.perf_counter() - started, len(chunk) / rate))
        except DuologueError as error:
            raise SpeechError(str(error)) from error
        assert stream.result is not None
        return Clip(
            Sound(stream.result.audio, rate), time.perf_counter() - started, tuple(chunks), stream.result.stop_reason
        )
