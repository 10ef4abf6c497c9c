"""Trains the decoder of a codec and nothing else: its codes, and every speech model that speaks them, stay valid.

Source: the usual second stage of codecs, as in Kumar et al., "High-Fidelity Audio Compression with Improved RVQGAN"
(2023), here without adversaries.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from duologue.codec.mimi import Mimi
from duologue.config import JsonConfig
from duologue.train.codec import draw_active, hidden_matrices
from duologue.train.loop import LoopConfig, TrainingLoop
from duologue.train.spectral import MultiScaleMel

_TRAINED = ("decoder", "upsample", "quantizer.semantic.output_proj", "quantizer.acoustic.output_proj")


@dataclass(frozen=True)
class DecoderTrainConfig(JsonConfig):
    """`dropout` is the share of sequences that are decoded from a random number of acoustic codebooks, 0 included."""

    loop: LoopConfig
    mel_scales: tuple[int, ...] = (256, 512, 1024, 2048)
    mel_bins: tuple[int, ...] = (20, 40, 80, 120)
    mel_weight: float = 15.0
    waveform_weight: float = 0.5
    dropout: float = 0.3


class DecoderTraining(nn.Module):
    """A codec whose decoding half learns; the encoding half computes codes."""

    def __init__(self, config: DecoderTrainConfig, codec: Mimi) -> None:
        super().__init__()
        self.config, self.codec = config, deepcopy(codec)
        for name, parameter in self.codec.named_parameters():
            parameter.requires_grad_(name.startswith(_TRAINED))
        self.mel = MultiScaleMel(codec.sample_rate, tuple(zip(config.mel_scales, config.mel_bins, strict=True)))

    def forward(self, pcm: Tensor) -> dict[str, Tensor]:
        """Losses of crops `[B, 1, S]` of whole frames."""
        config, quantizer = self.config, self.codec.quantizer
        with torch.no_grad():
            codes = quantizer.encode(self.codec.encode_latent(pcm).float(), self.codec.num_codebooks)  # [B, K, T]
        active = draw_active(len(pcm), self.codec.num_codebooks - 1, config.dropout).to(codes.device)
        vectors = [
            codebook.decode(codes[:, index]) * (index <= active)[:, None, None]
            for index, codebook in enumerate(quantizer.acoustic, start=1)
        ]
        (semantic,) = quantizer.semantic
        latent = quantizer.semantic.output_proj(semantic.decode(codes[:, 0]))
        made = self.codec.decode_latent(latent + quantizer.acoustic.output_proj(torch.stack(vectors).sum(dim=0)))
        losses = {
            "mel": self.mel(made[:, 0], pcm[:, 0]),
            "waveform": (made.float() - pcm).abs().mean(),
        }
        losses["loss"] = config.mel_weight * losses["mel"] + config.waveform_weight * losses["waveform"]
        return losses


def train_decoder(
    config: DecoderTrainConfig, codec: Mimi, crops: Callable[[int], Tensor], folder: Path, *, quiet: bool = False
) -> Mimi:
    """Trains, or resumes what `folder` holds; returns a codec with the same codes and a better decoder.

    `crops(index)` gives the crops `[B, 1, S]` of a step and must depend on nothing but `index`. `codec` is left as it
    is. Raises `TrainingError`.
    """
    torch.manual_seed(config.loop.seed)
    training = DecoderTraining(config, codec)
    loop = TrainingLoop(
        config.loop,
        training,
        folder,
        description={"config": config.to_dict(), "codec": codec.config.to_dict()},
        hidden_matrices=hidden_matrices(training.codec, prefix="codec."),
    )
    loop.resume()
    loop.run(lambda index, _: training(crops(index)), quiet=quiet)
    loop.assign_average()
    for parameter in training.codec.parameters():
        parameter.requires_grad_(True)
    return training.codec.eval()
