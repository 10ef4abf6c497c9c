"""The PCM store, and the crops drawn from it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from duologue.audio import write_audio
from duologue.data.corpus import PcmStore
from duologue.data.crops import CropSampler, augment, low_pass
from duologue.data.sources import Part, find_conversations
from duologue.data.teacher import feature_statistics
from duologue.errors import TrainingError

RATE = 24_000


def write_corpus(folder: Path, seconds: tuple[float, ...] = (1.0, 2.0)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, length in enumerate(seconds):
        num_samples = round(length * RATE)
        pcm = 0.1 * torch.sin(torch.arange(num_samples) * (0.02 + 0.01 * index))
        write_audio(folder / f"{index}.wav", pcm, RATE)
        turns = [{"speaker": 0, "voice": "v", "text": "Hi.", "start": 0, "end": num_samples}]
        lines.append(
            json.dumps({"file": f"{index}.wav", "sample_rate": RATE, "samples": num_samples, "turns": turns, "x": 1})
        )
    (folder / "manifest-0.jsonl").write_text("\n".join(lines))
    return folder / "manifest-0.jsonl"


def parts_of(manifest: Path) -> list[Part]:
    return [part for conversation in find_conversations(manifest).conversations for part in conversation.parts]


def test_manifest_and_store_round_trip(tmp_path: Path) -> None:
    recordings = parts_of(write_corpus(tmp_path))
    assert [part.duration_s for part in recordings] == [1.0, 2.0]
    store = PcmStore.build(tmp_path / "pcm", recordings, RATE)
    assert len(store) == 2
    position = store.position(str(recordings[1].path))
    piece = store.read(position, 100, 200)
    expected = 0.1 * np.sin(np.arange(100, 200) * 0.03)
    np.testing.assert_allclose(piece, expected, atol=2e-4)
    beyond = store.read(position, 47_990, 48_010)
    assert beyond.shape == (20,)
    assert not beyond[10:].any()


def test_a_file_that_cannot_be_read_is_left_out_and_listed(tmp_path: Path) -> None:
    recordings = parts_of(write_corpus(tmp_path))
    recordings[0].path.write_bytes(b"not audio")
    store = PcmStore.build(tmp_path / "pcm", recordings, RATE)
    assert store.names == [str(recordings[1].path)]
    assert list(store.skipped) == [str(recordings[0].path)]
    assert str(recordings[0].path) not in store


@pytest.mark.parametrize(
    ("pcm", "rate", "reason"),
    [
        (torch.zeros(RATE), RATE, "only silence"),
        ((5 * torch.sin(torch.arange(RATE) * 0.02)).clamp(-1, 1), RATE, r"clipped: \d\d\.\d % of the samples"),
        (0.1 * torch.sin(torch.arange(RATE) * 0.02), RATE // 2, r"lasts 2\.00 s where its source says 1\.00 s"),
    ],
)
def test_a_file_that_would_teach_wrong_is_left_out(tmp_path: Path, pcm: torch.Tensor, rate: int, reason: str) -> None:
    recordings = parts_of(write_corpus(tmp_path))
    write_audio(recordings[0].path, pcm, rate)
    store = PcmStore.build(tmp_path / "pcm", recordings, RATE)
    assert store.names == [str(recordings[1].path)]
    assert re.match(reason, store.skipped[str(recordings[0].path)])
    with pytest.raises(TrainingError, match=f"none of the 1 recordings can be used.*0.wav: {reason}"):
        PcmStore.build(tmp_path / "pcm", recordings[:1], RATE)


def make_sampler(tmp_path: Path, **changes: object) -> CropSampler:
    recordings = parts_of(write_corpus(tmp_path))
    store = PcmStore.build(tmp_path / "pcm", recordings, RATE)
    options = {"frame_size": 1920, "num_frames": 5, "batch_size": 4, "seed": 0} | changes
    return CropSampler(store, **options)  # type: ignore[arg-type]


def test_crops_depend_on_seed_and_step_alone(tmp_path: Path) -> None:
    sampler = make_sampler(tmp_path)
    first, _ = sampler(3)
    other, _ = sampler(4)
    again, _ = make_sampler(tmp_path)(3)
    assert first.shape == (4, 1, 5 * 1920)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_features_are_those_of_the_cropped_frames(tmp_path: Path) -> None:
    features = tmp_path / "features"
    features.mkdir()
    for name, frames in (("0", 13), ("1", 25)):
        rows = np.arange(frames, dtype=np.float16)[:, None] + np.array([1, 100 * int(name)], np.float16)
        np.save(features / f"{name}.npy", rows)
    sampler = make_sampler(tmp_path, features=features, batch_size=64)
    pcm, teacher = sampler(0)
    assert teacher.shape == (64, 5, 2)
    for row in range(64):
        values = teacher[row, :, 0]
        assert torch.equal(values, values[0] + torch.arange(5.0))
        # The crop is where its features say: the recording's tone, up to gain.
        start = int(values[0] - 1) * 1920
        speed = 0.02 + 0.01 * round(float(teacher[row, 0, 1] - values[0] + 1) / 100)
        tone = torch.sin((start + torch.arange(5 * 1920)) * speed)
        correlation = torch.corrcoef(torch.stack((tone, pcm[row, 0])))[0, 1]
        assert float(correlation) > 0.99


def test_shifted_crops_and_their_features_run_at_one_speed(tmp_path: Path) -> None:
    features = tmp_path / "features"
    features.mkdir()
    for name, frames in (("0", 13), ("1", 25)):
        np.save(features / f"{name}.npy", np.arange(1, frames + 1, dtype=np.float16)[:, None])
    sampler = make_sampler(tmp_path, features=features, batch_size=64, shifted=1.0, num_frames=8)
    pcm, teacher = sampler(0)
    speeds = []
    for row in range(64):
        # The recordings' tones are of 0.02 and 0.03 radians a sample: the speed is what the crop makes of them.
        spectrum = torch.fft.rfft(pcm[row, 0] * torch.hann_window(pcm.shape[-1]), 8 * pcm.shape[-1]).abs()
        radians = float(spectrum.argmax()) * 2 * np.pi / (8 * pcm.shape[-1])
        speed = min((radians / tone for tone in (0.02, 0.03)), key=lambda value: abs(np.log(value)))
        speeds.append(speed)
        places = teacher[row, :, 0] - teacher[row, 0, 0]
        expected = np.floor((np.arange(8) + 0.5) * speed) - np.floor(0.5 * speed)
        assert np.abs(places.numpy() - expected).max() <= 1  # a rounding apart
    assert min(speeds) < 0.88 and max(speeds) > 1.14 and all(0.8 < speed < 1.25 for speed in speeds)


def test_standardized_features_have_zero_mean_and_unit_deviation(tmp_path: Path) -> None:
    features = tmp_path / "features"
    features.mkdir()
    random = np.random.default_rng(0)
    for name, frames in (("0", 13), ("1", 25)):
        np.save(features / f"{name}.npy", (random.normal(size=(frames, 2)) * (1, 9) + (100, -7)).astype(np.float16))
    mean, deviation = feature_statistics(features, every=1)
    np.testing.assert_allclose(mean, (100, -7), atol=3)
    raw = make_sampler(tmp_path, features=features, batch_size=16)
    options = {"features": features, "batch_size": 16, "feature_statistics": (mean, deviation)}
    scaled = make_sampler(tmp_path, **options)
    expected = (raw(0)[1] - torch.from_numpy(mean)) / torch.from_numpy(deviation)
    torch.testing.assert_close(scaled(0)[1], expected)
    assert abs(float(scaled(0)[1].mean())) < 0.5


def test_features_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no features"):
        feature_statistics(tmp_path)


def test_too_short_recordings_are_refused(tmp_path: Path) -> None:
    recordings = parts_of(write_corpus(tmp_path, seconds=(0.05, 0.02)))
    store = PcmStore.build(tmp_path / "pcm", recordings, RATE)
    with pytest.raises(TrainingError, match="as long as one frame"):
        CropSampler(store, frame_size=1920, num_frames=5, batch_size=1, seed=0)


def test_augmentation_never_clips() -> None:
    random = np.random.default_rng(0)
    loud = np.ones(1000, np.float32)
    for _ in range(50):
        assert float(np.abs(augment(loud, random)).max()) <= 1.0


def test_a_narrow_band_keeps_what_is_below() -> None:
    low, high = (np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32) for hertz in (500, 9000))
    np.testing.assert_allclose(low_pass(low + high, 0.5), low, atol=1e-4)
