"""Recordings in containers that libsndfile does not know: read through PyAV, and every kind of bad one."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from duologue.audio import read_audio, read_channels
from duologue.errors import AudioError
from tests.test_audio import RATE, correlation, tone


def write_container(path: Path, pcm: Tensor, codec: str, rate: int) -> Path:
    """What PyAV writes of `pcm [num_samples, num_channels]`, in the format of the suffix."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        layout = "mono" if pcm.shape[1] == 1 else "stereo"
        stream = container.add_stream(codec, rate=rate, layout=layout)
        samples = np.ascontiguousarray((pcm * 32767).round().short().reshape(1, -1).numpy())
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("suffix", "codec"), [("m4a", "aac"), ("webm", "libopus"), ("g722", "g722"), ("mkv", "pcm_s16le")]
)
def test_containers_that_libsndfile_does_not_know(tmp_path: Path, suffix: str, codec: str) -> None:
    rate = 48_000 if codec == "libopus" else 16_000
    written = tone(1.0, rate)
    path = write_container(tmp_path / f"call.{suffix}", written[:, None], codec, rate)
    pcm, found = read_audio(path)
    assert found == rate
    assert abs(len(pcm) - rate) <= 3 * 1024  # encoders pad to whole frames
    lag = int(np.argmax(np.correlate(pcm.numpy()[: rate // 2], written.numpy()[: rate // 4], "valid")))
    assert correlation(pcm[lag:][: rate // 4], written[: rate // 4]) > 0.99
    assert len(read_audio(path, RATE)[0]) == pytest.approx(len(pcm) * RATE / rate, abs=2)


def test_channels_of_a_container(tmp_path: Path) -> None:
    sides = torch.stack((tone(), torch.zeros(RATE // 2)), dim=1)
    path = write_container(tmp_path / "call.mkv", sides, "pcm_s16le", RATE)
    channels, rate = read_channels(path)
    assert rate == RATE
    torch.testing.assert_close(channels, sides.T, atol=1e-4, rtol=0)
    torch.testing.assert_close(read_audio(path)[0], sides.mean(1), atol=1e-4, rtol=0)


def test_bad_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = write_container(tmp_path / "whole.m4a", tone()[:, None], "aac", RATE)
    with pytest.raises(AudioError, match=r"too long: .* at most 0.1 s"):
        read_audio(whole, max_seconds=0.1)
    damaged = tmp_path / "damaged.m4a"
    damaged.write_bytes(b"no container" * 50)
    with pytest.raises(AudioError, match="damaged or not audio"):
        read_audio(damaged)
    (tmp_path / "empty.m4a").touch()
    with pytest.raises(AudioError, match=r"is empty \(0 bytes\)"):
        read_audio(tmp_path / "empty.m4a")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match=r"\.m4a is read by PyAV: pip install"):
        read_audio(whole)
