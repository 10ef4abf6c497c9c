"""The alignment term: its band, its value on known attention, and that the probe sees what the layer computes."""

import torch

from duologue.config import CSM_PRESETS
from duologue.model.csm import CSM
from duologue.train.alignment import alignment_loss, diagonal_band, probing

TURN = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1, 1, 1, -1]])
AUDIO = torch.tensor([[0, 0, 0, 1, 1, 1, 0, 0, 1, 1, 0]], dtype=torch.bool)


def test_band_pairs_audio_with_the_text_of_its_own_turn() -> None:
    band = diagonal_band(TURN, AUDIO, width=0.1)[0]
    pairs = band > 0
    assert pairs[3:6, 0:3].any()
    assert not pairs[3:6, 3:].any()
    assert not pairs[8:10, :6].any()
    assert pairs[8:10, 6:8].any()
    assert not pairs[:3].any()
    assert not pairs[-1].any()
    torch.testing.assert_close(band[3:6, 0:3].diagonal(), torch.ones(3))
    assert float(band[3, 2]) < 0.01


def test_loss_is_small_on_the_diagonal_and_large_off_it() -> None:
    band = diagonal_band(TURN, AUDIO, width=0.1)
    good = alignment_loss(50 * band, TURN, AUDIO, width=0.1)
    bad = alignment_loss(-50 * band, TURN, AUDIO, width=0.1)
    assert float(good) < 0.1
    assert float(bad) > 5


def test_probe_scores_are_those_of_the_layer() -> None:
    torch.manual_seed(0)
    model = CSM(CSM_PRESETS["tiny"]).eval()
    tokens = torch.randint(0, 60, (2, 9, model.num_codebooks + 1))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    attention = model.backbone.layers[1].attention
    with probing(model, 1) as probe:
        model(tokens, mask)
    x, angles = probe.inputs[-1]
    head = 3
    values = attention._heads(attention.v_proj(x), attention.num_kv_heads)  # type: ignore[union-attr,operator]
    causal = torch.ones(9, 9, dtype=torch.bool).tril()
    weights = probe.scores(head).masked_fill(~causal, -torch.inf).softmax(-1)
    group = head // (attention.num_heads // attention.num_kv_heads)  # type: ignore[operator]
    mixed = weights @ values[:, group]
    captured = []
    handle = attention.o_proj.register_forward_pre_hook(lambda _, args: captured.append(args[0]))  # type: ignore[union-attr]
    attention(x, angles, None)
    handle.remove()
    size = attention.head_size
    torch.testing.assert_close(captured[0][..., head * size : (head + 1) * size], mixed)  # type: ignore[operator]
    assert not attention._forward_pre_hooks
