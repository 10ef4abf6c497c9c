"""Mimi: 24 kHz speech to 12.5 Hz frames of codes and back, offline and streaming.

Source: Defossez et al., "Moshi" (2024), section 3.3; Kyutai, `moshi/models/compression.py`. Everything is causal: frame
`i` of codes depends on the samples of frames `0..i` only, and the samples of frame `i` on the codes of frames `0..i`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from duologue.codec.analysis import HarmonicEncoder, HarmonicEncoderState
from duologue.codec.harmonic import HarmonicDecoder, HarmonicState
from duologue.codec.quantizer import SplitRVQ
from duologue.codec.seanet import SEANetDecoder, SEANetDecoderState, SEANetEncoder, SEANetEncoderState
from duologue.config import MimiConfig
from duologue.errors import AudioError, CodeError
from duologue.nn.conv import CausalConv1d, CausalConvTranspose1d, ConvState, ConvTransposeState
from duologue.nn.state import State
from duologue.nn.transformer import Transformer, TransformerState

# Longer recordings run through a fresh streaming state in pieces of this many frames: memory stays bounded. What a
# convolutional decoder makes of fewer stays in a processor's cache, which is a fifth faster (dev/LOG.md).
_OFFLINE_FRAMES, _CACHED_FRAMES = 250, 32


@dataclass
class MimiEncoderState(State):
    """What the encoder remembers between calls."""

    encoder: SEANetEncoderState | HarmonicEncoderState
    transformer: TransformerState
    downsample: ConvState


@dataclass
class MimiDecoderState(State):
    """What the decoder remembers between calls."""

    upsample: ConvTransposeState
    transformer: TransformerState
    decoder: SEANetDecoderState | HarmonicState


class Mimi(nn.Module):
    """The codec. Works in the dtype of its weights, which should stay float32; see also `steadied`."""

    def __init__(self, config: MimiConfig) -> None:
        super().__init__()
        self.config = config
        stride = config.resample_stride
        self.encoder = SEANetEncoder(config) if config.harmonic is None else HarmonicEncoder(config)
        self.encoder_transformer = Transformer(config.transformer)
        self.downsample = CausalConv1d(
            config.dim, config.dim, 2 * stride, stride=stride, bias=False, pad_mode="replicate"
        )
        self.quantizer = SplitRVQ(config.dim, config.codebook_dim, config.codebook_size, config.num_codebooks)
        self.upsample = CausalConvTranspose1d(
            config.dim, config.dim, 2 * stride, stride=stride, groups=config.dim, bias=False
        )
        self.decoder_transformer = Transformer(config.transformer)
        self.decoder = SEANetDecoder(config) if config.harmonic is None else HarmonicDecoder(config)

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self.config.sample_rate

    @property
    def frame_size(self) -> int:
        """Samples per frame."""
        return self.config.frame_size

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.config.frame_rate

    @property
    def num_codebooks(self) -> int:
        """Codes per frame."""
        return self.config.num_codebooks

    def steadied(self) -> Mimi:
        """Itself, ready to be listened to: a decoder of harmonics works in float64 from now on.

        Its pitch moves in steps, and the phase adds them up: where a pitch lies on the border of two of them, float32
        rounds it to one in a stream and to the other in the whole, and they sound alike but are no longer equal.
        Other decoders stay as they are. `float()` takes it back, which training does by itself.
        """
        if isinstance(self.decoder, HarmonicDecoder):
            projections = (self.quantizer.semantic.output_proj, self.quantizer.acoustic.output_proj)
            for module in (*projections, self.upsample, self.decoder_transformer, self.decoder):
                module.double()
        return self

    def codebook_vectors(self) -> list[Tensor]:
        """The vectors `[V, C]` of every codebook, the semantic one first."""
        return [codebook.vectors for stack in (self.quantizer.semantic, self.quantizer.acoustic) for codebook in stack]

    def init_encoder_state(self, batch: int = 1) -> MimiEncoderState:
        """A state of `batch` rows that have heard nothing yet."""
        return MimiEncoderState(
            self.encoder.init_state(batch),
            self.encoder_transformer.init_state(batch),
            self.downsample.init_state(batch),
        )

    def init_decoder_state(self, batch: int = 1) -> MimiDecoderState:
        """A state of `batch` rows that have said nothing yet."""
        return MimiDecoderState(
            self.upsample.init_state(batch),
            self.decoder_transformer.init_state(batch),
            self.decoder.init_state(batch),
        )

    @torch.no_grad()
    def encode(self, pcm: Tensor, state: MimiEncoderState | None = None, *, num_codebooks: int | None = None) -> Tensor:
        """`pcm [B, 1, S]` in [-1, 1] at `sample_rate` -> codes `[B, K, T]` int64.

        Without a state the last frame is filled up with zeros; with one (updated in place) `S` must be whole frames.
        `num_codebooks` asks for the first `K` codebooks only. Raises `AudioError` and `CodeError`.
        """
        count = self.num_codebooks if num_codebooks is None else num_codebooks
        if not 1 <= count <= self.num_codebooks:
            raise CodeError(f"num_codebooks must be 1..{self.num_codebooks}, not {count}")
        if pcm.dim() != 3 or pcm.shape[1] != 1:
            raise AudioError(f"the codec takes mono audio of shape [B, 1, S], not {list(pcm.shape)}")
        remainder = pcm.shape[-1] % self.frame_size
        if state is not None and remainder:
            raise AudioError(f"streaming takes whole frames of {self.frame_size} samples, not {pcm.shape[-1]}")
        pcm = pcm.to(self.encoder.input_conv.conv.weight)
        if remainder:
            pcm = F.pad(pcm, (0, self.frame_size - remainder))
        if not pcm.shape[-1]:
            return torch.zeros(pcm.shape[0], count, 0, dtype=torch.int64, device=pcm.device)
        longest = self._frames_at_once(pcm.device) * self.frame_size
        if pcm.shape[-1] > longest:
            state = state if state is not None else self.init_encoder_state(pcm.shape[0])
        latents = [self.encode_latent(piece, state) for piece in pcm.split(longest, dim=-1)]
        return self.quantizer.encode(torch.cat(latents, dim=1), count)

    @torch.no_grad()
    def decode(self, codes: Tensor, state: MimiDecoderState | None = None) -> Tensor:
        """Codes `[B, K, T]`, `K` at most `num_codebooks`, -> pcm `[B, 1, T * frame_size]`.

        The state is updated in place. Raises `CodeError` for codes outside the codebooks.
        """
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.num_codebooks:
            raise CodeError(f"codes must have shape [B, 1..{self.num_codebooks}, T], not {list(codes.shape)}")
        if not codes.shape[-1]:
            return torch.zeros(codes.shape[0], 1, 0, device=codes.device)
        lowest, highest = (int(bound) for bound in codes.aminmax())
        if lowest < 0 or highest >= self.config.codebook_size:
            raise CodeError(
                f"codes must lie in 0..{self.config.codebook_size - 1}, found {lowest if lowest < 0 else highest}"
            )
        longest = self._frames_at_once(codes.device)
        if codes.shape[-1] > longest:
            state = state if state is not None else self.init_decoder_state(codes.shape[0])
        pieces = codes.split(longest, dim=-1)
        return torch.cat([self.decode_latent(self.quantizer.decode(piece), state) for piece in pieces], dim=-1)

    def _frames_at_once(self, device: torch.device) -> int:
        """How long the pieces of a longer recording are."""
        return _CACHED_FRAMES if device.type == "cpu" and self.config.harmonic is None else _OFFLINE_FRAMES

    def encode_latent(self, pcm: Tensor, state: MimiEncoderState | None = None) -> Tensor:
        """`[B, 1, S] -> [B, T, D]`: what the quantizer is given; differentiable without a state."""
        hidden = self.encoder(pcm, state and state.encoder)  # [B, D, S / hop]
        hidden = self.encoder_transformer(hidden.transpose(1, 2), state and state.transformer)
        return self.downsample(hidden.transpose(1, 2), state and state.downsample).transpose(1, 2)  # type: ignore[no-any-return]

    def decode_latent(self, latent: Tensor, state: MimiDecoderState | None = None) -> Tensor:
        """`[B, T, D] -> [B, 1, T * frame_size]` from what the quantizer gives; differentiable without a state."""
        return self.decoder(self.decode_hidden(latent, state), state and state.decoder)  # type: ignore[no-any-return]

    def decode_hidden(self, latent: Tensor, state: MimiDecoderState | None = None) -> Tensor:
        """`[B, T, D] -> [B, D, T * stride]`: what the decoder proper is given."""
        hidden = self.upsample(latent.transpose(1, 2).to(self.upsample.conv.weight), state and state.upsample)
        hidden = self.decoder_transformer(hidden.transpose(1, 2), state and state.transformer)
        return hidden.transpose(1, 2)  # type: ignore[no-any-return]
