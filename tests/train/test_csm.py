"""The speech model's training step: what is masked, what is learned, and that it learns."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from duologue.config import CSM_PRESETS
from duologue.errors import TrainingError
from duologue.frames import RowBatch
from duologue.model.csm import CSM
from duologue.train.csm import (
    CSMTrainConfig,
    CSMTraining,
    attention_for_changing_lengths,
    embed_codebooks,
    guided_text_masking,
    hidden_matrices,
    hidden_rows,
    start_from,
    train_csm,
    validation_losses,
    without_codes,
)
from duologue.train.loop import WEIGHT, LoopConfig


def make_config(**changes: object) -> CSMTrainConfig:
    loop = LoopConfig(num_steps=30, learning_rate=3e-3, warmup_steps=2, save_every=100, log_every=10)
    config = CSMTrainConfig(model=CSM_PRESETS["tiny"], loop=loop, depth_share=1.0, alignment_layer=1)
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def losses_of(config: CSMTrainConfig, model: CSM, batch: RowBatch, progress: float) -> dict[str, torch.Tensor]:
    losses: dict[str, torch.Tensor] = CSMTraining(config, model)(batch, progress)
    return losses


def make_batch(seed: int = 0) -> RowBatch:
    """Four sequences of one turn, four text rows and five frames that repeat the first text id."""
    generator = torch.Generator().manual_seed(seed)
    slots = CSM_PRESETS["tiny"].num_codebooks + 1
    tokens = torch.zeros(4, 10, slots, dtype=torch.int64)
    mask = torch.zeros(4, 10, slots, dtype=torch.bool)
    tokens[:, :4, -1] = torch.randint(1, 60, (4, 4), generator=generator)
    tokens[:, 4:9, :-1] = tokens[:, 0, -1][:, None, None]
    mask[:, :4, -1] = True
    mask[:, 4:, :-1] = True
    scored = mask[..., 0]
    return RowBatch(tokens, mask, scored, torch.zeros(4, 10, dtype=torch.int64))


def test_masked_history_changes_inputs_and_not_targets() -> None:
    torch.manual_seed(0)
    model = CSM(CSM_PRESETS["tiny"])
    batch = make_batch()
    whole = losses_of(make_config(history_masking=1.0), model, batch, 0.0)
    # With every audio row hidden, what the rows hold does not reach the backbone: only the targets are left.
    other = dataclasses.replace(batch, tokens=batch.tokens.clone())
    other.tokens[:, 4:9, 1:-1] += 1
    changed = losses_of(make_config(history_masking=1.0), model, other, 0.0)
    torch.testing.assert_close(whole["codebook0"], changed["codebook0"])
    assert not torch.isclose(whole["depth"], changed["depth"])
    seen = losses_of(make_config(), model, batch, 0.0)
    assert not torch.isclose(seen["codebook0"], whole["codebook0"])


def test_the_last_turn_alone_is_learned() -> None:
    torch.manual_seed(0)
    model = CSM(CSM_PRESETS["tiny"])
    batch = make_batch()
    turn = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, -1, -1]).expand(4, 10)
    batch = dataclasses.replace(batch, turn=turn)
    config = make_config(learn="last")
    losses = losses_of(config, model, batch, 0.0)
    assert int(losses[WEIGHT]) == 4 * 2
    only = dataclasses.replace(batch, scored=batch.scored & (turn == 1))
    torch.testing.assert_close(losses["loss"], losses_of(make_config(), model, only, 0.0)["loss"])
    assert not torch.isclose(losses["loss"], losses_of(make_config(), model, batch, 0.0)["loss"])


def test_masked_text_is_not_read() -> None:
    torch.manual_seed(0)
    model = CSM(CSM_PRESETS["tiny"])
    batch = make_batch()
    other = dataclasses.replace(batch, tokens=batch.tokens.clone())
    other.tokens[:, :4, -1] += 1
    blind, still_blind = (losses_of(make_config(text_masking=1.0), model, b, 0.0) for b in (batch, other))
    torch.testing.assert_close(blind["loss"], still_blind["loss"])
    seeing, changed = (losses_of(make_config(), model, b, 0.0) for b in (batch, other))
    assert not torch.isclose(seeing["loss"], changed["loss"])


def test_text_is_masked_by_whole_turns_and_never_in_padding() -> None:
    batch = make_batch()
    turn = torch.tensor([0, 0, 0, 0, 1, 1, 1, -1, -1, -1]).expand(4, 10)
    scored = torch.tensor([0, 0, 1, 1, 0, 0, 1, 0, 0, 0]).bool().expand(4, 10)
    batch = dataclasses.replace(batch, turn=turn, scored=scored)
    torch.manual_seed(0)
    rows = [hidden_rows(make_config(text_masking=0.5), batch) for _ in range(50)]
    patterns = {tuple(row.tolist()) for drawn in rows for row in drawn}
    first, second = (True, True, False, False), (True, True, False)
    none = {4: (False,) * 4, 3: (False,) * 3}
    expected = {(*a, *b, False, False, False) for a in (first, none[4]) for b in (second, none[3])}
    assert patterns == expected


def test_a_guided_model_is_tuned_without_some_of_its_texts() -> None:
    plain = make_config().model
    assert guided_text_masking(plain) == 0
    assert 0 < guided_text_masking(dataclasses.replace(plain, guidance=2.0)) < 0.2


def test_codes_that_sound_alike_start_alike() -> None:
    torch.manual_seed(0)
    model = CSM(CSM_PRESETS["tiny"])
    config = model.config
    size = model.audio_embeddings.weight.detach().square().mean().sqrt().item()
    codebooks = []
    for _ in range(config.num_codebooks):
        vectors = torch.randn(config.codebook_size, 16)
        vectors[1] = vectors[0] + 0.01  # two codes next to each other
        codebooks.append(vectors)
    embed_codebooks(model, codebooks)
    tables = model.audio_embeddings.weight.view(config.num_codebooks, config.audio_vocab_size, -1)
    heads = [model.codebook0_head.weight, *model.audio_head.transpose(1, 2)]
    for table in (*tables, *heads):
        similar = torch.nn.functional.cosine_similarity(table[:1], table[1 : config.codebook_size], dim=-1)
        assert similar[0] > 0.99 and similar[1:].abs().mean() < 0.5
    now = model.audio_embeddings.weight.detach().square().mean().sqrt().item()
    assert now == pytest.approx(size, rel=0.2)


def test_a_model_over_another_codec_keeps_all_but_the_codes() -> None:
    torch.manual_seed(0)
    tiny = CSM_PRESETS["tiny"]
    old, new = CSM(tiny), CSM(dataclasses.replace(tiny, num_codebooks=tiny.num_codebooks - 1))
    own = {name: value.clone() for name, value in new.state_dict().items()}
    start_from(new, without_codes(old.state_dict()))
    codes = {"audio_embeddings.weight", "codebook0_head.weight", "audio_head"}
    for name, value in new.state_dict().items():
        assert torch.equal(value, own[name] if name in codes else old.state_dict()[name]), name


@pytest.mark.parametrize("name", ["text_embeddings.weight", "audio_head"])
@pytest.mark.parametrize("is_absent", [True, False])
def test_weights_of_another_model_are_refused(name: str, is_absent: bool) -> None:
    model = CSM(CSM_PRESETS["tiny"])
    state = model.state_dict()
    value = state.pop(name)
    if not is_absent:
        state[name] = value[1:]
    with pytest.raises(TrainingError, match=rf"another model \({re.escape(name)} "):
        start_from(model, state)


def test_the_alignment_term_fades_out() -> None:
    torch.manual_seed(0)
    model = CSM(CSM_PRESETS["tiny"])
    config = make_config(alignment_weight=1.0, alignment_until=0.5)
    early, half, late = (losses_of(config, model, make_batch(), at) for at in (0.0, 0.25, 0.5))
    plain = early["loss"] - early["alignment"]
    torch.testing.assert_close(half["loss"], plain + 0.5 * early["alignment"])
    torch.testing.assert_close(late["loss"], plain)
    assert "alignment" not in late


@pytest.mark.parametrize("muon_learning_rate", [0.0, 0.01])
def test_it_learns_to_read(tmp_path: Path, muon_learning_rate: float) -> None:
    config = make_config()
    loop = dataclasses.replace(config.loop, muon_learning_rate=muon_learning_rate, num_steps=60)
    config = dataclasses.replace(config, loop=loop)
    model = train_csm(config, lambda index, progress: make_batch(index % 3), tmp_path, quiet=True)
    losses = validation_losses(model, [make_batch(index) for index in range(3)])
    assert losses["codebook0"] < 2.0  # from log(67) = 4.2
    assert losses["depth"] < 2.5


def test_muon_gets_the_matrices_of_the_transformers_alone() -> None:
    model = CSM(CSM_PRESETS["tiny"])
    names = hidden_matrices(model)
    assert "backbone.layers.0.attention.q_proj.weight" in names
    assert "projection.weight" in names
    assert not [name for name in names if "embeddings" in name or "head" in name or "norm" in name]


def test_cudnn_plans_no_attention_on_a_gpu() -> None:
    assert torch.backends.cuda.cudnn_sdp_enabled()
    with attention_for_changing_lengths(torch.device("cuda")):
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()
    assert torch.backends.cuda.cudnn_sdp_enabled()
