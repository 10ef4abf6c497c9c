"""Recordings under test: real speech, or what another system once said.

The folder holds `manifest*.jsonl`, one JSON object a line: `{"file": "a.wav", "text": "...", "voice": "..."}`, where
`voice` is optional, or a conversation as in the training corpus, `{"file", "sample_rate", "turns": [{"voice", "text",
"start", "end"}]}`, of which every turn is a recording.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duologue.audio import read_audio
from duologue.errors import AudioError, EvaluationError
from duologue.eval.clips import Clip, OwnLine, Request, Sound, SpeechError
from duologue.eval.files import read_text

PROMPT_S = 3.0  # shorter prompts tell related voices apart less well: docs/calibration.md
_MARGIN_S = 0.1


@dataclass(frozen=True)
class _Recording:
    path: Path
    text: str
    voice: str | None
    start_s: float | None = None
    end_s: float | None = None


class RecordedSystem:
    """Plays the recording of the line that is asked for, and nothing else."""

    speaks = True
    takes_context = False
    is_timed = False

    def __init__(self, name: str, folder: Path, *, pattern: str = "manifest*.jsonl") -> None:
        """Raises `EvaluationError` for a folder without a manifest, and for a line that lacks what is needed."""
        self.name = name
        self._folder, self._pattern = folder, pattern
        manifests = sorted(folder.glob(pattern)) if folder.is_dir() else []
        if not manifests:
            raise EvaluationError(
                f"no {pattern} in {folder}; expected one with a line "
                '{"file": "a.wav", "text": "what it says"} for each recording'
            )
        self._recordings: dict[str, _Recording] = {}
        for manifest in manifests:
            self._read(manifest)
        if not self._recordings:
            raise EvaluationError(f"the manifests in {folder} name no recordings")
        self._opened: tuple[Path, Sound] | None = None
        self._prompts: dict[str, str | None] = {}  # ids by voice

    def _read(self, manifest: Path) -> None:
        # Not splitlines, which also cuts at signs that a text may have.
        lines = read_text(manifest, "a manifest in UTF-8").split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                path = manifest.parent / entry["file"]
                stem = Path(entry["file"]).with_suffix("").as_posix()
                if "turns" not in entry:
                    voice = entry.get("voice")
                    self._recordings[stem] = _Recording(path, str(entry["text"]), None if voice is None else str(voice))
                    continue
                rate = int(entry["sample_rate"])
                for index, turn in enumerate(entry["turns"]):
                    span = int(turn["start"]) / rate, int(turn["end"]) / rate
                    self._recordings[f"{stem}.{index}"] = _Recording(path, str(turn["text"]), str(turn["voice"]), *span)
            except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
                raise EvaluationError(f"{manifest}:{number}: not a line of a manifest ({error!r})") from error

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "recordings",
            "folder": self._folder.name,
            "manifests": self._pattern,
            "recordings": len(self._recordings),
            "fingerprint": self._fingerprint(),
        }

    def _fingerprint(self) -> str:
        """What tells these recordings from others of the same names: their texts and sizes."""
        digest = hashlib.sha256()
        for identity, item in self._recordings.items():
            size = item.path.stat().st_size if item.path.is_file() else None
            span = [item.start_s, item.end_s]
            digest.update(json.dumps([identity, item.text, item.voice, span, size]).encode())
        return digest.hexdigest()[:16]

    def voices(self) -> list[str]:
        return sorted({item.voice for item in self._recordings.values() if item.voice is not None})

    def prompt(self, voice: str) -> Sound | None:
        """The recording of `prompt_line`."""
        identity = self.prompt_line(voice)
        return None if identity is None else self._open(self._recordings[identity])

    def prompt_line(self, voice: str) -> str | None:
        """The id of the voice's first recording of 3 s or more that can be opened, or its first; None without one."""
        if voice not in self._prompts:
            self._prompts[voice] = self._find_prompt(voice)
        return self._prompts[voice]

    def _find_prompt(self, voice: str) -> str | None:
        own = [identity for identity, item in self._recordings.items() if item.voice == voice]
        for identity in own:
            try:
                if self._open(self._recordings[identity]).duration_s >= PROMPT_S:
                    return identity
            except SpeechError:
                continue  # it is counted as failed where it is a line of its own
        return own[0] if own else None

    def own_lines(self) -> list[OwnLine]:
        prompts = {self.prompt_line(voice) for voice in self.voices()}
        return [OwnLine(key, item.text, item.voice, key in prompts) for key, item in self._recordings.items()]

    def speak(self, request: Request) -> Clip:
        item = self._recordings.get(str(request.facts.get("own_line", "")))
        if item is None:
            raise SpeechError("there is no recording of this line")
        return Clip(self._open(item))

    def _open(self, item: _Recording) -> Sound:
        try:
            if self._opened is None or self._opened[0] != item.path:
                self._opened = item.path, Sound(*read_audio(item.path))
        except AudioError as error:
            raise SpeechError(str(error)) from error
        whole = self._opened[1]
        if item.start_s is None or item.end_s is None:
            return whole
        first = max(0, round((item.start_s - _MARGIN_S) * whole.sample_rate))
        last = round((item.end_s + _MARGIN_S) * whole.sample_rate)
        part = whole.pcm[first:last]
        if not len(part):
            raise SpeechError(f"{item.path}: the turn lies beyond the recording's end")
        return Sound(part, whole.sample_rate)
