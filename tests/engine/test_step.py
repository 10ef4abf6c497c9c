"""The prompt read by the backbone, in pieces or from a known beginning, and the step of one frame."""

import torch

from duologue.engine import step as step_module
from duologue.engine.prefix import Prefix
from duologue.engine.sampling import BatchSampling, SamplingOptions, draw_gumbel
from duologue.engine.step import FrameStep, prefill
from tests.engine.builders import prompt


def test_prefill_in_pieces_equals_one_pass(model, monkeypatch):
    monkeypatch.setattr(step_module, "_PREFILL_ROWS", 10)
    for rows in (prompt(model, 3, 2, seed=0), prompt(model, 30, 40, seed=1), prompt(model, 10, 4, seed=2)):
        state = model.init_state(1, 80)
        hidden = prefill(model, rows, state)
        assert state.lengths.tolist() == [len(rows)]
        with torch.no_grad():
            expected = model(rows.tokens[None], rows.mask[None])[:, -1]
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)


def test_what_is_known_is_copied_and_not_read(model, counts):
    rows = prompt(model, 12, 20, seed=0)
    known = []
    for length in (7, 25):
        state = model.init_state(1, 25)
        prefill(model, rows[:length], state)
        known.append(Prefix(rows[:length], state))
    other = prompt(model, 12, 20, seed=5)
    state = model.init_state(1, len(other))
    prefill(model, other, state)
    known.append(Prefix(other, state))
    counts.clear()
    fresh, went_on = model.init_state(1, 40), model.init_state(1, 40)
    expected, hidden = prefill(model, rows, fresh), prefill(model, rows, went_on, known)
    assert counts == [33, 8]
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)
    for (_, one), (_, theirs) in zip(went_on.named_tensors(), fresh.named_tensors(), strict=True):
        torch.testing.assert_close(one, theirs, atol=1e-5, rtol=1e-4)


def test_a_prompt_that_is_known_whole_still_gives_its_hidden(model, counts):
    rows = prompt(model, 5, 3, seed=0)
    state = model.init_state(1, len(rows))
    expected = prefill(model, rows, state)
    counts.clear()
    hidden = prefill(model, rows, model.init_state(1, len(rows)), [Prefix(rows, state)])
    assert counts == [1]
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)


def test_the_step_depends_on_its_arguments_alone(model):
    config = model.config
    sampling = BatchSampling.of([SamplingOptions(0.9, 50)] * 2, config.codebook_size, "cpu")
    step = FrameStep(model, sampling)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, config.backbone.dim, generator=generator)
    noise = draw_gumbel(torch.empty(2, config.num_codebooks, config.audio_vocab_size), generator)
    with torch.inference_mode():
        first = step(hidden, noise)
        step(torch.randn(2, config.backbone.dim, generator=generator), noise.flip(0))
        assert torch.equal(step(hidden, noise), first)
        assert torch.equal(FrameStep(model, sampling)(hidden, noise), first)
    assert step._depth.lengths.tolist() == [config.num_codebooks] * 2  # positions restart at 0 with each frame
    assert first.shape == (2, config.num_codebooks) and int(first.max()) < config.codebook_size
