"""Turns of recordings to codes, with the codec that the speech model will speak through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from duologue.codec.mimi import Mimi
from duologue.data.conversations import CodedTurn, TurnStore
from duologue.data.corpus import PcmStore, Recording
from duologue.nn.precision import computes_bfloat16

LEAD_S = 0.05
TAIL_S = 0.12


@torch.inference_mode()
def encode_turns(
    codec: Mimi,
    store: PcmStore,
    recordings: Sequence[Recording],
    folder: Path,
    *,
    fingerprint: str,
    batch_seconds: float = 10.0,
    progress: Callable[[int, int], None] | None = None,
) -> TurnStore:
    """Encodes every turn by itself, as a voice prompt is at generation, and writes a `TurnStore` to `folder`.

    A turn is cut with `LEAD_S` before it and `TAIL_S` after. Turns of like length share a batch of `batch_seconds`,
    small enough for a processor's cache; causality keeps the padding out of their codes. Computes in
    bfloat16 where the processor is fast at it. Recordings that the store lacks are left out.
    """
    rate, frame = store.sample_rate, codec.frame_size
    bfloat16 = computes_bfloat16("cpu")
    cuts = []  # (conversation, turn, recording position, first sample, last sample, number of frames)
    known = [recording for recording in recordings if str(recording.path) in store]
    for index, recording in enumerate(known):
        scale = rate / recording.sample_rate
        for number, turn in enumerate(recording.turns):
            before = recording.turns[number - 1].end if number else 0
            after = recording.turns[number + 1].start if number + 1 < len(recording.turns) else recording.num_samples
            first = round(max(turn.start * scale - LEAD_S * rate, min(before, turn.start) * scale))
            last = round(min(turn.end * scale + TAIL_S * rate, max(after, turn.end) * scale))
            place = store.position(str(recording.path))
            cuts.append((index, number, place, first, last, -(-(last - first) // frame)))
    cuts.sort(key=lambda cut: cut[-1])
    codes: dict[tuple[int, int], np.ndarray[tuple[int, ...], np.dtype[np.int16]]] = {}
    at = 0
    while at < len(cuts):
        size = max(1, int(batch_seconds * codec.frame_rate / max(1, cuts[at][-1])))
        batch = cuts[at : at + size]
        longest = batch[-1][-1] * frame
        pcm = np.zeros((len(batch), longest), np.float32)
        for row, (_, _, position, first, last, _) in enumerate(batch):
            pcm[row, : last - first] = store.read(position, first, last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            latent = codec.encode_latent(torch.from_numpy(pcm)[:, None])
        made = codec.quantizer.encode(latent.float(), codec.num_codebooks)
        for row, (index, number, _, _, _, num_frames) in enumerate(batch):
            codes[index, number] = made[row, :, :num_frames].numpy().astype(np.int16)
        at += len(batch)
        if progress is not None:
            progress(at, len(cuts))
    conversations = [
        [
            CodedTurn(turn.voice, turn.speaker, turn.text, codes[index, number])
            for number, turn in enumerate(recording.turns)
        ]
        for index, recording in enumerate(known)
    ]
    TurnStore.write(folder, conversations, fingerprint=fingerprint)
    return TurnStore(folder)
