"""Our Mimi against Kyutai's `moshi`, offline and streaming, on random float32 weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from duologue.checkpoints import load_codec, save_checkpoint
from duologue.checkpoints.io import read_json, write_json
from duologue.codec.mimi import Mimi
from tests.parity.builders import TOLERANCE, assert_same_codes, fit_codebooks, speech_like, spread_weights

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

FILE = "tokenizer-e351c8d8-checkpoint125.safetensors"


@dataclass(frozen=True)
class Shape:
    heads: int = 2
    codebooks: int = 8
    window: int = 250
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    filters: int = 4


SHAPES = {
    "one head": Shape(heads=1, codebooks=4),
    "all codebooks, short window": Shape(codebooks=32, window=10),
    "three stages": Shape(heads=4, ratios=(6, 5, 4), window=20),
}


def dialect(shape: Shape) -> dict[str, Any]:
    """The `mimi_config` of a reduced codec: moshi's own one, with other sizes."""
    loaders = pytest.importorskip("moshi.models.loaders")
    hop = 2
    for ratio in shape.ratios:
        hop *= ratio
    return {
        **loaders._mimi_config,
        "frame_rate": 24_000 / hop,
        "seanet": {
            **loaders._seanet_kwargs,
            "dimension": 32,
            "n_filters": shape.filters,
            "ratios": list(shape.ratios),
        },
        "quantizer": {
            **loaders._quantizer_kwargs,
            "dimension": 16,
            "n_q": shape.codebooks,
            "bins": 64,
            "input_dimension": 32,
            "output_dimension": 32,
        },
        "transformer": {
            **loaders._transformer_kwargs,
            "d_model": 32,
            "num_heads": shape.heads,
            "num_layers": 2,
            "dim_feedforward": 48,
            "context": shape.window,
            "input_dimension": 32,
            "output_dimensions": [32],
        },
    }


def build(shape: Shape, seed: int, folder: Path) -> Any:
    """Their codec with random weights, and its file and configuration in `folder`."""
    loaders = pytest.importorskip("moshi.models.loaders")
    config = dialect(shape)
    theirs = loaders.get_mimi(None, config, num_codebooks=shape.codebooks)
    spread_weights(theirs, seed)
    pcm = speech_like(60 * theirs.frame_size, seed, batch=2)
    stacks = [
        (stack.input_proj, [layer._codebook for layer in stack.vq.layers], "embedding_sum")
        for stack in (theirs.quantizer.rvq_first, theirs.quantizer.rvq_rest)
    ]
    fit_codebooks(stacks, theirs.encode_to_latent(pcm, quantize=False), seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(theirs.state_dict(), folder / FILE)
    write_json(folder / "mimi_config.json", config)
    return theirs


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Mimi]:
    folder = tmp_path_factory.mktemp("moshi")
    return build(request.param, 3, folder), load_codec(folder)


@contextmanager
def streaming(theirs: Any, spare: int) -> Iterator[None]:
    """Their streaming mode, with `spare` more places in the attention caches.

    Their caches have just as many places as the window has steps, and the new steps are written before they are read:
    once the window is full, the first step of a call misses as many of its oldest keys as the call has further steps.
    That is theirs alone: with room to spare their stream is their offline result, as ours always is.
    """
    transformer = pytest.importorskip("moshi.modules.transformer")
    with theirs.streaming(1):
        for module in theirs.modules():
            if isinstance(module, transformer.StreamingMultiheadAttention):
                state, ring = module._streaming_state, module._streaming_state.kv_cache
                _, batch, heads, capacity, head_dim = ring.cache.shape
                state.kv_cache = transformer.RingKVCache(
                    batch, heads, head_dim, capacity + spare, device=ring.cache.device, dtype=ring.cache.dtype
                )
        yield


def chunks(num_frames: int, seed: int) -> Iterator[tuple[int, int]]:
    """Random pieces of 1 to 7 frames."""
    generator, start = torch.Generator().manual_seed(seed), 0
    while start < num_frames:
        stop = min(num_frames, start + int(torch.randint(1, 8, (), generator=generator)))
        yield start, stop
        start = stop


@torch.no_grad()
def test_codes_and_audio_are_the_same(pair: tuple[Any, Mimi]) -> None:
    theirs, ours = pair
    pcm = speech_like(45 * ours.frame_size - ours.frame_size // 3, seed=1, batch=2)  # the last frame is not whole
    codes = theirs.encode(pcm)
    assert codes.shape == (2, ours.num_codebooks, 45)
    assert all(len(book.unique()) > 10 for book in codes.transpose(0, 1)), "the codebooks are not in use"
    assert_same_codes(ours, pcm, ours.encode(pcm), codes)
    expected = theirs.decode(codes)
    assert expected.std() > 0.01
    torch.testing.assert_close(ours.decode(codes), expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_streams_are_the_same(pair: tuple[Any, Mimi]) -> None:
    """Both stream in the same random pieces, beyond the window where it is short; offline gives the same codes."""
    theirs, ours = pair
    num_frames, size = 60, ours.frame_size
    pcm = speech_like(num_frames * size, seed=2)
    codes: list[Tensor] = []
    our_codes: list[Tensor] = []
    encoder_state, decoder_state = ours.init_encoder_state(1), ours.init_decoder_state(1)
    with streaming(theirs, spare=14):
        for start, stop in chunks(num_frames, seed=5):
            piece = pcm[..., start * size : stop * size]
            codes.append(theirs.encode(piece))
            our_codes.append(ours.encode(piece, encoder_state))
    whole = torch.cat(codes, dim=-1)
    assert_same_codes(ours, pcm, torch.cat(our_codes, dim=-1), whole)
    assert_same_codes(ours, pcm, ours.encode(pcm), whole)
    audio: list[Tensor] = []
    with streaming(theirs, spare=14):
        for start, stop in chunks(num_frames, seed=6):
            piece = whole[..., start:stop]
            audio.append(theirs.decode(piece))
            torch.testing.assert_close(ours.decode(piece, decoder_state), audio[-1], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(ours.decode(whole), torch.cat(audio, dim=-1), atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_audio_longer_than_the_window_is_the_same(tmp_path: Path) -> None:
    """22 s, offline and in their stream, with the true window of 10 s."""
    theirs = build(Shape(filters=2), 4, tmp_path)
    ours = load_codec(tmp_path)
    num_frames, size = 275, ours.frame_size
    pcm = speech_like(num_frames * size, seed=5)
    codes = theirs.encode(pcm)
    assert_same_codes(ours, pcm, ours.encode(pcm), codes)
    torch.testing.assert_close(ours.decode(codes), theirs.decode(codes), atol=TOLERANCE, rtol=0)
    state, pieces = ours.init_encoder_state(1), pcm.split(25 * size, dim=-1)
    with streaming(theirs, spare=50):
        streamed = torch.cat([theirs.encode(piece) for piece in pieces], dim=-1)
    our_stream = torch.cat([ours.encode(piece, state) for piece in pieces], dim=-1)
    assert_same_codes(ours, pcm, our_stream, streamed)
    assert_same_codes(ours, pcm, our_stream, codes)


@torch.no_grad()
def test_their_own_stream_is_ours_until_the_window_is_full(tmp_path: Path) -> None:
    """Nothing of theirs is touched here: frame by frame through 10 s, where their caches begin to wrap."""
    theirs = build(Shape(filters=2), 7, tmp_path)
    ours = load_codec(tmp_path)
    num_frames, size = 125, ours.frame_size
    pcm = speech_like(num_frames * size, seed=6)
    encoder_state, decoder_state = ours.init_encoder_state(1), ours.init_decoder_state(1)
    codes, our_codes = [], []
    with theirs.streaming(1):
        for piece in pcm.split(size, dim=-1):
            codes.append(theirs.encode(piece))
            our_codes.append(ours.encode(piece, encoder_state))
            audio = ours.decode(codes[-1], decoder_state)
            torch.testing.assert_close(audio, theirs.decode(codes[-1]), atol=TOLERANCE, rtol=0)
    assert_same_codes(ours, pcm, torch.cat(our_codes, dim=-1), torch.cat(codes, dim=-1))


@torch.no_grad()
@pytest.mark.parametrize("count", [2, 5, 8])
def test_the_first_codebooks_are_theirs(tmp_path: Path, count: int) -> None:
    theirs = build(Shape(), 8, tmp_path)
    theirs.set_num_codebooks(count)
    ours = load_codec(tmp_path, num_codebooks=count)
    assert ours.num_codebooks == count
    pcm = speech_like(20 * ours.frame_size, seed=9)
    codes = theirs.encode(pcm)
    assert codes.shape[1] == count
    assert_same_codes(ours, pcm, ours.encode(pcm), codes)
    torch.testing.assert_close(ours.decode(codes), theirs.decode(codes), atol=TOLERANCE, rtol=0)


def test_the_published_spelling_is_read_and_written(tmp_path: Path) -> None:
    """The published file has `in_proj_weight` and `out_proj.weight`, which moshi's modules rename when they load it."""
    theirs = build(Shape(), 5, tmp_path / "new")
    tensors = load_file(tmp_path / "new" / FILE)
    old = {
        name.replace("in_projs.0.weight", "in_proj_weight").replace("out_projs.0.weight", "out_proj.weight"): tensor
        for name, tensor in tensors.items()
    }
    assert old.keys() != tensors.keys()
    (tmp_path / "old").mkdir()
    save_file(old, tmp_path / "old" / FILE)
    write_json(tmp_path / "old" / "mimi_config.json", read_json(tmp_path / "new" / "mimi_config.json"))
    ours = load_codec(tmp_path / "old")
    reference = load_codec(tmp_path / "new").state_dict()
    assert all(torch.equal(tensor, reference[name]) for name, tensor in ours.state_dict().items())

    save_checkpoint(tmp_path / "ours", "moshi-mimi", codec=ours)
    written = load_file(tmp_path / "ours" / FILE)
    assert written.keys() == old.keys()
    loaders = pytest.importorskip("moshi.models.loaders")
    again = loaders.get_mimi(
        tmp_path / "ours" / FILE, read_json(tmp_path / "ours" / "mimi_config.json"), num_codebooks=8
    )
    expected = theirs.state_dict()
    for name, tensor in again.state_dict().items():
        if not name.endswith("_initialized"):  # written as 1, which only their training reads
            assert torch.equal(tensor, expected[name]), name
