"""What a speech recogniser makes of a waveform, as a distance: sounds that are the same word should look alike to it.

The features are those of Whisper's encoder (Radford et al., "Robust Speech Recognition via Large-Scale Weak
Supervision", 2022, section 2.2) after some of its first layers, in torch, so that gradients reach the waveform. Deep
features as a loss: Germain et al., "Speech Denoising with Deep Feature Losses" (2018).

Words that whisper recognises better after such training must be checked with a recogniser that had no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.checkpoints.whisper import read_ctranslate2
from duologue.config import JsonConfig
from duologue.errors import CheckpointError, TrainingError

_RATE = 16_000
_WINDOWS_PER_SECOND, _HOPS_PER_SECOND = 40, 100


@dataclass(frozen=True)
class PerceptionConfig(JsonConfig):
    """After which of the encoder's layers to compare, counted from 1, and the size of the term's gradient.

    `weight` is relative to the gradient of the spectral terms (see `balancer`). Later layers cost more: the last
    of `layers` says how many are computed.
    """

    layers: tuple[int, ...] = (1, 2, 3)
    weight: float = 1.0


class Recogniser(nn.Module):
    """The first layers of Whisper's encoder, frozen."""

    window: Tensor
    filters: Tensor

    def __init__(self, weights: Mapping[str, Tensor], *, num_layers: int, sample_rate: int, floor_db: float) -> None:
        """`weights` are those of a CTranslate2 Whisper (see `read_ctranslate2`).

        Takes waveforms at `sample_rate`, a multiple of 200 Hz that is 16 kHz or more; what lies above 8 kHz is not
        heard, and what is `floor_db` below full scale is silence. Raises `TrainingError` for a rate or a number of
        layers that does not fit, `CheckpointError` for other weights.
        """
        super().__init__()
        if sample_rate < _RATE or sample_rate % 200:
            raise TrainingError(f"the recogniser needs 16 kHz or more in multiples of 200 Hz, not {sample_rate} Hz")
        try:
            self._build(weights, num_layers)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f"not the weights of a Whisper encoder: {error}") from error
        # The rate's own window of 25 ms has the bins of 16 kHz, and more above them.
        size, theirs = sample_rate // _WINDOWS_PER_SECOND, _RATE // _WINDOWS_PER_SECOND
        self.hop = sample_rate // _HOPS_PER_SECOND
        self.register_buffer("window", torch.hann_window(size) * theirs / size)
        self.register_buffer("filters", whisper_filters(self.conv1.in_channels))
        # White noise of root mean square 1 has this power in a band: the window's, and bands of one bin each.
        band = float(torch.hann_window(theirs).square().sum()) / _WINDOWS_PER_SECOND
        self.floor = band * 10 ** (floor_db / 10)
        self.requires_grad_(False).eval()

    def _build(self, weights: Mapping[str, Tensor], num_layers: int) -> None:
        first = weights["encoder/conv1/weight"]
        width, heads = first.shape[0], int(weights["encoder/num_heads"])
        self.conv1 = nn.Conv1d(first.shape[1], width, 3, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        for name, conv in (("conv1", self.conv1), ("conv2", self.conv2)):
            conv.load_state_dict({kind: weights[f"encoder/{name}/{kind}"].float() for kind in ("weight", "bias")})
        self.register_buffer("positions", weights["encoder/position_encodings/encodings"].float())
        count = sum(name.endswith("/ffn/linear_0/weight") and name.startswith("encoder/") for name in weights)
        if not 1 <= num_layers <= count:
            raise TrainingError(f"layer {num_layers} of a recogniser of {count}")
        self.layers = nn.ModuleList()
        for index in range(num_layers):
            prefix = f"encoder/layer_{index}"
            hidden = weights[f"{prefix}/ffn/linear_0/weight"].shape[0]
            layer = nn.TransformerEncoderLayer(
                width, heads, hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            layer.load_state_dict({ours: weights[f"{prefix}/{theirs}"].float() for ours, theirs in _LAYER.items()})
            self.layers.append(layer)

    def spectrum(self, pcm: Tensor) -> Tensor:
        """`[B, S] -> [B, mel bands, frames]`: log10 power as Whisper scales it, a frame every 10 ms."""
        stft = torch.stft(
            pcm.float(), len(self.window), self.hop, window=self.window, return_complex=True, pad_mode="reflect"
        )[:, : self.filters.shape[1], :-1]
        power = self.filters @ (stft.real.square() + stft.imag.square())
        levels = (power + self.floor).log10()
        loudest = levels.detach().amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(levels, loudest - 8.0) + 4.0) / 4.0

    def forward(self, pcm: Tensor) -> list[Tensor]:
        """`[B, S] -> [B, frames, width]` after each layer, a frame every 20 ms; at most 30 s."""
        with torch.autocast(pcm.device.type, enabled=False):
            mel = self.spectrum(pcm)
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.get_buffer("positions")[: x.shape[1]]
        found = []
        for layer in self.layers:
            x = layer(x)
            found.append(x)
        return found


class Perception:
    """The distance of two waveforms to a recogniser. Not a module: its weights belong to nobody's checkpoint."""

    def __init__(self, config: PerceptionConfig, weights: Mapping[str, Tensor], sample_rate: int, floor_db: float):
        self.layers = [layer - 1 for layer in config.layers]
        self.recogniser = Recogniser(weights, num_layers=max(config.layers), sample_rate=sample_rate, floor_db=floor_db)

    def __call__(self, made: Tensor, true: Tensor) -> Tensor:
        """Of `[B, S]` waveforms, a scalar: half of the squared difference of features, each in its own deviations.

        About 1 where the two have nothing in common.
        """
        recogniser = self.recogniser.to(made.device)
        with torch.no_grad():
            theirs = recogniser(true)
        ours = recogniser(made)
        total = made.new_zeros((), dtype=torch.float32)
        for layer in self.layers:
            target = theirs[layer].float()
            spread = target.std(dim=(0, 1)).clamp(min=1e-3)
            total = total + ((ours[layer].float() - target) / spread).square().mean() / 2
        return total / len(self.layers)


def whisper_filters(num_mels: int) -> Tensor:
    """Whisper's mel bands at 16 kHz, `[num_mels, 201]`; raises `TrainingError` without the extra `train`."""
    try:
        from faster_whisper.feature_extractor import FeatureExtractor
    except ImportError as error:
        raise TrainingError(f"{error.name} is not installed: pip install 'duologue[train]'") from error
    return torch.from_numpy(FeatureExtractor(feature_size=num_mels).mel_filters).float()


def load_perception(config: PerceptionConfig, folder: Path, sample_rate: int, floor_db: float) -> Perception:
    """With the weights of a CTranslate2 Whisper in `folder`."""
    return Perception(config, read_ctranslate2(folder / "model.bin"), sample_rate, floor_db)


# Names of a layer's weights: torch's, and CTranslate2's below `encoder/layer_N/`.
_LAYER = {
    f"{ours}.{kind}".replace("in_proj.", "in_proj_"): f"{theirs}/{kind}"
    for ours, theirs in {
        "self_attn.in_proj": "self_attention/linear_0",
        "self_attn.out_proj": "self_attention/linear_1",
        "linear1": "ffn/linear_0",
        "linear2": "ffn/linear_1",
    }.items()
    for kind in ("weight", "bias")
} | {
    f"{ours}.{kind}": f"{theirs}/layer_norm/{name}"
    for ours, theirs in {"norm1": "self_attention", "norm2": "ffn"}.items()
    for kind, name in {"weight": "gamma", "bias": "beta"}.items()
}
