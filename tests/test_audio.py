"""Reading and writing recordings: round trips in every format, and every kind of bad file."""

import io
import math
import os
import resource
import signal
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from duologue.audio import (
    StreamResampler,
    StreamWriter,
    is_silent,
    normalize_loudness,
    read_audio,
    resample,
    trim_silence,
    write_audio,
    writing,
)
from duologue.errors import AudioError

RATE = 24_000
LOSSLESS = ["wav", "flac"]
LOSSY = ["mp3", "ogg", "opus"]


def tone(seconds: float = 0.5, rate: int = RATE, hertz: float = 440.0, level: float = 0.5) -> Tensor:
    return level * torch.sin(2 * math.pi * hertz * torch.arange(round(seconds * rate)) / rate)


def correlation(left: Tensor, right: Tensor) -> float:
    length = min(len(left), len(right))
    return float(torch.nn.functional.cosine_similarity(left[:length], right[:length], dim=0))


class Pipe(io.RawIOBase):
    """A stream that can neither seek nor tell, such as stdin or stdout."""

    def __init__(self, data: bytes = b"") -> None:
        self.buffer = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self.buffer.read(size)

    def write(self, data: object) -> int:
        return self.buffer.write(data)  # type: ignore[arg-type]

    def seekable(self) -> bool:
        return False


# --- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_round_trip_is_exact(tmp_path: Path, suffix: str) -> None:
    pcm = torch.round(tone() * 32768) / 32768
    write_audio(tmp_path / f"a.{suffix}", pcm, RATE)
    again, rate = read_audio(tmp_path / f"a.{suffix}")
    assert rate == RATE and again.dtype == torch.float32
    assert torch.equal(again, pcm)


@pytest.mark.parametrize("suffix", LOSSY)
@pytest.mark.parametrize("rate", [16_000, 24_000, 44_100])
def test_lossy_round_trip_sounds_alike(tmp_path: Path, suffix: str, rate: int) -> None:
    pcm = tone(1.0, rate)
    write_audio(tmp_path / f"a.{suffix}", pcm, rate)
    again, _ = read_audio(tmp_path / f"a.{suffix}", rate)
    assert abs(len(again) - len(pcm)) <= 2
    assert correlation(again, pcm) > 0.98


@pytest.mark.parametrize("format", LOSSLESS + LOSSY)
def test_every_target_and_source_kind(tmp_path: Path, format: str) -> None:
    buffer, pipe = io.BytesIO(), Pipe()
    write_audio(tmp_path / "noext", tone(), RATE, format)
    write_audio(buffer, tone(), RATE, format)
    write_audio(pipe, tone()[None], RATE, format)
    data = buffer.getvalue()
    for source in (str(tmp_path / "noext"), data, io.BytesIO(data), Pipe(data), pipe.buffer.getvalue()):
        pcm, rate = read_audio(source)
        assert rate == RATE and pcm.shape == (12_000,)
        assert correlation(pcm, tone()) > 0.98


@pytest.mark.parametrize("rate", [192_000, 384_000, 4_000])
@pytest.mark.parametrize("format", LOSSY)
def test_rates_that_a_format_does_not_take_are_resampled(rate: int, format: str) -> None:
    buffer = io.BytesIO()
    write_audio(buffer, tone(1.0, rate, 300.0), rate, format)
    pcm, file_rate = read_audio(buffer.getvalue())
    assert file_rate == (8_000 if rate == 4_000 else 48_000)
    assert len(pcm) / file_rate == pytest.approx(1.0, abs=0.01)
    assert correlation(pcm, tone(1.0, file_rate, 300.0)) > 0.95


def test_a_long_opus_file_in_one_write() -> None:
    buffer = io.BytesIO()
    write_audio(buffer, tone(30.0), RATE, "opus")
    assert len(read_audio(buffer.getvalue())[0]) == 30 * RATE


@pytest.mark.parametrize("num_channels", [2, 6])
@pytest.mark.parametrize("subtype", ["PCM_24", "FLOAT", "PCM_U8"])
def test_channels_are_averaged_at_any_depth(tmp_path: Path, num_channels: int, subtype: str) -> None:
    generator = np.random.default_rng(0)
    samples = generator.uniform(-1, 1, (70_000, num_channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 44_100, subtype=subtype)
    pcm, rate = read_audio(tmp_path / "a.wav")
    assert rate == 44_100
    torch.testing.assert_close(pcm, torch.from_numpy(samples.mean(axis=1)), atol=0.02, rtol=0)


def test_float_overshoot_is_clipped_both_ways(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.5, 1.5, -1.5]), RATE, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav")[0].tolist() == [0.5, 1.0, -1.0]
    write_audio(tmp_path / "b.wav", torch.tensor([0.5, 1.5, -1.5]), RATE)
    assert read_audio(tmp_path / "b.wav")[0].tolist() == pytest.approx([0.5, 1.0, -1.0], abs=1e-4)


def test_reading_at_another_rate(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(1.0, 44_100), 44_100)
    pcm, rate = read_audio(tmp_path / "a.wav", RATE)
    assert rate == RATE and len(pcm) == RATE
    assert correlation(pcm, tone(1.0)) > 0.99


def test_reading_a_named_pipe(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    write_audio(buffer, tone(), RATE)
    os.mkfifo(tmp_path / "pipe")
    thread = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(buffer.getvalue(),))
    thread.start()
    pcm, _ = read_audio(tmp_path / "pipe")
    thread.join()
    assert len(pcm) == 12_000


# --- bad sources -----------------------------------------------------------------------------------------------------


def test_missing_folder_and_empty(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"missing\.wav does not exist"):
        read_audio(tmp_path / "missing.wav")
    with pytest.raises(AudioError, match="is a folder"):
        read_audio(tmp_path)
    with pytest.raises(AudioError, match="cannot be read"):
        read_audio("a\0b.wav")
    (tmp_path / "empty.wav").touch()
    with pytest.raises(AudioError, match="is empty"):
        read_audio(tmp_path / "empty.wav")
    with pytest.raises(AudioError, match="is empty"):
        read_audio(b"")


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.raw", "a.opus", "a"])
@pytest.mark.parametrize(
    "data", [b"hello there, this is no audio at all" * 50, bytes(5_000), b"RIFF\x00\x00\x00\x00WAVE"]
)
def test_not_audio(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(AudioError, match=r"damaged or not audio|holds no samples"):
        read_audio(tmp_path / name)


def test_no_samples(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", torch.zeros(0), RATE)
    with pytest.raises(AudioError, match="holds no samples"):
        read_audio(tmp_path / "a.wav")


def test_a_truncated_wav_says_how_much_is_there(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", tone(2.0), RATE)
    data = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(data[: 44 + RATE])
    with pytest.raises(AudioError, match=r"truncated: its header says 2\.00 s, 0\.50 s are there"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("format", ["flac", "mp3"])
def test_other_truncated_files(format: str) -> None:
    buffer = io.BytesIO()
    noise = 0.1 * torch.randn(5 * RATE, generator=torch.Generator().manual_seed(0))
    write_audio(buffer, noise, RATE, format)
    data = buffer.getvalue()
    with pytest.raises(AudioError, match=r"truncated|damaged"):
        read_audio(data[: len(data) // 2])


@given(cut=st.integers(0, 2_000), at=st.integers(0, 2_000), byte=st.integers(0, 255))
def test_a_damaged_wav_raises_nothing_else(cut: int, at: int, byte: int) -> None:
    buffer = io.BytesIO()
    write_audio(buffer, tone(0.03), RATE)
    data = bytearray(buffer.getvalue())
    data[at % len(data)] = byte
    try:
        pcm, _ = read_audio(bytes(data[: len(data) - cut]))
    except AudioError as error:
        assert "\n" not in str(error)
    else:
        assert pcm.dim() == 1 and len(pcm) > 0


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_streamed_wav_without_a_length_is_whole(size: int) -> None:
    buffer = io.BytesIO()
    write_audio(buffer, tone(), RATE)
    data = bytearray(buffer.getvalue())
    data[40:44] = struct.pack("<I", size)
    if size == 0:
        with pytest.raises(AudioError, match="holds no samples"):
            read_audio(bytes(data))
    else:
        assert len(read_audio(bytes(data))[0]) == 12_000


@pytest.mark.parametrize("rate", [0, 1, 3_999, 655_350, 0xFFFFFFFF])
def test_forged_rates(rate: int) -> None:
    buffer = io.BytesIO()
    write_audio(buffer, tone(), RATE)
    data = bytearray(buffer.getvalue())
    data[24:28] = struct.pack("<I", rate)
    with pytest.raises(AudioError, match=r"sample rate|damaged"):
        read_audio(bytes(data))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_not_numbers(tmp_path: Path, value: float) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, value, 0.0]), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        read_audio(tmp_path / "a.wav")


def test_integers_in_a_float_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([0.0, 12_000.0]), RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="up to 12000"):
        read_audio(tmp_path / "a.wav")


def test_too_long_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_audio(tmp_path / "a.flac", torch.zeros(100 * RATE), RATE)
    assert len(read_audio(tmp_path / "a.flac", max_seconds=100)[0]) == 100 * RATE
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(AudioError, match=r"too long: 100\.0 s or more, at most 10 s"):
        read_audio(tmp_path / "a.flac", max_seconds=10)


def test_a_stream_of_unknown_length_stops_at_the_cap(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", torch.zeros(100 * RATE), RATE)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[21] &= 0xF0  # STREAMINFO: the total number of samples, 36 bits, 0 for unknown
    data[22:26] = bytes(4)
    assert len(read_audio(bytes(data))[0]) == 100 * RATE
    with pytest.raises(AudioError, match="too long"):
        read_audio(bytes(data), max_seconds=10)


def test_streams_have_a_size_cap() -> None:
    for source in (bytes(2_000), Pipe(bytes(2_000))):
        with pytest.raises(AudioError, match="larger than 1000 bytes"):
            read_audio(source, max_bytes=1_000)
    with pytest.raises(AudioError, match="binary mode"):
        read_audio(io.StringIO("text"))  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0, -1, 10**9, 24_000.0, True])
def test_bad_target_rate(rate: int) -> None:
    with pytest.raises(AudioError, match="sample rate"):
        read_audio(b"x", rate)
    with pytest.raises(AudioError, match="sample rate"):
        write_audio(io.BytesIO(), tone(), rate)


# --- bad targets -----------------------------------------------------------------------------------------------------


@pytest.fixture
def old_file(tmp_path: Path) -> Iterator[Path]:
    """A target that already exists: whatever fails must leave it alone, and nothing beside it."""
    path = tmp_path / "out.wav"
    path.write_bytes(b"old")
    yield path
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.wav"]


@pytest.mark.parametrize(
    ("pcm", "message"),
    [
        (torch.tensor([0.0, float("nan")]), "not finite"),
        (torch.zeros(2, 100), "shape"),
        (torch.tensor(1.0), "shape"),
        (torch.zeros(100, dtype=torch.int16), "floating-point"),
        ([0.0], "floating-point"),
    ],
)
def test_bad_samples_leave_nothing(old_file: Path, pcm: Tensor, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        write_audio(old_file, pcm, RATE)


@pytest.mark.parametrize("format", LOSSLESS + LOSSY)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_nothing(old_file: Path, format: str, error: type[BaseException]) -> None:
    with pytest.raises(error), StreamWriter(old_file, RATE, format=format) as writer:
        writer.write(tone(3.0))
        raise error


def test_an_interrupt_inside_write_leaves_nothing(old_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "_to_pcm16", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_audio(old_file, tone(), RATE)


def test_a_failing_rename_leaves_nothing(old_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(AudioError, match="Permission denied"):
        write_audio(old_file, tone(), RATE)


@pytest.mark.parametrize("format", LOSSLESS + LOSSY)
def test_a_full_disk_leaves_nothing(old_file: Path, format: str) -> None:
    """A file size limit stands in for the full disk: the system refuses the write in the same place."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    noise = 0.1 * torch.randn(5 * RATE, generator=torch.Generator().manual_seed(0))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, limits[1]))
        with pytest.raises(AudioError, match="cannot write"):
            write_audio(old_file, noise, RATE, format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("format", ["wav", "mp3"])
def test_a_full_device(format: str) -> None:
    with pytest.raises(AudioError, match="No space left"):
        write_audio("/dev/full", tone(5.0), RATE, format)
    assert os.path.exists("/dev/full")


def test_devices_are_written_not_replaced() -> None:
    write_audio(os.devnull, tone(), RATE, "wav")
    assert not os.path.isfile(os.devnull)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.wav").symlink_to(tmp_path / "real.wav")
    write_audio(tmp_path / "link.wav", tone(), RATE)
    assert (tmp_path / "link.wav").is_symlink()
    assert len(read_audio(tmp_path / "real.wav")[0]) == 12_000


def test_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="does not exist; create it"):
        write_audio(tmp_path / "no" / "a.wav", tone(), RATE)
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(AudioError, match="is a folder"):
        write_audio(tmp_path / "folder.wav", tone(), RATE)
    for name in ("a.txt", "a", ".wav"):
        with pytest.raises(AudioError, match="suffix"):
            write_audio(tmp_path / name, tone(), RATE)
    with pytest.raises(AudioError, match="unknown audio format 'aac'"):
        write_audio(tmp_path / "a.wav", tone(), RATE, "aac")
    assert os.listdir(tmp_path) == ["folder.wav"]


def test_an_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root, who runs the tests in a container, may write anywhere
    with pytest.raises(AudioError, match="Permission denied; check the folder's permissions"):
        write_audio(tmp_path / "a.wav", tone(), RATE)


@pytest.mark.parametrize("format", LOSSLESS[1:] + LOSSY)
def test_only_wav_can_be_empty(tmp_path: Path, format: str) -> None:
    with pytest.raises(AudioError, match="cannot hold 0 samples"):
        write_audio(tmp_path / f"a.{format}", torch.zeros(0), RATE)
    assert os.listdir(tmp_path) == []


# --- streaming -------------------------------------------------------------------------------------------------------


def test_a_stream_to_a_pipe_comes_at_once_and_is_readable() -> None:
    pipe = Pipe()
    with StreamWriter(pipe, RATE) as writer:
        for piece in tone(1.0).split(1_920):
            writer.write(piece)
            assert len(pipe.buffer.getvalue()) == 44 + 2 * writer.num_samples
    pcm, _ = read_audio(pipe.buffer.getvalue())
    assert torch.equal(pcm, torch.round(tone(1.0) * 32768) / 32768)


def test_a_path_appears_only_at_the_end(tmp_path: Path) -> None:
    with StreamWriter(tmp_path / "a.flac", RATE) as writer:
        for piece in tone(1.0).split(1_920):
            writer.write(piece)
        assert not (tmp_path / "a.flac").exists()
    assert len(read_audio(tmp_path / "a.flac")[0]) == RATE
    with pytest.raises(AudioError, match="already closed"):
        writer.write(tone())
    writer.close()
    assert os.listdir(tmp_path) == ["a.flac"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        write_audio(tmp_path / "a.wav", tone(), RATE)
    finally:
        os.umask(previous)
    assert (tmp_path / "a.wav").stat().st_mode & 0o777 == 0o644


def test_a_closed_pipe_is_an_audio_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb", buffering=0) as file, pytest.raises(AudioError, match="Broken pipe"):
        write_audio(file, tone(), RATE)


# --- resampling ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44_100, 24_000), (8_000, 24_000), (24_000, 48_000), (48_000, 11_025)]
)
def test_resample_is_soxr_with_an_exact_length(from_rate: int, to_rate: int) -> None:
    pcm = torch.randn(2, 9_999, generator=torch.Generator().manual_seed(0))
    out = resample(pcm, from_rate, to_rate)
    assert out.shape == (2, round(9_999 * to_rate / from_rate)) and out.dtype == torch.float32
    theirs = torch.from_numpy(soxr.resample(pcm.numpy().T, from_rate, to_rate, quality="HQ").T)
    length = min(out.shape[1], theirs.shape[1])
    torch.testing.assert_close(out[:, :length], theirs[:, :length], atol=1e-5, rtol=0)


@given(num_samples=st.integers(0, 50), rates=st.permutations([8_000, 22_050, 24_000, 44_100]))
def test_resampled_length_of_very_short_audio(num_samples: int, rates: list[int]) -> None:
    assert len(resample(torch.ones(num_samples), rates[0], rates[1])) == round(num_samples * rates[1] / rates[0])


@pytest.mark.parametrize(
    ("from_rate", "to_rate"), [(44_100, 24_000), (24_000, 48_000), (24_000, 16_000), (24_000, 24_000)]
)
@given(seed=st.integers(0, 1_000))
def test_streaming_equals_offline(from_rate: int, to_rate: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pcm = torch.randn(12_345, generator=generator)
    resampler = StreamResampler(from_rate, to_rate)
    for _ in range(2):  # the second time shows that it starts afresh
        sizes = torch.randint(0, 3_000, (50,), generator=generator).tolist()
        pieces, start = [], 0
        for size in [*sizes, len(pcm)]:
            pieces.append(resampler.push(pcm[start : start + size]))
            start += size
        out = torch.cat([*pieces, resampler.finish()])
        torch.testing.assert_close(out, resample(pcm, from_rate, to_rate), atol=1e-5, rtol=0)


# --- silence and loudness --------------------------------------------------------------------------------------------


def test_is_silent() -> None:
    assert is_silent(torch.zeros(0)) and is_silent(torch.zeros(100)) and is_silent(tone(level=0.0009))
    assert not is_silent(tone(level=0.0011))
    assert is_silent(tone(level=0.05), threshold_db=-20.0)


def test_trim_silence_keeps_a_margin_and_the_pauses() -> None:
    quiet = torch.zeros(RATE)
    pcm = torch.cat([quiet, tone(), quiet, tone(), quiet])
    trimmed = trim_silence(pcm, RATE)
    assert len(trimmed) == pytest.approx(RATE * 2.2, abs=RATE * 0.02)
    assert len(trim_silence(pcm, RATE, margin_ms=0)) == pytest.approx(RATE * 2, abs=RATE * 0.02)
    assert torch.equal(trim_silence(tone(), RATE), tone())
    assert len(trim_silence(quiet, RATE)) == 0


def test_normalize_loudness() -> None:
    loud = normalize_loudness(tone(level=0.01), -22.0)
    assert 20 * math.log10(float(loud.square().mean().sqrt())) == pytest.approx(-22.0, abs=0.01)
    spiky = torch.zeros(10_000)
    spiky[5_000] = 0.5
    assert float(normalize_loudness(spiky).abs().max()) == pytest.approx(0.99)
    assert torch.equal(normalize_loudness(torch.zeros(10)), torch.zeros(10))


@pytest.mark.skipif(os.name != "posix", reason="names are Unicode there")
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_name_that_is_not_utf_8(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / os.fsdecode(b"r\xe9s")
    folder.mkdir()
    path = folder / os.fsdecode(b"caf\xe9." + suffix.encode())
    write_audio(path, tone(), RATE)
    pcm, rate = read_audio(path)
    assert rate == RATE
    assert len(pcm) == len(tone())
