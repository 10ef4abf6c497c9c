"""Systems under test, good ones and bad: every failure is told in one line and none ends the run."""

import http.server
import io
import json
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from duologue.audio import write_audio
from duologue.errors import EvaluationError, OptionError
from duologue.eval.clips import Request, SpeechError
from duologue.eval.systems import CommandSystem, RecordedSystem, ServerSystem
from duologue.eval.systems.server import ServerOptions

RATE = 16_000


def request(text: str = "Hello there.", **facts: str) -> Request:
    return Request("plain/001", "plain", text, seed=3, facts=dict(facts))


def wav(seconds: float = 0.5) -> bytes:
    target = io.BytesIO()
    write_audio(target, 0.1 * torch.ones(round(seconds * RATE)), RATE, "wav")
    return target.getvalue()


class Answers(http.server.BaseHTTPRequestHandler):
    """Says what the requested voice stands for, and remembers what it was asked."""

    asked: ClassVar[list[dict[str, object]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "authorization": self.headers.get("Authorization"), **body})
        kind = body["voice"]
        if kind == "error":
            self.reply(503, b'{"error": {"message": "no free\\nslot"}}', "application/json")
        elif kind == "html":
            self.reply(200, b"<html><body>Welcome</body></html>", "text/html")
        elif kind == "empty":
            self.reply(200, b"", "audio/wav")
        elif kind == "truncated":
            self.reply(200, wav()[:1000], "audio/wav")
        elif kind == "slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(20):  # never silent for long, and never done
                try:
                    self.wfile.write(b"RIFF")
                    self.wfile.flush()
                except OSError:
                    return
                time.sleep(0.1)
        elif kind == "silent":
            time.sleep(1.0)
        else:
            self.reply(200, wav(), "audio/wav")

    def reply(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    Answers.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/", "/v1/audio/speech"])
def test_a_server_is_asked_as_openai_is(server: str, suffix: str) -> None:
    options = ServerOptions("tts", ("nova",), token="secret")
    clip = ServerSystem("s", server + suffix, options).speak(request())
    assert clip.sound.sample_rate == RATE and len(clip.sound.pcm) == RATE // 2
    assert clip.total_s is not None and clip.total_s > 0
    assert Answers.asked == [
        {
            "path": "/v1/audio/speech",
            "authorization": "Bearer secret",
            "model": "tts",
            "input": "Hello there.",
            "voice": "nova",
            "response_format": "wav",
        }
    ]


@pytest.mark.parametrize(
    ("voice", "reason"),
    [
        ("error", "answered 503: .*no free"),
        ("html", r"\(text/html\) is no audio"),
        ("empty", r"no audio \(0 bytes\)"),
        ("truncated", "is no audio"),
        ("slow", "took longer than 0.4 s"),
        ("silent", "took longer than 0.4 s"),
    ],
)
def test_a_bad_answer_is_a_failure_with_its_reason(server: str, voice: str, reason: str) -> None:
    system = ServerSystem("s", server, ServerOptions(voices=(voice,), timeout_s=0.4))
    with pytest.raises(SpeechError, match=reason) as caught:
        system.speak(request())
    assert "\n" not in str(caught.value)


def test_a_server_that_is_down() -> None:
    with pytest.raises(SpeechError, match=r"cannot be reached at http://127\.0\.0\.1:9/v1/audio/speech"):
        ServerSystem("s", "http://127.0.0.1:9").speak(request())


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://127.0.0.1", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match="expected an address such as"):
        ServerSystem("s", url)


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "speak.py"
    path.write_text(f"import sys, time, pathlib\ntext, wav = sys.argv[1:3]\n{body}\n")
    return f"{sys.executable} {path} {{text}} {{wav}}"


def test_a_command_gets_text_and_file_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "good.wav").write_bytes(wav())
    command = script(
        tmp_path,
        f"pathlib.Path({str(tmp_path / 'heard')!r}).write_text(text)\n"
        f"pathlib.Path(wav).write_bytes(pathlib.Path({str(tmp_path / 'good.wav')!r}).read_bytes())",
    )
    text = 'It\'s "fine"; $(touch /tmp/x) {text} & more.'
    clip = CommandSystem("c", command).speak(request(text))
    assert clip.sound.duration_s == pytest.approx(0.5)
    assert (tmp_path / "heard").read_text() == text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("sys.exit('no such voice')", "ended with code 1: no such voice"),
        ("pass", "wrote no file"),
        ("pathlib.Path(wav).write_text('hello')", "wrote no usable audio"),
        ("time.sleep(5)", "took longer than 0.5 s"),
    ],
)
def test_a_command_that_fails(tmp_path: Path, body: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(SpeechError, match=reason):
        CommandSystem("c", script(tmp_path, body), timeout_s=0.5).speak(request())
    assert time.monotonic() - started < 4


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(SpeechError, match="no-such-program cannot be run"):
        CommandSystem("c", "no-such-program {text} {wav}").speak(request())


@pytest.mark.parametrize(
    "template",
    [
        "say {text}",
        "say {wav}",
        "say {text} {wav} {speed}",
        "say '{text} {wav}",
        "say {text} {wav} {",
        "say {text} {wav} {}",
    ],
)
def test_a_bad_template_is_refused(template: str) -> None:
    with pytest.raises(OptionError, match="the command"):
        CommandSystem("c", template)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_is_a_command() -> None:
    clip = CommandSystem("espeak", "espeak-ng -w {wav} -- {text}").speak(request())
    assert 0.3 < clip.sound.duration_s < 3


def recordings(folder: Path) -> Path:
    (folder / "a.wav").write_bytes(wav(3.0))
    (folder / "b.wav").write_bytes(wav(1.0))
    turns = [
        {"speaker": 0, "voice": "ann", "text": "First.", "start": 0, "end": 16_000},
        {"speaker": 1, "voice": "bob", "text": "Second.", "start": 16_000, "end": 48_000},
    ]
    lines = [{"file": "a.wav", "sample_rate": RATE, "turns": turns}, {"file": "b.wav", "text": "Third."}]
    (folder / "manifest-1.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_recordings_play_their_own_lines(tmp_path: Path) -> None:
    system = RecordedSystem("r", recordings(tmp_path))
    assert [(line.id, line.text, line.voice, line.is_prompt) for line in system.own_lines()] == [
        ("a.0", "First.", "ann", True),
        ("a.1", "Second.", "bob", True),
        ("b", "Third.", None, False),
    ]
    assert system.voices() == ["ann", "bob"]
    assert system.speak(request(own_line="a.0")).sound.duration_s == pytest.approx(1.1)
    assert system.speak(request(own_line="b")).sound.duration_s == pytest.approx(1.0)
    with pytest.raises(SpeechError, match="no recording of this line"):
        system.speak(request(own_line="c"))


def test_a_manifest_as_others_write_it(tmp_path: Path) -> None:
    """With a mark of its byte order, and with a sign that Python takes for a line's end."""
    folder = recordings(tmp_path)
    (folder / "manifest-1.jsonl").write_text('{"file": "b.wav", "text": "One.\u2028Two."}\n', encoding="utf-8-sig")
    assert [line.text for line in RecordedSystem("r", folder).own_lines()] == ["One.\u2028Two."]
    (folder / "manifest-1.jsonl").write_bytes('{"file": "b.wav", "text": "Café."}'.encode("latin-1"))
    with pytest.raises(EvaluationError, match="not UTF-8"):
        RecordedSystem("r", folder)


def test_recordings_are_told_apart(tmp_path: Path) -> None:
    system = RecordedSystem("r", recordings(tmp_path))
    before = system.describe()
    assert before == RecordedSystem("r", tmp_path).describe()
    write_audio(tmp_path / "b.wav", torch.zeros(RATE // 2), RATE)
    assert RecordedSystem("r", tmp_path).describe() != before


def test_a_recording_that_is_missing_is_one_failure(tmp_path: Path) -> None:
    system = RecordedSystem("r", recordings(tmp_path))
    (tmp_path / "b.wav").unlink()
    with pytest.raises(SpeechError, match=r"b\.wav does not exist"):
        system.speak(request(own_line="b"))
    assert system.speak(request(own_line="a.1")).sound.duration_s > 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no manifest"),
        ("", "name no recordings"),
        ('{"file": "a.wav"}', "manifest.jsonl:1: not a line of a manifest"),
        ("not json", "manifest.jsonl:1"),
        ('{"file": "a.wav", "text": "x", "turns": 3}', "manifest.jsonl:1"),
    ],
)
def test_a_bad_manifest_is_refused(tmp_path: Path, content: str | None, reason: str) -> None:
    if content is not None:
        (tmp_path / "manifest.jsonl").write_text(content)
    with pytest.raises(EvaluationError, match=reason):
        RecordedSystem("r", tmp_path)
