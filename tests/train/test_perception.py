"""The distance to a recogniser: its features are CTranslate2's, and its gradients reach the waveform only."""

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from duologue.audio import resample
from duologue.checkpoints.whisper import bundled_whisper, read_ctranslate2
from duologue.codec.mimi import Mimi
from duologue.errors import CheckpointError, TrainingError
from duologue.train.codec import CodecTraining
from duologue.train.perception import Perception, PerceptionConfig, Recogniser
from duologue.train.reconstruction import ReconstructionConfig
from tests.train.test_codec import batch_of, make_config

pytest.importorskip("faster_whisper", reason="needs duologue[train]")
WIDTH = 16


def weights(num_layers: int = 2) -> dict[str, Tensor]:
    """An encoder of random weights, as CTranslate2 names them."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    found = {"encoder/num_heads": torch.tensor(2, dtype=torch.int16)}
    for name, inputs in (("conv1", 80), ("conv2", WIDTH)):
        found |= {f"encoder/{name}/weight": random(WIDTH, inputs, 3), f"encoder/{name}/bias": random(WIDTH)}
    found["encoder/position_encodings/encodings"] = random(1500, WIDTH)
    for index in range(num_layers):
        shapes = {
            "self_attention/linear_0": 3 * WIDTH,
            "self_attention/linear_1": WIDTH,
            "ffn/linear_0": 2 * WIDTH,
            "ffn/linear_1": WIDTH,
        }
        for name, rows in shapes.items():
            columns = 2 * WIDTH if name == "ffn/linear_1" else WIDTH
            found |= {f"encoder/layer_{index}/{name}/weight": random(rows, columns)}
            found |= {f"encoder/layer_{index}/{name}/bias": random(rows)}
        for name in ("self_attention", "ffn"):
            found[f"encoder/layer_{index}/{name}/layer_norm/gamma"] = torch.ones(WIDTH)
            found[f"encoder/layer_{index}/{name}/layer_norm/beta"] = torch.zeros(WIDTH)
    return found


def write_model(path: Path, tensors: dict[str, Tensor], *, version: int = 6) -> Path:
    """CTranslate2's format, after its `model_spec.py`."""

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    data = struct.pack("<I", version) + string("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    kinds = {torch.float32: 0, torch.int16: 2, torch.float16: 4}
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        data += string(name) + struct.pack("<B", tensor.dim()) + struct.pack(f"<{tensor.dim()}I", *tensor.shape)
        data += struct.pack("<BI", kinds[tensor.dtype], len(raw)) + raw
    path.write_bytes(data)
    return path


def speechlike(seconds: float, rate: int) -> Tensor:
    """`[S]`: a buzz whose pitch and loudness move."""
    at = torch.arange(int(seconds * rate)) / rate
    phase = 2 * torch.pi * (120 * at + 8 * torch.sin(5 * at))
    buzz = sum(torch.sin(k * phase) / k for k in range(1, 30))
    return 0.1 * torch.as_tensor(buzz) * (1 + torch.sin(9 * at)) / 2


def make_recogniser(num_layers: int = 2, sample_rate: int = 24_000, floor_db: float = -66.0) -> Recogniser:
    return Recogniser(weights(), num_layers=num_layers, sample_rate=sample_rate, floor_db=floor_db)


def make_perception(*layers: int) -> Perception:
    return Perception(PerceptionConfig(layers=layers), weights(), 24_000, floor_db=-66.0)


def test_features_are_those_of_ctranslate2(tmp_path_factory: pytest.TempPathFactory) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2", reason="needs duologue[train]")
    from faster_whisper.feature_extractor import FeatureExtractor

    folder = bundled_whisper(tmp_path_factory.getbasetemp())
    pcm = torch.nn.functional.pad(speechlike(20, 16_000), (0, 10 * 16_000))
    mel = FeatureExtractor()(pcm.numpy())[None, :, :3000].astype(np.float32)
    model = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="float32", intra_threads=2)
    theirs = np.array(model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(mel)), to_cpu=True))[0]
    tensors = read_ctranslate2(folder / "model.bin")
    recogniser = Recogniser(tensors, num_layers=6, sample_rate=16_000, floor_db=-200.0)
    with torch.no_grad():
        last = recogniser(pcm[None])[-1]
    gamma, beta = (tensors[f"encoder/layer_norm/{name}"].float() for name in ("gamma", "beta"))
    ours = torch.nn.functional.layer_norm(last, (last.shape[-1],), gamma, beta)
    torch.testing.assert_close(ours[0], torch.from_numpy(theirs).float(), atol=2e-3, rtol=0)


def test_another_sample_rate_hears_the_same() -> None:
    pcm = speechlike(2, 48_000)
    low, high = make_recogniser(sample_rate=16_000), make_recogniser(sample_rate=24_000)
    with torch.no_grad():
        theirs, ours = low(resample(pcm, 48_000, 16_000)[None])[-1], high(resample(pcm, 48_000, 24_000)[None])[-1]
    assert ours.shape == theirs.shape == (1, 100, WIDTH)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min() > 0.999


def test_the_distance_is_0_to_itself_and_grows_with_noise() -> None:
    true = torch.stack((speechlike(1, 24_000), speechlike(1, 24_000).flip(0)))
    perception = make_perception(1, 2)
    torch.manual_seed(0)
    noise = torch.randn_like(true)
    distances = [float(perception(true + size * noise, true)) for size in (0.0, 0.003, 0.03, 0.3)]
    assert distances[0] == 0.0
    assert distances == sorted(distances)
    other = float(perception(true.roll(1, dims=0), true))
    assert distances[1] < other


@pytest.mark.parametrize("level", [0.0, 1e-5, 0.1])
def test_gradients_reach_the_waveform_and_are_finite_at_silence(level: float) -> None:
    perception = make_perception(2)
    true = speechlike(1, 24_000)[None]
    torch.manual_seed(0)
    made = (level * torch.randn_like(true)).requires_grad_()
    perception(made, true).backward()
    assert made.grad is not None and bool(made.grad.isfinite().all())
    assert (made.grad.abs().max() > 0) == (level > 0)
    assert not any(parameter.requires_grad for parameter in perception.recogniser.parameters())


def test_training_hears_and_keeps_the_recogniser_out_of_its_checkpoint(codec: Mimi) -> None:
    hearing = ReconstructionConfig(perception=PerceptionConfig(layers=(1,), weight=0.5))
    config = make_config(codec.config, bottleneck="noise", reconstruction=hearing)
    training = CodecTraining(config, codec, recogniser=weights())
    losses = training(batch_of(0), 0.0)
    losses["loss"].backward()
    assert losses["perception"].item() > 0
    without = CodecTraining(make_config(codec.config, bottleneck="noise"), codec)
    assert {name for name in training.state_dict() if not name.startswith("reconstruction.balancer")} == {
        name for name in without.state_dict() if not name.startswith("reconstruction.balancer")
    }
    gradient = codec.decoder.output_conv.conv.weight.grad
    assert gradient is not None and gradient.abs().max() > 0
    with pytest.raises(TrainingError, match="perception needs a recogniser"):
        CodecTraining(config, codec)
    assert config == type(config).from_dict(config.to_dict())
    assert dataclasses.replace(hearing, perception=None) == ReconstructionConfig()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(TrainingError, match="16 kHz or more"):
        make_recogniser(sample_rate=8000)
    with pytest.raises(TrainingError, match="layer 3 of a recogniser of 2"):
        make_recogniser(num_layers=3)
    with pytest.raises(CheckpointError, match="not the weights of a Whisper encoder"):
        Recogniser({"some": torch.zeros(1)}, num_layers=1, sample_rate=24_000, floor_db=-66.0)


def test_a_model_file_is_read_or_refused(tmp_path: Path) -> None:
    tensors = weights() | {"half": torch.arange(3).half()}
    path = write_model(tmp_path / "model.bin", tensors)
    found = read_ctranslate2(path)
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="not a whole CTranslate2 model"):
        read_ctranslate2(path)
    with pytest.raises(CheckpointError, match="version 99"):
        read_ctranslate2(write_model(path, tensors, version=99))
    with pytest.raises(CheckpointError, match="cannot read"):
        read_ctranslate2(tmp_path / "absent.bin")
