"""A reference to compare with: Piper's `joe` behind OpenAI's `POST /v1/audio/speech`, on this machine alone.

`python -m benchmarks.piper_server --port 8090`, and in another shell
`duologue eval --suite all --model parlor --system piper=server:http://127.0.0.1:8090 --out report`. It answers one
request after the other, in wav whatever format is asked for; `voice` is not looked at, since there is one. Needs the
extra `render`.
"""

from __future__ import annotations

import argparse
import http.server
import io
import json
import sys
import wave

import numpy as np

from duologue.errors import TrainingError
from recipes.parlor.troupes import PiperJoe, Synthesizer

_MAX_BYTES = 1 << 20
_PATH = "/v1/audio/speech"


def make_server(synthesizer: Synthesizer, port: int) -> http.server.HTTPServer:
    """A server on 127.0.0.1; `port` 0 takes any that is free."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                body = json.loads(self.rfile.read(min(int(self.headers.get("Content-Length", 0)), _MAX_BYTES)))
                text = body["input"]
                pace = float(body.get("speed", 1.0))
                if self.path != _PATH or not isinstance(text, str) or not text.strip() or not 0.25 <= pace <= 4:
                    raise ValueError("expected a text as `input` and a `speed` of 0.25 to 4, posted to " + _PATH)
            except (ValueError, KeyError, TypeError) as error:
                self._answer(400, "application/json", json.dumps({"error": {"message": str(error)}}).encode())
                return
            self._answer(200, "audio/wav", wav_bytes(synthesizer(text, pace), synthesizer.sample_rate))

        def _answer(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return http.server.HTTPServer(("127.0.0.1", port), Handler)


def wav_bytes(pcm: np.ndarray[tuple[int], np.dtype[np.float32]], sample_rate: int) -> bytes:
    """A wav file of 16 bits of `pcm [num_samples]` in [-1, 1]."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes((pcm.clip(-1, 1) * np.iinfo(np.int16).max).astype("<i2").tobytes())
    return buffer.getvalue()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.piper_server", description=__doc__)
    parser.add_argument("--port", type=int, default=8090)
    try:
        server = make_server(PiperJoe(), parser.parse_args().port)
    except (TrainingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"http://127.0.0.1:{server.server_port}{_PATH}", file=sys.stderr)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
