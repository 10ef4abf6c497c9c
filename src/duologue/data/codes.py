"""Turns to codes, with the codec that the speech model will speak through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch

from duologue.codec.mimi import Mimi
from duologue.nn.precision import computes_bfloat16

Samples = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int16]


@contextmanager
def one_thread() -> Iterator[None]:
    """Everything that is computed inside is the same on a machine of any number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def encode_turns(
    codec: Mimi,
    turns: Sequence[Samples],
    *,
    batch_seconds: float = 10.0,
    progress: Callable[[int], None] | None = None,
) -> list[Codes]:
    """Codes `[K, T]` of each turn `[S]` at the codec's rate, by itself, as a voice prompt is at generation.

    Turns of like length share a batch of `batch_seconds`, small enough for a processor's cache; causality keeps the
    padding out of their codes. Computes in bfloat16 where the device is fast at it. `progress` gets the number of
    turns done.
    """
    device = next(codec.parameters()).device
    bfloat16 = computes_bfloat16(device)
    counts = [-(-len(turn) // codec.frame_size) for turn in turns]
    order = sorted(range(len(turns)), key=counts.__getitem__)
    found: dict[int, Codes] = {}
    while len(found) < len(order):
        at = len(found)
        size = max(1, int(batch_seconds * codec.frame_rate / max(1, counts[order[at]])))
        batch = order[at : at + size]
        pcm = torch.zeros(len(batch), 1, counts[batch[-1]] * codec.frame_size)
        for row, index in enumerate(batch):
            pcm[row, 0, : len(turns[index])] = torch.from_numpy(turns[index])
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            latent = codec.encode_latent(pcm.to(device))
        made = codec.quantizer.encode(latent.float(), codec.num_codebooks).cpu()
        for row, index in enumerate(batch):
            found[index] = made[row, :, : counts[index]].numpy().astype(np.int16)
        if progress is not None:
            progress(len(found))
    return [found[index] for index in range(len(turns))]
