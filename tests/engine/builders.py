"""Tiny models with random weights, made afresh from a seed."""

import torch

from duologue.codec.mimi import Mimi
from duologue.config import CSM_PRESETS, MIMI_PRESETS, CSMConfig
from duologue.frames import Rows, audio_rows, join_rows, text_rows
from duologue.model.csm import CSM
from duologue.text.tokenizer import TextTokenizer, build_symbol_tokenizer

SYMBOLS = "abcdefghijklmnopqrstuvwxyz.,!?'-"


def fill_codebooks(codec: Mimi, seed: int = 0) -> Mimi:
    """Random vectors: a new codec's codebooks are empty."""
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in codec.named_buffers():
        if name.endswith("embedding_sum"):
            buffer.normal_(generator=generator)
    return codec


def tiny_mimi(seed: int = 0) -> Mimi:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = Mimi(MIMI_PRESETS["tiny"])
    # Layer scales of a new codec are small; at one, an error in attention shows in the output.
    for name, parameter in codec.named_parameters():
        if name.endswith("_scale.scale"):
            parameter.data.fill_(1.0)
    return fill_codebooks(codec, seed).eval()


def tiny_csm(seed: int = 0, config: CSMConfig | None = None) -> CSM:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CSM(config or CSM_PRESETS["tiny"]).eval()


def tiny_tokenizer() -> TextTokenizer:
    return TextTokenizer(build_symbol_tokenizer(SYMBOLS), CSM_PRESETS["tiny"].text)


def tone(seconds: float, *, sample_rate: int = 24_000, hertz: float = 220.0, level: float = 0.3) -> torch.Tensor:
    """A recording that is not silent: float32 `[num_samples]`."""
    time = torch.arange(round(seconds * sample_rate)) / sample_rate
    return level * torch.sin(2 * torch.pi * hertz * time)


def prompt(model: CSM, num_text: int, num_frames: int, seed: int) -> Rows:
    """A random recording of `num_frames` and its end, then `num_text` random text tokens."""
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    ids = torch.randint(0, config.text_vocab_size, (num_text,), generator=generator).tolist()
    codes = torch.randint(0, config.codebook_size, (config.num_codebooks, num_frames), generator=generator)
    return join_rows([audio_rows(codes), text_rows(ids, config.num_codebooks)])
