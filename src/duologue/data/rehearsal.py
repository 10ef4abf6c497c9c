"""A model's own speech, to be learned beside new recordings, so that it forgets neither its voices nor its words.

Source: Robins, "Catastrophic forgetting, rehearsal and pseudorehearsal" (1995). What a recogniser understands is kept:
a small model slips, and should not learn that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from duologue.audio import resample
from duologue.data.hearing import RATE, Transcriber
from duologue.data.shards import CodedTurn, read_json, shard_name, write_index, write_shard
from duologue.data.turns import disagreement
from duologue.engine.fingerprint import weights_fingerprint
from duologue.engine.generator import Generator
from duologue.engine.scheduler import Scheduler
from duologue.engine.speech import Speech
from duologue.errors import DataError

_SHARD_LINES: Final = 24
_NUM_STREAMS: Final = 8
_LONGEST_MS: Final = 12_000


@dataclass(frozen=True)
class Rehearsed:
    """Lines that are done so far, of `total`, and how many of them were kept."""

    done: int
    total: int
    kept: int


@dataclass(frozen=True)
class _Task:
    """The lines of a shard: text, voice and seed of each."""

    name: str
    lines: tuple[tuple[str, str, int], ...]
    inputs: str


def rehearse(
    generator: Generator,
    lines: Sequence[str],
    folder: Path,
    *,
    voices: Sequence[str] | None = None,
    transcriber: Transcriber | None = None,
    temperature: float = 0.7,
    seed: int = 0,
) -> Iterator[Rehearsed]:
    """Speaks the lines in `voices` by turns (default: all of the model's) into a store of turns; yields each shard.

    Kept is what ended by itself and of which `transcriber` understood every word; without one, all that ended. A low
    `temperature` keeps to the text. Shards that are there stay, so that an interrupted run goes on. Raises `DataError`
    without lines or voices, where `folder` holds shards of others, of another model or of what another recogniser
    understood, and where nothing could be kept; `VoiceError` for a voice that the model has not.
    """
    for name in voices or ():
        generator.voices.get(name)
    voices = voices or generator.voices.shipped_names
    if not lines or not voices:
        raise DataError(f"nothing to rehearse: {'the model has no voices' if lines else 'there are no lines'}")
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "codec": generator.voices.fingerprint,
        "model": weights_fingerprint(generator.model),
        "guidance": generator.model.config.guidance,
        "temperature": temperature,
        "recogniser": None if transcriber is None else transcriber.name,
    }
    tasks = list(_tasks(lines, voices, options, seed))
    kept = 0
    with Scheduler(generator, max_streams=_NUM_STREAMS, max_waiting=_SHARD_LINES) as scheduler:
        for number, task in enumerate(tasks):
            shard = folder / f"{task.name}.json"
            if not shard.exists():
                spoken = _spoken(scheduler, task, temperature, transcriber)
                count = generator.model.num_codebooks
                write_shard(folder, task.name, spoken, num_codebooks=count, about={"inputs": task.inputs})
            made = read_json(shard, f"{shard} has gone")
            if made.get("inputs") != task.inputs:
                raise DataError(
                    f"{folder} holds {task.name} of other lines, another model or another recogniser: choose another "
                    "folder, or empty it"
                )
            kept += len(made["conversations"])
            yield Rehearsed(min(len(lines), (number + 1) * _SHARD_LINES), len(lines), kept)
    if not kept:
        raise DataError(f"nothing to rehearse: of {len(lines)} lines the model said none well enough")
    names = [task.name for task in tasks]
    count = generator.model.num_codebooks
    write_index(folder, names, fingerprint=generator.voices.fingerprint, num_codebooks=count, about={})


def _tasks(lines: Sequence[str], voices: Sequence[str], options: dict[str, Any], seed: int) -> Iterator[_Task]:
    numbered = [(text, voices[place % len(voices)], seed + place) for place, text in enumerate(lines)]
    for first in range(0, len(lines), _SHARD_LINES):
        chosen = tuple(numbered[first : first + _SHARD_LINES])
        asked = json.dumps([options, chosen])
        yield _Task(shard_name(first // _SHARD_LINES), chosen, hashlib.sha256(asked.encode()).hexdigest())


def _spoken(
    scheduler: Scheduler, task: _Task, temperature: float, transcriber: Transcriber | None
) -> list[tuple[str, list[CodedTurn]]]:
    """A conversation of one turn for each line that is kept."""
    orders = [
        scheduler.submit(text, 0, (), _LONGEST_MS, temperature, seed=seed, voice=voice)
        for text, voice, seed in task.lines
    ]
    kept = []
    for (text, voice, seed), order in zip(task.lines, orders, strict=True):
        for _ in order:
            pass  # its result holds the sound as a whole
        assert order.result is not None
        if _says(order.result, text, transcriber):
            codes = order.result.codes.numpy().astype(np.int16)
            kept.append((f"{voice}-{seed}", [CodedTurn(voice, 0, text, codes)]))
    return kept


def _says(speech: Speech, text: str, transcriber: Transcriber | None) -> bool:
    if speech.stop_reason != "end" or not len(speech.audio):
        return False
    if transcriber is None:
        return True
    heard = transcriber(resample(speech.audio, speech.sample_rate, RATE).numpy())
    return disagreement(text, heard.text) == 0.0
