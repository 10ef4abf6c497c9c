"""What a compiled backend compiles, compiled before anybody listens.

A part is compiled when it first runs on inputs of a kind: by how many positions are held, whether all requests have
come equally far, how many there are. A few frames of random codes show it all of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from duologue.codec.mimi import Mimi, MimiDecoderState
from duologue.engine.backends import MOST_COMPILED, Backend
from duologue.engine.batch import FrameBatch, FrameRequest
from duologue.engine.compiling import compiling
from duologue.engine.sampling import SamplingOptions
from duologue.errors import OptionError
from duologue.frames import audio_rows
from duologue.model.csm import CSM

# Prompts of two lengths: what one length leaves fixed, the second makes variable.
_PROMPTS, _NUM_FRAMES = (4, 7), 4


def warm_up(model: CSM, codec: Mimi, backend: Backend, num_streams: int = 1) -> None:
    """Speaks for one listener, or for several who come at different times, so that `backend` has met it all.

    Raises `OptionError` where it cannot compile here.
    """
    if backend.name != "compiled":
        return
    try:
        warm_up_codec(codec, backend)
        batch = FrameBatch(model, 2, backend=backend)
        for num_rows in _PROMPTS:
            speaking = batch.join(_request(model, num_rows))
            _speak(model, codec, backend, batch, codec.init_decoder_state(1))
            batch.leave(speaking)
        if num_streams > 1:
            _speak_together(model, codec, backend)
    except torch._dynamo.exc.TorchDynamoException as error:
        first = str(error).strip().splitlines()[0]
        raise OptionError(
            f"backend {backend.name!r} does not compile here: {first} (it needs a C++ compiler and Python's headers; "
            "backend 'eager' needs neither)"
        ) from error


def warm_up_codec(codec: Mimi, backend: Backend) -> None:
    """As `warm_up`, for a codec alone that decodes one stream in short chunks."""
    state = codec.init_decoder_state(1)
    for length in range(1, MOST_COMPILED + 1):
        shape, device = (1, codec.num_codebooks, length), state.transformer.lengths.device
        codes = torch.zeros(shape, dtype=torch.int64, device=device)
        for _ in range(_NUM_FRAMES):
            _decode(codec, backend, codes, state)


def _speak_together(model: CSM, codec: Mimi, backend: Backend) -> None:
    """Two who come at the same moment, and one who comes later."""
    batch, state = FrameBatch(model, 6, backend=backend), codec.init_decoder_state(3)
    for num_rows in (_PROMPTS[0], _PROMPTS[0], _PROMPTS[1]):
        batch.join(_request(model, num_rows))
        if len(batch.speaking) > 1:
            _speak(model, codec, backend, batch, state)


def _speak(model: CSM, codec: Mimi, backend: Backend, batch: FrameBatch, state: MimiDecoderState) -> None:
    for _ in range(_NUM_FRAMES):
        with compiling(long_loops=False):
            frames = [frame for _, frame in batch.step() if frame is not None]
        if frames:
            lengths = state.transformer.lengths
            speaking = state if len(lengths) == len(frames) else state.rows(0, len(frames))
            _decode(codec, backend, torch.stack(frames)[..., None].to(lengths.device), speaking)


def _decode(codec: Mimi, backend: Backend, codes: Tensor, state: MimiDecoderState) -> None:
    with compiling(long_loops=True):
        backend.decode_frames(codec, codes, state)


def _request(model: CSM, num_rows: int) -> FrameRequest:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(1, model.config.codebook_size, (model.num_codebooks, num_rows), generator=generator)
    return FrameRequest(audio_rows(codes, end=False), SamplingOptions(seed=0), max_frames=2 * num_rows)
