"""The reference server answers as a server under test should."""

import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.piper_server import make_server
from duologue.eval.clips import Request, SpeechError
from duologue.eval.systems import ServerSystem


class Tone:
    sample_rate = 22_050

    def __call__(self, text: str, pace: float) -> npt.NDArray[np.float32]:
        time = np.arange(round(self.sample_rate * len(text) / 10 / pace)) / self.sample_rate
        return (0.5 * np.sin(2 * np.pi * 200 * time)).astype(np.float32)


@pytest.fixture
def url() -> Iterator[str]:
    server = make_server(Tone(), 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_speaks_what_it_is_asked(url: str) -> None:
    clip = ServerSystem("piper", url).speak(Request("a/1", "a", "ten letter", seed=0))
    assert clip.sound.sample_rate == 22_050 and clip.sound.duration_s == pytest.approx(1.0)
    assert clip.sound.pcm.abs().max() == pytest.approx(0.5, abs=1e-3)


def test_no_text_is_refused(url: str) -> None:
    with pytest.raises(SpeechError, match=r"answered 400: .*expected a text"):
        ServerSystem("piper", url).speak(Request("a/1", "a", " ", seed=0))
