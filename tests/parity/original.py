"""CSM as its authors wrote it, for tests: torchtune's names, and arithmetic that shares nothing with ours.

Sources: Sesame, `csm/models.py`; Meta, `llama-models/models/llama3/model.py` (rotation by complex numbers, frequencies
scaled one by one); torchtune, `Llama3ScaledRoPE`, `MultiHeadAttention`, `FeedForward`, `RMSNorm`. Without caches: every
step runs over everything again. torchtune 0.6.1 itself, which needs torchao 0.9, loads these names with none left over
and differs by less than 1e-5 over 600 positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Llama:
    """The arguments of torchtune's `llama3_2` that matter here."""

    num_layers: int
    num_heads: int
    num_kv_heads: int
    embed_dim: int
    intermediate_dim: int
    norm_eps: float = 1e-5
    rope_base: float = 500_000.0
    scale_factor: float = 32.0

    def shapes(self, prefix: str) -> dict[str, tuple[int, ...]]:
        head_dim = self.embed_dim // self.num_heads
        shapes: dict[str, tuple[int, ...]] = {f"{prefix}.norm.scale": (self.embed_dim,)}
        for i in range(self.num_layers):
            layer = f"{prefix}.layers.{i}"
            shapes[f"{layer}.attn.q_proj.weight"] = (self.num_heads * head_dim, self.embed_dim)
            shapes[f"{layer}.attn.k_proj.weight"] = (self.num_kv_heads * head_dim, self.embed_dim)
            shapes[f"{layer}.attn.v_proj.weight"] = (self.num_kv_heads * head_dim, self.embed_dim)
            shapes[f"{layer}.attn.output_proj.weight"] = (self.embed_dim, self.num_heads * head_dim)
            shapes[f"{layer}.mlp.w1.weight"] = (self.intermediate_dim, self.embed_dim)
            shapes[f"{layer}.mlp.w2.weight"] = (self.embed_dim, self.intermediate_dim)
            shapes[f"{layer}.mlp.w3.weight"] = (self.intermediate_dim, self.embed_dim)
            shapes[f"{layer}.sa_norm.scale"] = (self.embed_dim,)
            shapes[f"{layer}.mlp_norm.scale"] = (self.embed_dim,)
        return shapes


@dataclass(frozen=True)
class OriginalModel:
    """Sesame's `Model`: its tensors by their names, and what it computes."""

    backbone: Llama
    decoder: Llama
    text_vocab_size: int
    audio_vocab_size: int
    audio_num_codebooks: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the checkpoint."""
        width, codebooks, vocab = self.backbone.embed_dim, self.audio_num_codebooks, self.audio_vocab_size
        return {
            "text_embeddings.weight": (self.text_vocab_size, width),
            "audio_embeddings.weight": (vocab * codebooks, width),
            "projection.weight": (self.decoder.embed_dim, width),
            "codebook0_head.weight": (vocab, width),
            "audio_head": (codebooks - 1, self.decoder.embed_dim, vocab),
            **self.backbone.shapes("backbone"),
            **self.decoder.shapes("decoder"),
        }

    def random_weights(self, seed: int) -> dict[str, Tensor]:
        """Weights under which activations stay near one."""
        generator = torch.Generator().manual_seed(seed)
        weights = {}
        for name, shape in self.shapes().items():
            noise = torch.randn(shape, generator=generator)
            if name.endswith("scale"):
                weights[name] = 1 + 0.2 * noise
            elif "embeddings" in name:
                weights[name] = 0.5 * noise
            else:
                weights[name] = noise / shape[-2 if name == "audio_head" else -1] ** 0.5
        return weights

    def hidden(self, weights: Mapping[str, Tensor], tokens: Tensor, mask: Tensor) -> Tensor:
        """`tokens [1, T, K+1]` and `mask` to the backbone's output `[1, T, D]`."""
        offsets = self.audio_vocab_size * torch.arange(self.audio_num_codebooks)
        audio = weights["audio_embeddings.weight"][tokens[..., :-1] + offsets]
        text = weights["text_embeddings.weight"][tokens[..., -1:]]
        embedded = torch.cat([audio, text], dim=-2) * mask.unsqueeze(-1)
        return transformer(self.backbone, weights, "backbone", embedded.sum(dim=2))

    def depth_logits(self, weights: Mapping[str, Tensor], hidden: Tensor, codes: list[Tensor]) -> Tensor:
        """Logits `[1, V]` of the codebook after `codes` (each `[1]`), from the frame's `hidden [1, D]`."""
        embedded = [self._embed_audio(weights, k, code) for k, code in enumerate(codes)]
        inputs = torch.stack([hidden, *embedded], dim=1) @ weights["projection.weight"].T
        outputs = transformer(self.decoder, weights, "decoder", inputs)
        return outputs[:, -1] @ weights["audio_head"][len(codes) - 1]

    def greedy(self, weights: Mapping[str, Tensor], tokens: Tensor, mask: Tensor, count: int) -> Tensor:
        """`generate_frame` with the likeliest code each time: `[count, K]`."""
        frames = []
        for _ in range(count):
            last = self.hidden(weights, tokens, mask)[:, -1]
            codes = [(last @ weights["codebook0_head.weight"].T).argmax(-1)]
            while len(codes) < self.audio_num_codebooks:
                codes.append(self.depth_logits(weights, last, codes).argmax(-1))
            frame = torch.stack(codes, dim=1)
            frames.append(frame[0])
            row = torch.cat([frame, torch.zeros(1, 1, dtype=torch.long)], dim=1).unsqueeze(1)
            row_mask = torch.cat([torch.ones_like(frame).bool(), torch.zeros(1, 1).bool()], dim=1).unsqueeze(1)
            tokens, mask = torch.cat([tokens, row], dim=1), torch.cat([mask, row_mask], dim=1)
        return torch.stack(frames)

    def _embed_audio(self, weights: Mapping[str, Tensor], codebook: int, codes: Tensor) -> Tensor:
        return weights["audio_embeddings.weight"][codes + codebook * self.audio_vocab_size]


def scaled_frequencies(config: Llama) -> Tensor:
    """One frequency after the other, by the cases of Meta's `apply_scaling`."""
    head_dim = config.embed_dim // config.num_heads
    low_factor, high_factor, old_length = 1.0, 4.0, 8192
    scaled = []
    for i in range(0, head_dim, 2):
        frequency = config.rope_base ** (-i / head_dim)
        wavelength = 2 * math.pi / frequency
        if wavelength < old_length / high_factor:
            scaled.append(frequency)
        elif wavelength > old_length / low_factor:
            scaled.append(frequency / config.scale_factor)
        else:
            smooth = (old_length / wavelength - low_factor) / (high_factor - low_factor)
            scaled.append((1 - smooth) * frequency / config.scale_factor + smooth * frequency)
    return torch.tensor(scaled, dtype=torch.float64)


def rotate(x: Tensor, config: Llama) -> Tensor:
    """`x [B, T, H, head_dim]`: neighbouring channels are the real and imaginary part of a number that is turned."""
    angles = torch.outer(torch.arange(x.shape[1], dtype=torch.float64), scaled_frequencies(config))
    turns = torch.polar(torch.ones_like(angles), angles)[None, :, None]
    numbers = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(numbers * turns).flatten(-2).to(x.dtype)


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * scale


def transformer(config: Llama, weights: Mapping[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    """`x [B, T, D]` through all layers and the final norm."""
    batch, steps, _ = x.shape
    head_dim, group = config.embed_dim // config.num_heads, config.num_heads // config.num_kv_heads
    future = torch.ones(steps, steps, dtype=torch.bool).triu(1)
    for i in range(config.num_layers):
        layer = {
            name.removeprefix(f"{prefix}.layers.{i}."): tensor
            for name, tensor in weights.items()
            if name.startswith(f"{prefix}.layers.{i}.")
        }
        normed = rms_norm(x, layer["sa_norm.scale"], config.norm_eps)
        q = (normed @ layer["attn.q_proj.weight"].T).view(batch, steps, config.num_heads, head_dim)
        k = (normed @ layer["attn.k_proj.weight"].T).view(batch, steps, config.num_kv_heads, head_dim)
        v = (normed @ layer["attn.v_proj.weight"].T).view(batch, steps, config.num_kv_heads, head_dim)
        q, k = rotate(q, config), rotate(k, config)
        k, v = k.repeat_interleave(group, dim=2), v.repeat_interleave(group, dim=2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / head_dim**0.5
        attention = scores.masked_fill(future, -torch.inf).softmax(-1)
        mixed = torch.einsum("bhqk,bkhd->bqhd", attention, v).reshape(batch, steps, -1)
        x = x + mixed @ layer["attn.output_proj.weight"].T
        normed = rms_norm(x, layer["mlp_norm.scale"], config.norm_eps)
        gate = torch.nn.functional.silu(normed @ layer["mlp.w1.weight"].T)
        x = x + (gate * (normed @ layer["mlp.w3.weight"].T)) @ layer["mlp.w2.weight"].T
    return rms_norm(x, weights[f"{prefix}.norm.scale"], config.norm_eps)
