"""Our CSM against the original one, on random float32 weights under the original names (see `original.py`)."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from duologue.checkpoints import load_checkpoint, save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.config import MIMI_PRESETS
from duologue.frames import audio_rows, join_rows, text_rows
from duologue.model.csm import CSM
from tests.parity.builders import TOLERANCE, greedy_frames, spread_codebooks, write_tokenizer
from tests.parity.original import Llama, OriginalModel

NUM_FRAMES = 40
TEXT_VOCAB = 80
CODES, RESERVED = 64, 3

SHAPES = {
    "grouped": OriginalModel(Llama(2, 8, 2, 64, 96), Llama(2, 4, 1, 32, 48), TEXT_VOCAB, CODES + RESERVED, 4),
    "every head its own": OriginalModel(
        Llama(1, 2, 2, 32, 48), Llama(1, 2, 2, 32, 48), TEXT_VOCAB, CODES + RESERVED, 3
    ),
    "long wavelengths": OriginalModel(Llama(2, 1, 1, 128, 96), Llama(2, 1, 1, 64, 48), TEXT_VOCAB, CODES + RESERVED, 4),
}


def hub_style_config(model: OriginalModel) -> dict[str, object]:
    """A `config.json` such as the hub repository has beside the original weights: transformers' fields."""

    def fields(llama: Llama) -> dict[str, object]:
        return {
            "hidden_size": llama.embed_dim,
            "intermediate_size": llama.intermediate_dim,
            "num_hidden_layers": llama.num_layers,
            "num_attention_heads": llama.num_heads,
            "num_key_value_heads": llama.num_kv_heads,
            "vocab_size": model.audio_vocab_size,
            "num_codebooks": model.audio_num_codebooks,
            "rope_theta": 500_000,
            "rope_scaling": {
                "factor": 32.0,
                "low_freq_factor": 0.125,
                "high_freq_factor": 0.5,
                "original_max_position_embeddings": 1024,
                "rope_type": "llama3",
            },
        }

    return {
        "model_type": "csm",
        "text_vocab_size": model.text_vocab_size,
        **fields(model.backbone),
        "depth_decoder_config": {"backbone_hidden_size": model.backbone.embed_dim, **fields(model.decoder)},
        "codec_config": {"codebook_size": CODES},
    }


def write_original(model: OriginalModel, weights: dict[str, Tensor], folder: Path) -> Path:
    """The original layout as users have it: tensors, config, tokenizer, and moshi's codec file side by side."""
    codec = Mimi(MIMI_PRESETS["tiny"])
    spread_codebooks(codec, 0, ("embedding_sum", "cluster_usage"))
    save_checkpoint(folder, "moshi-mimi", codec=codec)
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(hub_style_config(model)))
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def trio(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[OriginalModel, dict[str, Tensor], CSM]:
    model: OriginalModel = request.param
    weights = model.random_weights(seed=1)
    checkpoint = load_checkpoint(write_original(model, weights, tmp_path_factory.mktemp("original")), offline=True)
    assert checkpoint.layout == "sesame"
    return model, weights, checkpoint.model


def context(num_codebooks: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    parts = []
    for num_tokens, num_frames in ((6, 20), (9, 0)):
        parts.append(
            text_rows(torch.randint(0, TEXT_VOCAB, (num_tokens,), generator=generator).tolist(), num_codebooks)
        )
        if num_frames:
            parts.append(audio_rows(torch.randint(0, CODES, (num_codebooks, num_frames), generator=generator)))
    rows = join_rows(parts)
    return rows.tokens[None], rows.mask[None]


@torch.no_grad()
def test_logits_are_the_same(trio: tuple[OriginalModel, dict[str, Tensor], CSM]) -> None:
    model, weights, ours = trio
    tokens, mask = context(model.audio_num_codebooks)
    expected, hidden = model.hidden(weights, tokens, mask), ours(tokens, mask)
    torch.testing.assert_close(hidden, expected, atol=TOLERANCE, rtol=0)
    logits = expected @ weights["codebook0_head.weight"].T
    assert logits.std() > 0.1
    torch.testing.assert_close(ours.codebook0_logits(hidden), logits, atol=TOLERANCE, rtol=0)

    codes = tokens[:, 8, :-1]  # a frame of the context, scored from the row before it
    depth = ours.depth_logits(hidden[:, 7], codes)
    for k in range(1, model.audio_num_codebooks):
        expected = model.depth_logits(weights, hidden[:, 7], list(codes[:, :k].unbind(1)))
        assert expected.std() > 0.1
        torch.testing.assert_close(depth[:, k - 1], expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_greedy_frames_are_the_same(trio: tuple[OriginalModel, dict[str, Tensor], CSM]) -> None:
    model, weights, ours = trio
    tokens, mask = context(model.audio_num_codebooks)
    expected = model.greedy(weights, tokens, mask, NUM_FRAMES)
    assert len(expected.unique(dim=0)) > 3, "the weights are so degenerate that the frames repeat"
    assert torch.equal(greedy_frames(ours, tokens, mask, NUM_FRAMES), expected)
