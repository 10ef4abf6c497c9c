"""Our CSM against transformers' `CsmForConditionalGeneration`, on random float32 weights that it saved itself."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from duologue.checkpoints import load_checkpoint, load_codec, save_checkpoint
from duologue.errors import CheckpointError
from duologue.frames import audio_rows, join_rows, text_rows
from duologue.model.csm import CSM
from duologue.model.loss import csm_loss
from tests.parity.builders import (
    TOLERANCE,
    greedy_frames,
    speech_like,
    spread_codebooks,
    spread_weights,
    write_tokenizer,
)

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

NUM_FRAMES = 40
TEXT_VOCAB = 80
AUDIO_TOKEN, AUDIO_END_TOKEN = TEXT_VOCAB - 2, TEXT_VOCAB - 1
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "rope_theta": 500_000.0}
BACKBONE_ROPE = {
    **LLAMA3,
    "low_freq_factor": 0.125,
    "high_freq_factor": 0.5,
    "original_max_position_embeddings": 1024,
}
DEPTH_ROPE = {
    **LLAMA3,
    "low_freq_factor": 0.001953125,
    "high_freq_factor": 0.0078125,
    "original_max_position_embeddings": 16,
}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


@dataclass(frozen=True)
class Shape:
    heads: int = 4
    kv_heads: int = 2
    depth_heads: int = 4
    depth_kv_heads: int = 1
    codebooks: int = 4
    tied: bool = True
    head_dim: int | None = None
    backbone_rope: dict[str, Any] = field(default_factory=lambda: BACKBONE_ROPE)
    depth_rope: dict[str, Any] = field(default_factory=lambda: DEPTH_ROPE)


SHAPES = {
    "grouped": Shape(),
    "every head its own": Shape(heads=4, kv_heads=4, depth_heads=2, depth_kv_heads=2),
    "one for all": Shape(heads=8, kv_heads=1, depth_heads=2, depth_kv_heads=1, codebooks=2),
    "as many codebooks as csm-1b": Shape(codebooks=32),
    "untied": Shape(tied=False, codebooks=6),
    "wide heads": Shape(head_dim=24),
    "different ropes": Shape(backbone_rope=BACKBONE_ROPE, depth_rope=PLAIN_ROPE),
}


def build(shape: Shape, seed: int) -> Any:
    vocab = 64 + 3
    config = transformers.CsmConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        num_codebooks=shape.codebooks,
        vocab_size=vocab,
        text_vocab_size=TEXT_VOCAB,
        rope_parameters=dict(shape.backbone_rope),
        tie_codebooks_embeddings=shape.tied,
        bos_token_id=1,
        pad_token_id=0,
        codebook_pad_token_id=vocab - 1,
        audio_token_id=AUDIO_TOKEN,
        audio_eos_token_id=AUDIO_END_TOKEN,
        depth_decoder_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": shape.depth_heads,
            "num_key_value_heads": shape.depth_kv_heads,
            "num_codebooks": shape.codebooks,
            "vocab_size": vocab,
            "backbone_hidden_size": 64,
            "rope_parameters": dict(shape.depth_rope),
        },
        codec_config={
            "model_type": "mimi",
            "hidden_size": 32,
            "num_filters": 4,
            "num_hidden_layers": 2,
            "intermediate_size": 48,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "codebook_size": 64,
            "codebook_dim": 16,
            "vector_quantization_hidden_dimension": 16,
            "num_quantizers": max(shape.codebooks, 4),
            "upsample_groups": 32,
            "sliding_window": 20,
        },
    )
    theirs = transformers.CsmForConditionalGeneration(config).eval()
    spread_weights(theirs, seed)
    spread_codebooks(theirs, seed, ("embed_sum", "cluster_usage"))
    if not shape.tied:
        audio = theirs.backbone_model.embed_tokens.embed_audio_tokens.weight
        theirs.depth_decoder.model.embed_tokens.weight.data.copy_(audio.data)
    return theirs


def save(theirs: Any, folder: Path) -> Path:
    theirs.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, CSM]:
    theirs = build(request.param, seed=7)
    return theirs, load_checkpoint(save(theirs, tmp_path_factory.mktemp("csm"))).model


def context(num_codebooks: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two segments with audio and one without: rows `[1, T, K+1]` and their mask."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for num_tokens, num_frames in ((7, 9), (5, 6), (8, 0)):
        parts.append(
            text_rows(torch.randint(0, TEXT_VOCAB, (num_tokens,), generator=generator).tolist(), num_codebooks)
        )
        if num_frames:
            parts.append(audio_rows(torch.randint(0, 64, (num_codebooks, num_frames), generator=generator)))
    rows = join_rows(parts)
    return rows.tokens[None], rows.mask[None]


def their_embeddings(theirs: Any, tokens: Tensor, mask: Tensor) -> Tensor:
    """Their input embeddings for our rows: text rows by the one table, audio rows by the other."""
    text = theirs.embed_text_tokens(tokens[..., -1])
    audio = theirs.backbone_model.embed_tokens(tokens[..., :-1])
    return torch.where(mask[..., -1:], text, audio)


@torch.no_grad()
def test_logits_are_the_same(pair: tuple[Any, CSM]) -> None:
    theirs, ours = pair
    tokens, mask = context(ours.num_codebooks, seed=1)
    hidden = ours(tokens, mask)
    their_hidden = theirs.backbone_model(inputs_embeds=their_embeddings(theirs, tokens, mask)).last_hidden_state
    torch.testing.assert_close(hidden, their_hidden, atol=TOLERANCE, rtol=0)
    logits, their_logits = ours.codebook0_logits(hidden), theirs.lm_head(their_hidden)
    assert their_logits.std() > 0.1
    torch.testing.assert_close(logits, their_logits, atol=TOLERANCE, rtol=0)

    frames = mask[0, :, 0]
    codes, before = tokens[0, frames, :-1], hidden[0][frames.roll(-1)]
    inputs = torch.nn.functional.pad(codes[:, :-1], (1, 0))  # the first place is the hidden's
    depth = theirs.depth_decoder(input_ids=inputs, backbone_last_hidden_state=before.clone()).logits
    assert depth.std() > 0.1
    torch.testing.assert_close(ours.depth_logits(before, codes), depth, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_losses_are_the_same(pair: tuple[Any, CSM]) -> None:
    """Both terms, on every frame of two sequences, their end frames included."""
    theirs, ours = pair
    rows = [context(ours.num_codebooks, seed) for seed in (1, 2)]
    tokens, mask = (torch.cat([pair[index] for pair in rows]) for index in range(2))
    scored = mask[..., 0]
    labels = torch.where(scored[..., None], tokens[..., :-1], -100)
    expected = theirs(inputs_embeds=their_embeddings(theirs, tokens, mask), labels=labels)
    loss = csm_loss(ours, tokens, mask, scored, depth_share=1.0)
    torch.testing.assert_close(loss.codebook0, expected.backbone_loss, atol=1e-5, rtol=0)
    torch.testing.assert_close(loss.depth, expected.depth_decoder_loss, atol=1e-5, rtol=0)


@torch.no_grad()
def test_greedy_frames_are_the_same(pair: tuple[Any, CSM]) -> None:
    theirs, ours = pair
    ids = torch.randint(3, TEXT_VOCAB - 2, (1, 11), generator=torch.Generator().manual_seed(2))
    expected = theirs.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        depth_decoder_do_sample=False,
        max_new_tokens=NUM_FRAMES,
    )
    assert expected.shape == (1, NUM_FRAMES, ours.num_codebooks)
    assert len(expected[0].unique(dim=0)) > 3, "the weights are so degenerate that the frames repeat"
    rows = text_rows(ids[0].tolist(), ours.num_codebooks)
    frames = greedy_frames(ours, rows.tokens[None], rows.mask[None], NUM_FRAMES)
    assert torch.equal(frames, expected[0])


@torch.no_grad()
def test_greedy_frames_after_audio_are_the_same(tmp_path: Path) -> None:
    """The whole way: their codec encodes the context's audio and their processor's ids mark its places."""
    theirs = build(Shape(codebooks=4), seed=3)
    checkpoint = load_checkpoint(save(theirs, tmp_path))
    ours, codec = checkpoint.model, checkpoint.codec
    audio = speech_like(6 * codec.frame_size, seed=4)
    codes = codec.encode(audio)[0]
    text = torch.randint(3, TEXT_VOCAB - 2, (2, 6), generator=torch.Generator().manual_seed(5))
    marks = torch.tensor([AUDIO_TOKEN] * codes.shape[1] + [AUDIO_END_TOKEN])
    ids = torch.cat((text[0], marks, text[1]))[None]
    expected = theirs.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        input_values=audio,
        input_values_cutoffs=torch.tensor([[audio.shape[-1]]]),
        do_sample=False,
        depth_decoder_do_sample=False,
        max_new_tokens=NUM_FRAMES,
    )
    rows = join_rows([text_rows(text[0].tolist(), 4), audio_rows(codes), text_rows(text[1].tolist(), 4)])
    frames = greedy_frames(ours, rows.tokens[None], rows.mask[None], NUM_FRAMES)
    assert torch.equal(frames, expected[0])


@torch.no_grad()
@pytest.mark.parametrize("max_shard_bytes", [10**9, 100_000])
def test_they_load_what_we_write(tmp_path: Path, max_shard_bytes: int) -> None:
    theirs = build(Shape(), seed=11)
    loaded = load_checkpoint(save(theirs, tmp_path / "theirs"))
    save_checkpoint(
        tmp_path / "ours",
        "transformers",
        model=loaded.model,
        codec=loaded.codec,
        tokenizer_path=tmp_path / "theirs" / "tokenizer.json",
        max_shard_bytes=max_shard_bytes,
    )
    assert (tmp_path / "ours" / "model.safetensors.index.json").exists() == (max_shard_bytes == 100_000)
    again, info = transformers.CsmForConditionalGeneration.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    state, expected = again.state_dict(), theirs.state_dict()
    initialized = {name for name in expected if name.endswith("initialized")}  # written as 1, which nothing reads
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected.keys() - initialized)
    for part in ("backbone_model", "depth_decoder.model"):
        frequencies = f"{part}.rotary_emb"
        torch.testing.assert_close(
            again.get_submodule(frequencies).inv_freq, theirs.get_submodule(frequencies).inv_freq, atol=0, rtol=0
        )
    tokens, mask = context(4, seed=1)
    hidden = again.backbone_model(inputs_embeds=their_embeddings(again, tokens, mask)).last_hidden_state
    torch.testing.assert_close(loaded.model(tokens, mask), hidden, atol=TOLERANCE, rtol=0)
    assert again.generation_config.do_sample and again.depth_decoder.generation_config.top_k == 50


def test_embeddings_that_are_not_tied_are_refused(tmp_path: Path) -> None:
    theirs = build(Shape(tied=False), seed=5)
    theirs.depth_decoder.model.embed_tokens.weight.data[3, 2] += 1e-3
    save(theirs, tmp_path)
    with pytest.raises(CheckpointError, match="differ, but the model has one tensor for both"):
        load_checkpoint(tmp_path)


@torch.no_grad()
def test_the_codec_inside_is_theirs(tmp_path: Path) -> None:
    theirs = build(Shape(), seed=6)
    codec = load_codec(save(theirs, tmp_path))
    audio = speech_like(30 * codec.frame_size, seed=8)
    codes = theirs.codec_model.encode(audio).audio_codes
    assert len(codes.unique()) > 20
    assert torch.equal(codec.encode(audio), codes)
    torch.testing.assert_close(
        codec.decode(codes), theirs.codec_model.decode(codes).audio_values, atol=TOLERANCE, rtol=0
    )
