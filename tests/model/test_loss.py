"""The amortized loss against a plain loop, its alignment of targets, its draws and its edge cases."""

import math

import pytest
import torch
from torch.nn import functional as F

from duologue.config import CSM_PRESETS
from duologue.model.csm import CSM
from duologue.model.loss import csm_loss, draw_frames


@pytest.fixture(scope="module")
def model() -> CSM:
    torch.manual_seed(0)
    return CSM(CSM_PRESETS["tiny"]).eval()


def make_batch(model: CSM, batch: int = 2, rows: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Text rows, then audio rows, the last of which is an end frame."""
    generator = torch.Generator().manual_seed(1)
    k = model.num_codebooks
    tokens = torch.randint(0, 60, (batch, rows, k + 1), generator=generator)
    mask = torch.zeros(batch, rows, k + 1, dtype=torch.bool)
    scored = torch.zeros(batch, rows, dtype=torch.bool)
    for row in range(batch):
        text = 3 + row
        mask[row, :text, -1] = True
        mask[row, text:, :-1] = True
        scored[row, text:] = True
    tokens[:, -1] = 0
    return tokens, mask, scored


def test_loss_equals_a_plain_loop_over_frames(model: CSM) -> None:
    tokens, mask, scored = make_batch(model)
    hidden = model(tokens, mask)
    first, rest = [], []
    for row in range(len(tokens)):
        for t in range(1, tokens.shape[1]):
            if not scored[row, t]:
                continue
            frame, before = tokens[row, t, :-1], hidden[row, t - 1]
            first.append(F.cross_entropy(model.codebook0_logits(before), frame[0]))
            logits = model.depth_logits(before[None], frame[None])[0]
            rest += [F.cross_entropy(logits[i], frame[i + 1]) for i in range(model.num_codebooks - 1)]
    loss = csm_loss(model, tokens, mask, scored, depth_share=1.0)
    torch.testing.assert_close(loss.codebook0, torch.stack(first).mean())
    torch.testing.assert_close(loss.depth, torch.stack(rest).mean())
    torch.testing.assert_close(loss.total(0.25), 0.75 * loss.codebook0 + 0.25 * loss.depth)
    assert loss.depth_share == 1.0


def test_a_frame_is_predicted_from_the_row_before_it(model: CSM) -> None:
    """Changing the last row changes its target but no hidden that is used; changing the one before it does both."""
    tokens, mask, scored = make_batch(model, batch=1)
    only_last = torch.zeros_like(scored)
    only_last[:, -1] = True
    loss = csm_loss(model, tokens, mask, only_last, depth_share=1.0)
    hidden = model(tokens, mask)
    expected = F.cross_entropy(model.codebook0_logits(hidden[:, -2]), tokens[:, -1, 0])
    torch.testing.assert_close(loss.codebook0, expected)


def test_zeros_and_end_frames_count(model: CSM) -> None:
    tokens, mask, scored = make_batch(model, batch=1)
    without_end = scored.clone()
    without_end[:, -1] = False
    with_end = csm_loss(model, tokens, mask, scored, depth_share=1.0)
    without = csm_loss(model, tokens, mask, without_end, depth_share=1.0)
    end_only = csm_loss(model, tokens, mask, scored & ~without_end, depth_share=1.0)
    frames = int(scored.sum())
    mixed = (without.codebook0 * (frames - 1) + end_only.codebook0) / frames
    torch.testing.assert_close(with_end.codebook0, mixed)
    assert not torch.isclose(with_end.codebook0, without.codebook0)


@pytest.mark.parametrize(
    ("frames", "share", "expected"), [(160, 1 / 16, 10), (3, 1 / 16, 1), (1, 0.01, 1), (7, 1.0, 7)]
)
def test_the_share_is_never_rounded_to_nothing(frames: int, share: float, expected: int) -> None:
    drawn = draw_frames(frames, share)
    assert len(drawn) == expected == len(drawn.unique())
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < frames


def test_the_draw_is_fresh_and_seeded() -> None:
    generator = torch.Generator().manual_seed(3)
    draws = [tuple(draw_frames(200, 1 / 16, generator).tolist()) for _ in range(8)]
    assert len(set(draws)) == 8
    again = torch.Generator().manual_seed(3)
    assert draws == [tuple(draw_frames(200, 1 / 16, again).tolist()) for _ in range(8)]


def test_a_small_share_estimates_the_whole(model: CSM) -> None:
    tokens, mask, scored = make_batch(model, rows=40)
    with torch.no_grad():
        whole = float(csm_loss(model, tokens, mask, scored, depth_share=1.0).depth)
        generator = torch.Generator().manual_seed(0)
        parts = [
            float(csm_loss(model, tokens, mask, scored, depth_share=1 / 16, generator=generator).depth)
            for _ in range(200)
        ]
    mean = sum(parts) / len(parts)
    spread = (sum((part - mean) ** 2 for part in parts) / len(parts)) ** 0.5
    assert abs(mean - whole) < 4 * spread / math.sqrt(len(parts))
    assert spread > 0


def test_codebook0_has_gradients_everywhere_and_depth_only_where_drawn(model: CSM) -> None:
    tokens, mask, scored = make_batch(model, batch=1)
    hidden = model(tokens, mask).detach().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    loss = csm_loss(model, tokens, mask, scored, depth_share=1e-6, generator=generator, hidden=hidden)
    (by_first,) = torch.autograd.grad(loss.codebook0, hidden, retain_graph=True)
    (by_depth,) = torch.autograd.grad(loss.depth, hidden)
    used = scored[:, 1:].nonzero()[:, 1].tolist()
    assert (by_first.abs().sum(-1) > 0)[0].nonzero().flatten().tolist() == used
    assert int((by_depth.abs().sum(-1) > 0).sum()) == 1


def test_nothing_to_score_gives_zeros_not_nan(model: CSM) -> None:
    tokens, mask, scored = make_batch(model)
    loss = csm_loss(model, tokens, mask, torch.zeros_like(scored))
    assert loss.codebook0.item() == loss.depth.item() == loss.depth_share == 0.0
    loss.total(0.5).backward()
