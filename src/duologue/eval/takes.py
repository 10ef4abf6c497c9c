"""What the systems of a run have said, in the run's folder.

For each system: `clips/SYSTEM/SUITE/ID.wav` with a `manifest.jsonl` that `duologue eval listen` reads,
`prompts/SYSTEM/VOICE.wav`, the recordings that define its voices, and `takes/SYSTEM/SUITE.jsonl`, what is known of each
clip besides its sound.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from duologue.audio import read_audio, write_audio
from duologue.config import JsonConfig
from duologue.errors import AudioError, ConfigError
from duologue.eval.clips import Change, Chunk, Clip, ContextTurn, Recoder, Request, Sound, SpeechError, System
from duologue.eval.files import Journal, write_text
from duologue.eval.suites.conversation import alter

_UNNAMED = "unnamed"


@dataclass(frozen=True)
class Take(JsonConfig):
    """A clip without its sound, as `Clip`; or the reason why there is none."""

    failure: str | None = None
    total_s: float | None = None
    chunks: tuple[Chunk, ...] = ()
    stop_reason: str | None = None
    memory_mb: float | None = None
    codes: tuple[tuple[int, ...], ...] = ()
    codebook_size: int | None = None

    @staticmethod
    def of(clip: Clip) -> Take:
        """What is kept of a clip."""
        return Take(None, clip.total_s, clip.chunks, clip.stop_reason, clip.memory_mb, clip.codes, clip.codebook_size)

    def clip(self, sound: Sound) -> Clip:
        """The clip again."""
        return Clip(sound, self.total_s, self.chunks, self.stop_reason, self.memory_mb, self.codes, self.codebook_size)


@dataclass(frozen=True, eq=False)
class Taken:
    """A request and what came of it; `key` changes with everything that was asked for, the history's sound included."""

    request: Request
    key: str
    take: Take


class Takes:
    """The takes of one system in a run's folder."""

    def __init__(self, folder: Path, system: str) -> None:
        self._folder, self._system = folder, system

    def path(self, suite: str, identity: str) -> Path:
        """Where the clip of a request lies."""
        return clip_path(self._folder / "clips" / self._system / suite, identity)

    def sound(self, suite: str, identity: str) -> Sound | None:
        """The clip of an earlier request as it is kept; None where there is none."""
        return _read(self.path(suite, identity))

    def journal(self, suite: str) -> Journal:
        """What is known of the clips of a suite."""
        return Journal(self._folder / "takes" / self._system / f"{suite}.jsonl")

    def prompt(self, voice: str) -> Sound | None:
        """The recording that defines a voice, if it was kept."""
        return _read(clip_path(self._folder / "prompts" / self._system, voice))

    def keep_prompts(self, system: System) -> None:
        """Writes the recordings that define the voices of the system, where they are not there already."""
        for voice in system.voices():
            path = clip_path(self._folder / "prompts" / self._system, voice)
            if path.is_file():
                continue
            try:
                sound = system.prompt(voice)
            except SpeechError:
                continue  # a recording that cannot be opened; it is counted where it is a line of its own
            if sound is not None and len(sound.pcm):
                _write(path, sound)

    def perform(self, system: System, suite: str, request: Request, journal: Journal) -> Taken:
        """Has the request spoken, unless its clip is here; a failure is a take too, and tried again in another run.

        Raises `AudioError` where the clip cannot be written.
        """
        try:
            request = self._with_history(suite, request)
        except SpeechError as error:
            return Taken(request, request_key(request), Take(failure=str(error)))
        key, path = request_key(request), self.path(suite, request.id)
        take = _known_take(journal.get(key))
        if take is None or take.failure is not None or not path.is_file():
            take = self._perform(system, request, path)
            journal.put(key, take.to_dict())
        return Taken(request, key, take)

    def _perform(self, system: System, request: Request, path: Path) -> Take:
        try:
            clip = _clip(system, request)
            if not len(clip.sound.pcm):
                raise SpeechError("the audio is empty (0 s)")
        except (SpeechError, AudioError) as error:
            path.unlink(missing_ok=True)
            return Take(failure=str(error))
        _write(path, clip.sound)
        return Take.of(clip)

    def _with_history(self, suite: str, request: Request) -> Request:
        """The request with the sounds of the turns that the system itself has spoken."""
        return replace(request, context=tuple(self._with_sound(suite, turn) for turn in request.context))

    def _with_sound(self, suite: str, turn: ContextTurn) -> ContextTurn:
        if turn.clip is None:
            return turn
        sound = self.sound(suite, turn.clip)
        if sound is None:
            raise SpeechError(f"the turn {turn.clip} before it was not delivered")
        return replace(turn, sound=alter(sound, turn.change))

    def write_manifest(self, suite: str, requests: Iterable[Request]) -> None:
        """Names the clips that were delivered, with their texts and what came before them."""
        folder = self._folder / "clips" / self._system / suite
        delivered = [request for request in requests if self.path(suite, request.id).is_file()]
        folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(_manifest_entry(request), ensure_ascii=False) for request in delivered]
        write_text(folder / "manifest.jsonl", "".join(line + "\n" for line in lines))


def _manifest_entry(request: Request) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": request.id,
        "file": clip_path(Path(), request.id).as_posix(),
        "text": request.text,
    }
    if request.context:
        entry["context"] = [
            {"speaker": turn.speaker, "text": turn.text}
            | ({"file": clip_path(Path(), str(turn.clip)).as_posix()} if _is_a_clip(turn) else {})
            for turn in request.context
        ]
    return entry


def _is_a_clip(turn: ContextTurn) -> bool:
    """Whether what was heard of the turn lies in a file as it was."""
    return turn.clip is not None and turn.change == Change()


def _clip(system: System, request: Request) -> Clip:
    if request.original is None:
        return system.speak(request)
    if not request.recode:
        return Clip(request.original)
    if not isinstance(system, Recoder):
        raise SpeechError("it has no codec")
    return system.recode(request.original)


def _known_take(value: dict[str, Any] | None) -> Take | None:
    try:
        return None if value is None else Take.from_dict(value)
    except ConfigError:
        return None  # of another version of duologue: spoken again


def _read(path: Path) -> Sound | None:
    return Sound(*read_audio(path)) if path.is_file() else None


def _write(path: Path, sound: Sound) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, sound.pcm.clamp(-1, 1), sound.sample_rate)


def clip_path(folder: Path, identity: str) -> Path:
    """Where the clip of a request lies below its suite's folder."""
    parts = [part.replace("\\", "_") for part in identity.split("/") if part not in ("", ".", "..")]
    return folder.joinpath(*(parts or [_UNNAMED])).with_name((parts or [_UNNAMED])[-1] + ".wav")


def request_key(request: Request) -> str:
    """A fingerprint of all that a request asks for, the sound of its history included."""
    digest = hashlib.blake2b(digest_size=16)
    facts = {key: value for key, value in request.facts.items() if isinstance(value, str | int | float | bool | tuple)}
    plain: list[Any] = [
        request.id,
        request.group,
        request.text,
        request.seed,
        request.speaker,
        request.voice,
        facts,
        request.reference,
        request.recode,
    ]
    digest.update(json.dumps(plain, ensure_ascii=False, default=list).encode())
    for turn in request.context:
        digest.update(json.dumps([turn.speaker, turn.text]).encode())
        digest.update(_sound_bytes(turn.sound))
    digest.update(_sound_bytes(request.original))
    return digest.hexdigest()


def _sound_bytes(sound: Sound | None) -> bytes:
    if sound is None:
        return b""
    return str(sound.sample_rate).encode() + sound.pcm.contiguous().numpy().tobytes()
