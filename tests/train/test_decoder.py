"""Training of the decoder alone."""

from pathlib import Path

import torch

from duologue.codec.mimi import Mimi
from duologue.train.decoder import DecoderTrainConfig, DecoderTraining, train_decoder
from duologue.train.loop import LoopConfig


def crops(index: int) -> torch.Tensor:
    phase = torch.arange(4 * 1920) * torch.tensor([0.02, 0.05, 0.1, 0.2])[:, None]
    return 0.3 * torch.sin(phase + index)[:, None]


def test_codes_stay_and_the_sound_improves(codec: Mimi, tmp_path: Path) -> None:
    loop = LoopConfig(num_steps=30, learning_rate=3e-3, muon_learning_rate=3e-3, warmup_steps=3, ema_decay=0.5)
    config = DecoderTrainConfig(loop=loop, dropout=0.0)
    better = train_decoder(config, codec, crops, tmp_path, quiet=True)
    assert torch.equal(better.encode(crops(99)), codec.encode(crops(99)))
    with torch.no_grad():
        before = DecoderTraining(config, codec)(crops(99))["mel"]
        after = DecoderTraining(config, better)(crops(99))["mel"]
    assert after < 0.7 * before


def test_what_is_trained_is_what_decodes(codec: Mimi) -> None:
    """With every codebook in use, the stage's path is the codec's own round trip."""
    config = DecoderTrainConfig(loop=LoopConfig(num_steps=1), dropout=0.0)
    training = DecoderTraining(config, codec).eval()
    pcm = crops(3)
    with torch.no_grad():
        losses = training(pcm)
        again = codec.decode(codec.encode(pcm))
    assert torch.allclose(losses["waveform"], (again - pcm).abs().mean(), atol=1e-5)
