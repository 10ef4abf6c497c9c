"""Our Mimi against transformers' `MimiModel`, on random float32 weights that it saved itself."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from duologue.checkpoints import load_codec, save_checkpoint
from duologue.codec.mimi import Mimi
from tests.parity.builders import TOLERANCE, assert_same_codes, fit_codebooks, speech_like, spread_weights

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@dataclass(frozen=True)
class Shape:
    heads: int = 2
    head_dim: int = 16
    codebooks: int = 8
    window: int = 250
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    filters: int = 4


SHAPES = {
    "one head": Shape(heads=1, head_dim=32, codebooks=4),
    "all codebooks, short window": Shape(codebooks=32, window=10),
    "three stages": Shape(heads=4, head_dim=8, ratios=(6, 5, 4), window=20),
}


def build(shape: Shape, seed: int) -> Any:
    config = transformers.MimiConfig(
        hidden_size=32,
        num_filters=shape.filters,
        upsampling_ratios=list(shape.ratios),
        num_hidden_layers=2,
        intermediate_size=48,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        head_dim=shape.head_dim,
        codebook_size=64,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        num_quantizers=shape.codebooks,
        upsample_groups=32,
        sliding_window=shape.window,
    )
    theirs = transformers.MimiModel(config).eval()
    spread_weights(theirs, seed)
    pcm = speech_like(60 * config.frame_size, seed, batch=2)
    stacks = [
        (stack.input_proj, [layer.codebook for layer in stack.layers], "embed_sum")
        for stack in (
            theirs.quantizer.semantic_residual_vector_quantizer,
            theirs.quantizer.acoustic_residual_vector_quantizer,
        )
    ]
    fit_codebooks(stacks, theirs.encoder(pcm).latents, seed)
    return theirs


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Mimi]:
    theirs = build(request.param, seed=3)
    folder = tmp_path_factory.mktemp("mimi")
    theirs.save_pretrained(folder)
    return theirs, load_codec(folder)


@torch.no_grad()
def test_codes_and_audio_are_the_same(pair: tuple[Any, Mimi]) -> None:
    theirs, ours = pair
    pcm = speech_like(45 * ours.frame_size, seed=1, batch=2)
    codes = theirs.encode(pcm).audio_codes
    assert codes.shape == (2, ours.num_codebooks, 45)
    assert all(len(book.unique()) > 10 for book in codes.transpose(0, 1)), "the codebooks are not in use"
    assert_same_codes(ours, pcm, ours.encode(pcm), codes)
    few = theirs.encode(pcm, num_quantizers=3).audio_codes
    assert_same_codes(ours, pcm, ours.encode(pcm, num_codebooks=3), few)
    for chosen in (codes, few):
        expected = theirs.decode(chosen).audio_values
        assert expected.std() > 0.01
        torch.testing.assert_close(ours.decode(chosen), expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_audio_longer_than_the_window_is_the_same(tmp_path: Path) -> None:
    """22 s: more than the 10 s window, and more than the 20 s that run in one piece."""
    theirs = build(Shape(filters=2), seed=4)
    theirs.save_pretrained(tmp_path)
    ours = load_codec(tmp_path)
    num_frames = 275
    pcm = speech_like(num_frames * ours.frame_size, seed=5)
    codes = theirs.encode(pcm).audio_codes
    assert_same_codes(ours, pcm, ours.encode(pcm), codes)
    audio = theirs.decode(codes).audio_values
    torch.testing.assert_close(ours.decode(codes), audio, atol=TOLERANCE, rtol=0)

    unbounded = transformers.MimiModel(
        transformers.MimiConfig(**{**theirs.config.to_dict(), "sliding_window": 10_000})
    ).eval()
    unbounded.load_state_dict(theirs.state_dict())
    assert not torch.equal(unbounded.encode(pcm).audio_codes, codes), "the window makes no difference here"


@torch.no_grad()
def test_they_load_what_we_write(tmp_path: Path) -> None:
    theirs = build(Shape(), seed=6)
    theirs.save_pretrained(tmp_path / "theirs")
    save_checkpoint(tmp_path / "ours", "transformers-mimi", codec=load_codec(tmp_path / "theirs"))
    again, info = transformers.MimiModel.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    state, expected = again.state_dict(), theirs.state_dict()
    assert state.keys() == expected.keys()
    initialized = {name for name in expected if name.endswith("initialized")}  # written as 1, which nothing reads
    assert all(torch.equal(state[name], expected[name]) for name in expected.keys() - initialized)
    pcm = speech_like(20 * again.config.frame_size, seed=2)
    assert torch.equal(again.encode(pcm).audio_codes, theirs.encode(pcm).audio_codes)
