"""A run: every system through every suite, clip by clip, in a folder that an interrupted run goes on from.

The folder holds `run.json` (what is being run), for each system `clips/SYSTEM/SUITE/ID.wav` with a `manifest.jsonl`
that `duologue eval listen` reads, and `rows/SYSTEM/SUITE.jsonl`, one measured utterance a line. A row is kept when it
answers the same request; anything else is asked for again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duologue.audio import write_audio
from duologue.errors import AudioError, ConfigError, EvaluationError
from duologue.eval.clips import Request, Sound, SpeechError, System
from duologue.eval.files import read_text, write_text
from duologue.eval.instruments import Instruments
from duologue.eval.measure import Meter, Row, hear_prompts
from duologue.eval.suites import Suite

_UNNAMED = "unnamed"


@dataclass(frozen=True)
class Progress:
    """Where a run is: utterances done of all, and the one at hand."""

    done: int
    total: int
    system: str
    suite: str
    text: str


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Results:
    """The rows of a run, `rows[system][suite]`, and why a suite was left out for a system, `skipped[system][suite]`."""

    rows: dict[str, dict[str, list[Row]]]
    skipped: dict[str, dict[str, str]]


def run(
    systems: Sequence[System],
    suites: Sequence[Suite],
    folder: Path,
    instruments: Instruments,
    *,
    limit: int | None = None,
    seed: int = 0,
    progress: Report | None = None,
) -> Results:
    """Speaks and measures everything that `folder` does not hold already.

    Raises `EvaluationError` where two systems have one name, or the folder holds a run of other systems or settings.
    """
    names = [system.name for system in systems]
    if len(set(names)) < len(names):
        raise EvaluationError(f"two systems have one name ({', '.join(names)}): give them names with NAME=...")
    _claim(folder, systems, limit=limit, seed=seed)
    plans: dict[str, dict[str, list[Request]]] = {}
    skipped: dict[str, dict[str, str]] = {}
    for system in systems:
        plans[system.name], skipped[system.name] = {}, {}
        for suite in suites:
            reason = suite.needs(system)
            if reason is not None:
                skipped[system.name][suite.name] = reason
            else:
                plans[system.name][suite.name] = suite.requests(system, limit=limit, seed=seed)
    total = sum(len(requests) for plan in plans.values() for requests in plan.values())
    done = 0
    results: dict[str, dict[str, list[Row]]] = {}
    for system in systems:
        results[system.name] = {}
        performer = Performer(system, folder, instruments)
        for name, requests in plans[system.name].items():
            rows = results[system.name].setdefault(name, [])
            with performer.suite(name) as perform:
                for request in requests:
                    if progress is not None:
                        progress(Progress(done, total, system.name, name, request.text))
                    rows.append(perform(request))
                    done += 1
    return Results(results, skipped)


def _claim(folder: Path, systems: Sequence[System], *, limit: int | None, seed: int) -> None:
    """Writes `run.json`, or checks that the folder's is of the same systems and seed."""
    wanted = {"systems": {system.name: system.describe() for system in systems}, "seed": seed}
    wanted = json.loads(json.dumps(wanted))
    path = folder / "run.json"
    if path.exists():
        try:
            held = json.loads(read_text(path, "another folder"))
        except json.JSONDecodeError as error:
            raise EvaluationError(f"{path} is not readable ({error}): give another folder") from error
        if held != wanted:
            raise EvaluationError(f"{folder} holds a run of other systems or another seed: give another folder")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(wanted, indent=2, ensure_ascii=False) + "\n")


class Performer:
    """One system in one run's folder."""

    def __init__(self, system: System, folder: Path, instruments: Instruments) -> None:
        self.system, self.folder = system, folder
        self._instruments = instruments
        self._meter: Meter | None = None

    @property
    def meter(self) -> Meter:
        """Loads the instruments and listens to the voices' prompts, once, when first something is to be measured."""
        if self._meter is None:
            self._meter = Meter(self._instruments, prompts=hear_prompts(self.system, self._instruments))
        return self._meter

    def suite(self, name: str) -> SuiteRun:
        """A context in which requests of one suite are performed."""
        return SuiteRun(self, name)


class SuiteRun:
    """Performs requests, or finds what an earlier run has of them; usable in a `with` block, which closes the files."""

    def __init__(self, performer: Performer, name: str) -> None:
        self._performer, self._name = performer, name
        self._clips = performer.folder / "clips" / performer.system.name / name
        self._path = performer.folder / "rows" / performer.system.name / f"{name}.jsonl"
        self._known: dict[str, Row] = {}

    def __enter__(self) -> SuiteRun:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._clips.mkdir(parents=True, exist_ok=True)
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        for line in lines:
            try:
                entry = json.loads(line)
                self._known[entry["key"]] = Row.from_dict(entry["row"])
            except (json.JSONDecodeError, KeyError, TypeError, ConfigError):
                continue  # the line that was being written when the run was ended
        self._sheet = self._path.open("a", encoding="utf-8")
        if lines and not self._path.read_text(encoding="utf-8").endswith("\n"):
            self._sheet.write("\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._sheet.close()
        self._write_manifest()

    def __call__(self, request: Request) -> Row:
        """The row of the request; a system's failure is a row too."""
        key = request_key(request)
        if key not in self._known:
            row = self._perform(request)
            self._sheet.write(json.dumps({"key": key, "row": row.to_dict()}, ensure_ascii=False) + "\n")
            self._sheet.flush()
            self._known[key] = row
        return self._known[key]

    def _perform(self, request: Request) -> Row:
        system, meter = self._performer.system, self._performer.meter
        voice = request.voice if request.voice is not None else next(iter(system.voices()), None)
        path = clip_path(self._clips, request.id)
        try:
            clip = system.speak(request)
            if not len(clip.sound.pcm):
                raise SpeechError("the audio is empty (0 s)")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, clip.sound.pcm.clamp(-1, 1), clip.sound.sample_rate)
        except (SpeechError, AudioError) as error:
            path.unlink(missing_ok=True)
            return meter.failed(self._name, request, str(error), voice=voice)
        return meter.measure(self._name, request, clip, voice=voice)

    def _write_manifest(self) -> None:
        entries = [
            {"id": row.id, "file": clip_path(Path(), row.id).as_posix(), "text": row.text}
            for row in self._known.values()
            if row.failure is None
        ]
        lines = [json.dumps(entry, ensure_ascii=False) for entry in entries]
        write_text(self._clips / "manifest.jsonl", "".join(line + "\n" for line in lines))


def clip_path(folder: Path, identity: str) -> Path:
    """Where the clip of a request lies below its suite's folder."""
    parts = [part.replace("\\", "_") for part in identity.split("/") if part not in ("", ".", "..")]
    return folder.joinpath(*(parts or [_UNNAMED])).with_name((parts or [_UNNAMED])[-1] + ".wav")


def request_key(request: Request) -> str:
    """A fingerprint of all that a request asks for, the sound of its context included."""
    digest = hashlib.blake2b(digest_size=16)
    facts = {key: value for key, value in request.facts.items() if isinstance(value, str | int | float | bool | tuple)}
    plain: list[Any] = [request.id, request.group, request.text, request.seed, request.speaker, request.voice, facts]
    digest.update(json.dumps(plain, ensure_ascii=False, default=list).encode())
    for turn in request.context:
        digest.update(json.dumps([turn.speaker, turn.text]).encode())
        digest.update(_sound_bytes(turn.sound))
    return digest.hexdigest()


def _sound_bytes(sound: Sound | None) -> bytes:
    if sound is None:
        return b""
    return str(sound.sample_rate).encode() + sound.pcm.contiguous().numpy().tobytes()
