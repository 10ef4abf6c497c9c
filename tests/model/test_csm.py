"""CSM: cached equals uncached, masks hide, codes find their embeddings, the depth loop is the teacher-forced one."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.config import CSM_PRESETS
from duologue.frames import audio_rows, join_rows, text_rows
from duologue.model.csm import CSM
from tests.engine.builders import tiny_csm

TINY = CSM_PRESETS["tiny"]
K = TINY.num_codebooks


@pytest.fixture(scope="module")
def model() -> CSM:
    return tiny_csm()


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def random_rows(num_rows: int, seed: int = 0, batch: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Text and audio rows in random order: `tokens [B, T, K+1]` and their mask."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for _ in range(batch):
        parts = []
        while sum(map(len, parts)) < num_rows:
            count = int(torch.randint(1, 6, (), generator=generator))
            if torch.rand((), generator=generator) < 0.5:
                ids = torch.randint(0, TINY.text_vocab_size, (count,), generator=generator).tolist()
                parts.append(text_rows(ids, K))
            else:
                parts.append(audio_rows(torch.randint(0, TINY.codebook_size, (K, count), generator=generator)))
        rows = join_rows(parts)
        batches.append((rows.tokens[:num_rows], rows.mask[:num_rows]))
    return torch.stack([tokens for tokens, _ in batches]), torch.stack([mask for _, mask in batches])


@settings(max_examples=20)
@given(chunks=st.lists(st.integers(1, 20), min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_cached_equals_uncached(model, chunks, seed):
    tokens, mask = random_rows(sum(chunks), seed, batch=2)
    with torch.no_grad():
        whole = model(tokens, mask)
        state = model.init_state(2, sum(chunks))
        pieces = [
            model(piece, piece_mask, state)
            for piece, piece_mask in zip(tokens.split(chunks, dim=1), mask.split(chunks, dim=1), strict=True)
        ]
    assert whole.shape == (2, sum(chunks), TINY.backbone.dim)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=1e-4)


def test_masked_slots_may_hold_anything(model):
    tokens, mask = random_rows(30)
    poisoned = torch.where(mask, tokens, 10**9)
    assert torch.equal(model(poisoned, mask), model(tokens, mask))
    assert torch.equal(model(torch.where(mask, tokens, -7), mask), model(tokens, mask))


def test_an_unmasked_zero_adds_a_real_vector(model):
    tokens = torch.zeros(1, 1, K + 1, dtype=torch.int64)
    nothing = model.embed(tokens, torch.zeros_like(tokens, dtype=torch.bool))
    assert torch.equal(nothing, torch.zeros_like(nothing))
    end_frame = model.embed(tokens, torch.tensor([[[True] * K + [False]]]))
    offsets = torch.arange(K) * TINY.audio_vocab_size
    torch.testing.assert_close(end_frame[0, 0], model.audio_embeddings.weight[offsets].sum(dim=0))


def test_codes_are_offset_by_the_whole_audio_vocabulary(model):
    assert TINY.audio_vocab_size == TINY.codebook_size + 3
    codes = torch.tensor([5, 0, 63, 7])
    rows = audio_rows(codes[:, None], end=False)
    embedded = model.embed(rows.tokens[None], rows.mask[None])[0, 0]
    table = model.audio_embeddings.weight.unflatten(0, (K, TINY.audio_vocab_size))
    torch.testing.assert_close(embedded, sum(table[k, codes[k]] for k in range(K)))
    assert torch.equal(model.embed_audio(torch.tensor([63]), 2), table[2, 63][None])
    rows = text_rows([17], K)
    torch.testing.assert_close(model.embed(rows.tokens[None], rows.mask[None])[0, 0], model.text_embeddings.weight[17])


def test_depth_loop_equals_the_teacher_forced_decoder(model):
    torch.manual_seed(0)
    hidden = torch.randn(3, TINY.backbone.dim)
    codes = torch.randint(0, TINY.codebook_size, (3, K))
    expected = model.depth_logits(hidden, codes)
    assert expected.shape == (3, K - 1, TINY.audio_vocab_size)
    state = model.init_depth_state(3)
    for _ in range(2):  # the second frame starts afresh
        state.reset()
        inputs = torch.stack((hidden, model.embed_audio(codes[:, 0], 0)), dim=1)
        for codebook in range(1, K):
            logits = model.depth_head(model.depth_step(inputs, state), codebook)
            torch.testing.assert_close(logits, expected[:, codebook - 1], atol=1e-5, rtol=1e-4)
            inputs = model.embed_audio(codes[:, codebook], codebook)[:, None]


def test_depth_logits_do_not_see_the_code_that_they_predict(model):
    torch.manual_seed(0)
    hidden = torch.randn(1, TINY.backbone.dim)
    codes = torch.randint(0, TINY.codebook_size, (1, K))
    before = model.depth_logits(hidden, codes)
    for codebook in range(K):
        changed = codes.clone()
        changed[0, codebook] = (codes[0, codebook] + 1) % TINY.codebook_size
        same = [torch.equal(a, b) for a, b in zip(before[0], model.depth_logits(hidden, changed)[0], strict=True)]
        assert same == [index < codebook for index in range(K - 1)]


def test_each_codebook_has_its_own_head(model):
    output = torch.randn(2, TINY.depth.dim)
    for codebook in range(1, K):
        torch.testing.assert_close(model.depth_head(output, codebook), output @ model.audio_head[codebook - 1])


def test_rows_do_not_see_later_rows(model):
    tokens, mask = random_rows(20)
    other, other_mask = random_rows(20, seed=1)
    mixed = torch.cat((tokens[:, :9], other[:, 9:]), dim=1)
    mixed_mask = torch.cat((mask[:, :9], other_mask[:, 9:]), dim=1)
    torch.testing.assert_close(model(mixed, mixed_mask)[:, :9], model(tokens, mask)[:, :9])


def test_positions_stay_float32_in_a_bfloat16_model():
    model = tiny_csm().to(torch.bfloat16)
    tokens, mask = random_rows(12)
    hidden = model(tokens, mask)
    assert hidden.dtype == torch.bfloat16
    assert model.depth_logits(hidden[0], torch.zeros(12, K, dtype=torch.int64)).dtype == torch.bfloat16
    for transformer in (model.backbone, model.depth):
        frequencies = transformer.frequencies(torch.device("cpu"))
        exact = tiny_csm().backbone if transformer is model.backbone else tiny_csm().depth
        assert frequencies.dtype == torch.float32
        assert torch.equal(frequencies, exact.frequencies(torch.device("cpu")))


def test_a_model_can_be_trained_after_it_has_spoken():
    """What inference mode leaves behind must not end up in a graph."""
    model = tiny_csm()
    tokens, mask = random_rows(10)
    with torch.inference_mode():
        state = model.init_state(1, 10)
        hidden = model(tokens, mask, state)
        model.depth_logits(hidden[0], tokens[0, :, :-1])
    with torch.enable_grad():
        hidden = model(tokens, mask)
        loss = model.codebook0_logits(hidden).square().mean() + model.depth_logits(hidden[0], tokens[0, :, :-1]).mean()
        loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_published_shape_has_the_published_size():
    with torch.device("meta"):
        model = CSM(CSM_PRESETS["csm-1b"])
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == 1_552_791_552  # 1.55 B, as published
    assert model.audio_head.shape == (31, 1024, 2051)
    assert model.audio_embeddings.weight.shape == (32 * 2051, 2048)


def test_grouped_heads_of_other_ratios():
    for num_kv_heads in (1, 2, 4):
        config = dataclasses.replace(TINY, backbone=dataclasses.replace(TINY.backbone, num_kv_heads=num_kv_heads))
        model = tiny_csm(config=config)
        tokens, mask = random_rows(8)
        state = model.init_state(1, 8)
        assert state.layers[0].keys.shape[1] == num_kv_heads
        torch.testing.assert_close(model(tokens, mask, state), model(tokens, mask), atol=1e-5, rtol=1e-4)
