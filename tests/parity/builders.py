"""What the parity tests share: small networks with weights that are random but not degenerate, and greedy decoding."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from duologue.codec.mimi import Mimi
from duologue.config import TextConfig
from duologue.model.csm import CSM
from duologue.text.tokenizer import TextTokenizer, build_symbol_tokenizer

TOLERANCE = 1e-4


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer of some 50 symbols, as `tokenizer.json`."""
    path = folder / "tokenizer.json"
    TextTokenizer(build_symbol_tokenizer("abcdefghijklmnopqrstuvwxyz.,?!"), TextConfig()).save(path)
    return path


def spread_weights(module: nn.Module, seed: int, scale: float = 1.0) -> None:
    """Gives every matrix entries of the size that keeps activations near one, and every vector values around one.

    The defaults of some libraries are so small that a wrong layer would hardly show in the output.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.copy_(0.1 * noise if name.endswith("bias") else 1 + 0.2 * noise)
            elif "embed" in name:
                parameter.copy_(0.5 * noise)
            else:
                fan_in = parameter[0].numel() if parameter.dim() != 3 or "head" not in name else parameter.shape[1]
                parameter.copy_(scale * noise / fan_in**0.5)


def spread_codebooks(module: nn.Module, seed: int, names: tuple[str, str]) -> None:
    """Fills the codebooks' sums and usages (buffers of these `names`) with values that use many codes."""
    generator = torch.Generator().manual_seed(seed)
    sums, usage = names
    with torch.no_grad():
        for name, buffer in module.named_buffers():
            if name.endswith(usage):
                buffer.copy_(0.5 + 4 * torch.rand(buffer.shape, generator=generator))
        buffers = dict(module.named_buffers())
        for name, buffer in buffers.items():
            if name.endswith(sums):
                counts = buffers[name.removesuffix(sums) + usage]
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * counts[:, None])


@torch.no_grad()
def fit_codebooks(stacks: list[tuple[nn.Module, list[nn.Module], str]], latents: Tensor, seed: int) -> None:
    """Makes codebooks of random vectors as large as what is left for them, so that all of them are in use.

    Each stack is a projection (a convolution of size 1), its codebooks in order, and the name of their sums; `latents
    [B, D, T]` is what the encoder gave for some audio. No two vectors are near each other: the smallest rounding would
    choose between them.
    """
    generator = torch.Generator().manual_seed(seed)
    for projection, codebooks, sums in stacks:
        residual = projection(latents).transpose(1, 2).flatten(0, 1)  # [B * T, codebook dim]
        for codebook in codebooks:
            size = codebook.cluster_usage.shape[0]
            noise = torch.randn(size, residual.shape[1], generator=generator)
            vectors = residual.mean(dim=0) + residual.std(dim=0) * noise
            codebook.cluster_usage.copy_(0.5 + 4 * torch.rand(size, generator=generator))
            getattr(codebook, sums).copy_(vectors * codebook.cluster_usage[:, None])
            residual = residual - vectors[torch.cdist(residual, vectors).argmin(dim=-1)]


def speech_like(num_samples: int, seed: int, batch: int = 1) -> Tensor:
    """Tones and noise that change ten times a second, `[B, 1, S]` in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    step = 2400
    count = -(-num_samples // step)

    def held(low: float, high: float) -> Tensor:
        values = low + (high - low) * torch.rand(batch, 1, count, generator=generator)
        return values.repeat_interleave(step, dim=-1)[..., :num_samples]

    tone = held(0.005, 0.3).cumsum(dim=-1).sin()
    noise = torch.randn(batch, 1, num_samples, generator=generator)
    return (held(0, 0.7) * tone + held(0, 0.3) * noise).clamp(-1, 1)


@torch.no_grad()
def assert_same_codes(codec: Mimi, pcm: Tensor, codes: Tensor, expected: Tensor) -> None:
    """The codes `[B, K, T]` of `pcm` are equal.

    One frame in 200 may differ from where two vectors of a codebook are equally near, up to float32 rounding: there the
    sum's order decides, which is not the same on every machine. What follows in that frame depends on it.
    """
    assert codes.shape == expected.shape
    frames = (codes != expected).any(dim=1).nonzero().tolist()
    assert len(frames) <= codes[:, 0].numel() / 200, f"{len(frames)} frames differ"
    if not frames:
        return
    latent = codec.encode_latent(pcm)
    for row, frame in frames:
        first = int((codes[row, :, frame] != expected[row, :, frame]).nonzero()[0])
        stack, start = (codec.quantizer.semantic, 0) if first == 0 else (codec.quantizer.acoustic, 1)
        residual = stack.input_proj(latent[row, frame])
        books = list(stack)
        for index in range(start, first):
            residual = residual - books[index - start].decode(codes[row, index, frame])
        vectors = books[first - start].vectors
        near, other = (residual - vectors[index[row, first, frame]] for index in (codes, expected))
        gap = (near.square().sum() - other.square().sum()).abs() / near.square().sum()
        assert gap < 1e-5, f"frame {frame} differs from codebook {first} on, and not by rounding ({gap:.1e})"


@torch.no_grad()
def greedy_frames(model: CSM, tokens: Tensor, mask: Tensor, count: int) -> Tensor:
    """The likeliest frames after the rows `tokens [1, T, K+1]`, step by step with caches: `[count, K]`."""
    state = model.init_state(1, tokens.shape[1] + count)
    hidden = model(tokens, mask, state)[:, -1]
    frames = []
    for _ in range(count):
        codes = [model.codebook0_logits(hidden).argmax(-1)]
        depth_state = model.init_depth_state(1)
        inputs = torch.stack((hidden, model.embed_audio(codes[0], 0)), dim=1)
        for codebook in range(1, model.num_codebooks):
            output = model.depth_step(inputs, depth_state)
            codes.append(model.depth_head(output, codebook).argmax(-1))
            inputs = model.embed_audio(codes[-1], codebook)[:, None]
        frame = torch.stack(codes, dim=-1)  # [1, K]
        frames.append(frame[0])
        row = torch.cat((frame, torch.zeros(1, 1, dtype=torch.int64)), dim=1)[:, None]
        row_mask = torch.ones_like(row, dtype=torch.bool)
        row_mask[..., -1] = False
        hidden = model(row, row_mask, state)[:, -1]
    return torch.stack(frames)
