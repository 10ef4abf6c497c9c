"""Any program that writes speech to a file: `mytts --text {text} --out {wav}`."""

from __future__ import annotations

import os
import shlex
import signal
import string
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from duologue.audio import read_audio
from duologue.errors import AudioError, OptionError
from duologue.eval.clips import Clip, OwnLine, Request, Sound, SpeechError

TIMEOUT_S = 120.0
_FIELDS = {"text", "wav", "voice", "seed"}


class CommandSystem:
    """Runs the command once an utterance, without a shell: a field is part of one argument, whatever it holds."""

    speaks = True
    takes_context = False
    is_timed = True

    def __init__(self, name: str, template: str, *, voices: tuple[str, ...] = (), timeout_s: float = TIMEOUT_S) -> None:
        """Raises `OptionError` for a template without {text} or {wav}, or with a field that does not exist."""
        self.name = name
        self._template, self._voices, self._timeout_s = template, voices, timeout_s
        try:
            self._arguments = shlex.split(template)
            fields = {field for part in self._arguments for _, field, _, _ in string.Formatter().parse(part)} - {None}
        except ValueError as error:
            raise OptionError(f"the command {template!r} cannot be read ({error})") from None
        if not {"text", "wav"} <= fields or fields - _FIELDS:
            raise OptionError(
                f"the command {template!r} needs {{text}} and {{wav}}, and may have {{voice}} and {{seed}}; "
                "write braces of its own twice"
            )

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        return {"kind": "command", "command": self._template, "voices": list(self._voices)}

    def voices(self) -> list[str]:
        return list(self._voices)

    def prompt(self, voice: str) -> Sound | None:
        return None

    def own_lines(self) -> list[OwnLine] | None:
        return None

    def speak(self, request: Request) -> Clip:
        with tempfile.TemporaryDirectory(prefix="duologue-eval-") as folder:
            path = Path(folder) / "speech.wav"
            voice = request.voice or (self._voices[0] if self._voices else "")
            values = {"text": request.text, "wav": str(path), "voice": voice, "seed": str(request.seed)}
            arguments = [part.format_map(values) for part in self._arguments]
            started = time.perf_counter()
            self._run(arguments)
            total_s = time.perf_counter() - started
            if not path.is_file():
                raise SpeechError(f"{arguments[0]} ended well and wrote no file at {{wav}}")
            try:
                pcm, rate = read_audio(path)
            except AudioError as error:
                raise SpeechError(f"{arguments[0]} wrote no usable audio: {error}") from error
        return Clip(Sound(pcm, rate), total_s)

    def _run(self, arguments: list[str]) -> None:
        try:
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,  # so that what it starts in turn can be ended with it
            )
        except OSError as error:
            raise SpeechError(f"{arguments[0]} cannot be run: {error.strerror}") from error
        try:
            _, complaint = process.communicate(timeout=self._timeout_s)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise SpeechError(f"{arguments[0]} took longer than {self._timeout_s:g} s") from error
            raise
        if process.returncode:
            lines = complaint.decode("utf-8", "replace").strip().splitlines()
            raise SpeechError(
                f"{arguments[0]} ended with code {process.returncode}" + (f": {lines[-1]}" if lines else "")
            )
