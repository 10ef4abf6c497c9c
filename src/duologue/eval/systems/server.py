"""Any server with OpenAI's `POST /v1/audio/speech`.

Source: OpenAI, API reference, "Create speech": a JSON body with `model`, `input`, `voice`, `response_format`; the
answer is the audio file itself.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from duologue.audio import read_audio
from duologue.errors import AudioError, OptionError
from duologue.eval.clips import Clip, OwnLine, Request, Sound, SpeechError

TIMEOUT_S = 120.0
_PATH = "/v1/audio/speech"
_MAX_BYTES = 1 << 28
_EXCERPT = 120


@dataclass(frozen=True)
class ServerOptions:
    """What is sent along: the server's model name, its voices (the first is the default), a bearer token."""

    model: str = "tts-1"
    voices: tuple[str, ...] = ("alloy",)
    token: str | None = None
    timeout_s: float = TIMEOUT_S


class ServerSystem:
    """Asks for one wav file an utterance. Its times include the way there and back."""

    speaks = True
    takes_context = False
    is_timed = True

    def __init__(self, name: str, url: str, options: ServerOptions | None = None) -> None:
        """`url` is the server's root, with or without `/v1`. Raises `OptionError` for one that is no http address."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"server {url!r}; expected an address such as http://127.0.0.1:8000")
        self.name = name
        root = url.rstrip("/").removesuffix(_PATH).removesuffix("/v1")
        self._url, self._options = root + _PATH, options or ServerOptions()

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def describe(self) -> dict[str, Any]:
        options = self._options
        return {"kind": "server", "url": self._url, "model": options.model, "voices": list(options.voices)}

    def voices(self) -> list[str]:
        return list(self._options.voices)

    def prompt(self, voice: str) -> Sound | None:
        return None

    def own_lines(self) -> list[OwnLine] | None:
        return None

    def speak(self, request: Request) -> Clip:
        options = self._options
        body = {
            "model": options.model,
            "input": request.text,
            "voice": request.voice or options.voices[0],
            "response_format": "wav",
        }
        headers = {"Content-Type": "application/json", "Accept": "audio/wav"}
        if options.token:
            headers["Authorization"] = f"Bearer {options.token}"
        asked = urllib.request.Request(self._url, json.dumps(body).encode(), headers, method="POST")
        started = time.perf_counter()
        data, kind = self._fetch(asked, started)
        total_s = time.perf_counter() - started
        if not data:
            raise SpeechError("the server answered with no audio (0 bytes)")
        try:
            pcm, rate = read_audio(data)
        except AudioError as error:
            raise SpeechError(f"the server's answer ({kind or 'no content type'}) is no audio: {error}") from error
        return Clip(Sound(pcm, rate), total_s)

    def _fetch(self, asked: urllib.request.Request, started: float) -> tuple[bytes, str]:
        """The answer's bytes and content type; the time limit holds for the whole, not for each read alone."""
        limit = self._options.timeout_s
        pieces: list[bytes] = []
        size = 0
        try:
            with urllib.request.urlopen(asked, timeout=limit) as answer:
                while piece := answer.read1(1 << 16):
                    pieces.append(piece)
                    size += len(piece)
                    if time.perf_counter() - started > limit:
                        raise TimeoutError
                    if size > _MAX_BYTES:
                        raise SpeechError(f"the server sent more than {_MAX_BYTES >> 20} MiB")
                return b"".join(pieces), str(answer.headers.get("Content-Type", ""))
        except urllib.error.HTTPError as error:
            excerpt = " ".join(error.read(2000).decode("utf-8", "replace").split())[:_EXCERPT]
            raise SpeechError(f"the server answered {error.code}" + (f": {excerpt}" if excerpt else "")) from error
        except TimeoutError as error:
            raise SpeechError(f"the server took longer than {limit:g} s") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise SpeechError(f"the server took longer than {limit:g} s") from error
            raise SpeechError(f"the server cannot be reached at {self._url}: {error.reason}") from error
        except (http.client.HTTPException, OSError) as error:
            raise SpeechError(f"the server broke off: {error!r}") from error
