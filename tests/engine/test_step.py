"""The one-frame step and the loop around it: the definition, batches, ends, caps, and what stays behind."""

import dataclasses

import pytest
import torch

from duologue.engine import step as step_module
from duologue.engine.prefix import Prefix
from duologue.engine.sampling import BatchSampling, SamplingOptions, draw_gumbel, sample
from duologue.engine.step import FrameIterator, FrameRequest, FrameStep, prefill
from duologue.frames import Rows, audio_rows, is_end, join_rows, text_rows, without_text
from duologue.model.csm import CSM


def prompt(model: CSM, num_text: int, num_frames: int, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    ids = torch.randint(0, config.text_vocab_size, (num_text,), generator=generator).tolist()
    codes = torch.randint(0, config.codebook_size, (config.num_codebooks, num_frames), generator=generator)
    return join_rows([audio_rows(codes), text_rows(ids, config.num_codebooks)])


def generate_frames(model, prompts, options, caps) -> FrameIterator:
    return FrameIterator(model, [FrameRequest(*request) for request in zip(prompts, options, caps, strict=True)])


@torch.no_grad()
def reference_frames(model: CSM, rows: Rows, options: SamplingOptions, max_frames: int) -> list[list[int]]:
    """The definition without caches: everything recomputed for each code."""
    config, noise_source, frames = model.config, options.noise_generator(), []
    blind, guidance = without_text(rows), 1.0 if options.guidance is None else options.guidance
    for _ in range(max_frames):
        noise = torch.zeros(config.num_codebooks, config.audio_vocab_size)
        if options.temperature > 0:
            draw_gumbel(noise, noise_source)
        hidden = model(rows.tokens[None], rows.mask[None])[:, -1]
        unread = model(blind.tokens[None], blind.mask[None])[:, -1]
        frame = torch.zeros(1, config.num_codebooks, dtype=torch.int64)
        for codebook in range(config.num_codebooks):
            if codebook == 0:
                logits, plain = model.codebook0_logits(hidden), model.codebook0_logits(unread)
            else:
                logits, plain = (model.depth_logits(x, frame)[:, codebook - 1] for x in (hidden, unread))
            if guidance != 1:
                logits = plain + guidance * (logits - plain)
            drawn = sample(logits, noise[codebook][None], options.temperature, options.topk, config.codebook_size)
            frame[0, codebook] = drawn[0]
        if bool(is_end(frame[0])):
            break
        frames.append(frame[0].tolist())
        rows, blind = (join_rows([part, audio_rows(frame.T, end=False)]) for part in (rows, blind))
    return frames


def collect(iterator: FrameIterator, batch: int) -> list[list[list[int]]]:
    collected: list[list[list[int]]] = [[] for _ in range(batch)]
    for frames in iterator:
        assert len(frames) == batch
        for row, frame in enumerate(frames):
            if frame is not None:
                collected[row].append(frame.tolist())
    return collected


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(0.0, 50, 1),
        SamplingOptions(0.9, 20, 1),
        SamplingOptions(2.0, 9, 5),
        SamplingOptions(0.0, 50, 1, guidance=3.0),
        SamplingOptions(0.9, 50, 1, guidance=2.0),
        SamplingOptions(0.9, 50, 1, guidance=0.0),
    ],
)
def test_frames_equal_the_definition(model, options):
    rows = prompt(model, 9, 5, seed=0)
    (frames,) = collect(generate_frames(model, [rows], [options], [12]), 1)
    assert frames == reference_frames(model, rows, options, 12) and len(frames) == 12


def test_batched_equals_single(model):
    lengths = [(3, 0), (40, 30), (12, 7), (1, 1)]
    rows = [prompt(model, *length, seed=index) for index, length in enumerate(lengths)]
    options = [SamplingOptions(0.9, 50, 3), SamplingOptions(0.0, 1, 4), SamplingOptions(1.2, 5, 3), SamplingOptions()]
    options[3] = options[3].seeded()
    rows.append(prompt(model, 8, 3, seed=9))
    rows.append(prompt(model, 20, 0, seed=10))
    options += [SamplingOptions(0.9, 50, 6, guidance=2.5), SamplingOptions(0.9, 50, 7, guidance=0.5)]
    caps = [5, 20, 11, 1, 9, 14]
    together = collect(generate_frames(model, rows, options, caps), 6)
    assert [len(frames) for frames in together] == caps
    for row in range(6):
        (alone,) = collect(generate_frames(model, [rows[row]], [options[row]], [caps[row]]), 1)
        assert together[row] == alone


def test_guidance_changes_frames_and_its_default_is_the_models(model):
    rows, config = prompt(model, 9, 5, seed=0), model.config
    plain, guided = (
        collect(generate_frames(model, [rows], [SamplingOptions(0.9, 50, 1, guidance=g)], [8]), 1) for g in (1.0, 3.0)
    )
    assert plain != guided
    assert collect(generate_frames(model, [rows], [SamplingOptions(0.9, 50, 1)], [8]), 1) == plain
    model.config = dataclasses.replace(config, guidance=3.0)
    try:
        assert collect(generate_frames(model, [rows], [SamplingOptions(0.9, 50, 1)], [8]), 1) == guided
        assert collect(generate_frames(model, [rows], [SamplingOptions(0.9, 50, 1, 1.0)], [8]), 1) == plain
    finally:
        model.config = config


def test_a_long_prompt_that_is_over_soon_beside_a_short_one_that_goes_on(model):
    """The caches hold the longest request, which is shorter than the longest prompt and the longest cap together."""
    rows = [prompt(model, 40, 30, seed=0), prompt(model, 2, 0, seed=1)]
    options, caps = [SamplingOptions(seed=3), SamplingOptions(seed=4)], [2, 60]
    together = collect(generate_frames(model, rows, options, caps), 2)
    for row in range(2):
        (alone,) = collect(generate_frames(model, [rows[row]], [options[row]], [caps[row]]), 1)
        assert together[row] == alone and len(alone) == caps[row]


def test_prefill_in_pieces_equals_one_pass(model, monkeypatch):
    monkeypatch.setattr(step_module, "_PREFILL_ROWS", 10)
    for rows in (prompt(model, 3, 2, seed=0), prompt(model, 30, 40, seed=1), prompt(model, 10, 4, seed=2)):
        state = model.init_state(1, 80)
        hidden = prefill(model, rows, state)
        assert state.lengths.tolist() == [len(rows)]
        with torch.no_grad():
            expected = model(rows.tokens[None], rows.mask[None])[:, -1]
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)


def count_rows_read(model, monkeypatch) -> list[int]:
    """The rows of every pass through the backbone from here on."""
    counts: list[int] = []
    forward = model.forward

    def counting(tokens, *arguments):
        counts.append(tokens.shape[1])
        return forward(tokens, *arguments)

    monkeypatch.setattr(model, "forward", counting)
    return counts


def test_what_is_known_is_copied_and_not_read(model, monkeypatch):
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
    counts = count_rows_read(model, monkeypatch)
    fresh, went_on = model.init_state(1, 40), model.init_state(1, 40)
    expected, hidden = prefill(model, rows, fresh), prefill(model, rows, went_on, known)
    assert counts == [33, 8]
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)
    for (_, one), (_, theirs) in zip(went_on.named_tensors(), fresh.named_tensors(), strict=True):
        torch.testing.assert_close(one, theirs, atol=1e-5, rtol=1e-4)


def test_a_prompt_that_is_known_whole_still_gives_its_hidden(model, monkeypatch):
    rows = prompt(model, 5, 3, seed=0)
    state = model.init_state(1, len(rows))
    expected = prefill(model, rows, state)
    counts = count_rows_read(model, monkeypatch)
    hidden = prefill(model, rows, model.init_state(1, len(rows)), [Prefix(rows, state)])
    assert counts == [1]
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_known_prefixes_change_no_frame(model, guidance):
    rows, options = [prompt(model, 9, 30, seed=0), prompt(model, 14, 3, seed=1)], []
    for seed in range(2):
        options.append(SamplingOptions(0.9, 50, seed, guidance=guidance))
    expected = collect(generate_frames(model, rows, options, [8, 12]), 2)
    state = model.init_state(1, 30)
    prefill(model, rows[0][:25], state)
    known = [Prefix(rows[0][:25], state)]
    requests = [FrameRequest(*given, known) for given in zip(rows, options, [8, 12], strict=True)]
    assert collect(FrameIterator(model, requests), 2) == expected


def test_a_guided_prompt_is_read_once_but_for_its_masked_text(model, monkeypatch):
    counts = count_rows_read(model, monkeypatch)
    next(generate_frames(model, [prompt(model, 9, 30, seed=0)], [SamplingOptions(seed=0, guidance=2.0)], [4]))
    assert counts == [40, 9]


@pytest.mark.parametrize(("cap", "num_read"), [(6, 5), (1, 0)])
def test_the_prefix_of_a_request_is_what_was_read(model, cap, num_read):
    rows, options = prompt(model, 9, 30, seed=0), SamplingOptions(0.9, 50, 1, guidance=2.0)
    iterator = generate_frames(model, [rows], [options], [cap])
    assert iterator.prefix(0) is None
    (frames,) = collect(iterator, 1)
    prefix = iterator.prefix(0)
    assert prefix is not None and len(prefix.rows) == len(rows) + num_read
    codes = torch.tensor(frames[:num_read], dtype=torch.int64).reshape(num_read, model.num_codebooks).T
    expected = join_rows([rows, audio_rows(codes, end=False)])
    assert torch.equal(prefix.rows.tokens, expected.tokens) and torch.equal(prefix.rows.mask, expected.mask)
    state = model.init_state(1, len(expected))
    prefill(model, expected, state)
    for (_, ours), (_, theirs) in zip(prefix.state.named_tensors(), state.named_tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    iterator.close()
    assert iterator.prefix(0) is None


def test_the_prefix_of_a_request_that_ended_has_all_its_frames(model, script_frames):
    script_frames([[1, 3, 0, 0], [2, 0, 0, 1], [0, 0, 0, 0]])
    rows = prompt(model, 3, 0, 0)
    iterator = generate_frames(model, [rows], [SamplingOptions(seed=0)], [10])
    for frames in iterator:
        frames[0].zero_()  # what a caller does to a frame is their own affair
    prefix = iterator.prefix(0)
    assert prefix is not None and prefix.rows.tokens[len(rows) :, :-1].tolist() == [[1, 3, 0, 0], [2, 0, 0, 1]]


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


def test_a_frame_that_only_begins_with_zero_is_no_end(model, script_frames):
    script_frames([[0, 3, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [5, 5, 5, 5]])
    iterator = generate_frames(model, [prompt(model, 3, 0, 0)], [SamplingOptions(seed=0)], [10])
    assert collect(iterator, 1) == [[[0, 3, 0, 0], [0, 0, 0, 1]]]
    assert iterator.stop_reasons == ["end"]
    assert next(iterator, None) is None


def test_the_end_can_come_first():
    """Heads of zeros make every logit a tie, and greedy takes the first: the end frame."""
    from tests.engine.builders import tiny_csm

    silent = tiny_csm()
    silent.codebook0_head.weight.data.zero_()
    silent.audio_head.data.zero_()
    iterator = generate_frames(silent, [prompt(silent, 3, 0, 0)], [SamplingOptions(0.0, 50, 0)], [10])
    assert list(iterator) == []
    assert iterator.stop_reasons == ["end"]


def test_a_row_that_is_over_is_counted_no_more(model, monkeypatch):
    ends = {0: 2, 1: 5}  # row -> the step at which it ends

    def scripted(self, hidden, noise):
        self.count = getattr(self, "count", -1) + 1
        rows = [[0] * 4 if ends.get(row) == self.count else [self.count + 1] * 4 for row in range(len(hidden))]
        return torch.tensor(rows)

    monkeypatch.setattr(FrameStep, "__call__", scripted)
    rows = [prompt(model, 3, 0, 0)] * 3
    iterator = generate_frames(model, rows, [SamplingOptions(seed=1)] * 3, [9, 9, 4])
    frames = collect(iterator, 3)
    assert [len(item) for item in frames] == [2, 5, 4]
    assert iterator.stop_reasons == ["end", "end", "cap"]


def test_closing_frees_the_caches_and_ends_the_iteration(model):
    iterator = FrameIterator(model, [FrameRequest(prompt(model, 3, 0, 0), SamplingOptions(seed=0), 9)])
    next(iterator)
    assert iterator._state is not None
    iterator.close()
    assert iterator._state is None and iterator._hidden is None
    assert next(iterator, None) is None
    assert iterator.stop_reasons == [None]


def test_frames_are_ordinary_tensors(model):
    frames = next(generate_frames(model, [prompt(model, 3, 0, 0)], [SamplingOptions(seed=0)], [2]))
    assert frames[0] is not None and not frames[0].is_inference()
    frames[0] += 1  # an inference tensor would refuse


def test_a_seed_is_a_function_of_the_request_and_not_of_the_global_state(model):
    rows, options = prompt(model, 5, 3, 0), SamplingOptions(0.9, 50, 11)
    first = collect(generate_frames(model, [rows], [options], [6]), 1)
    torch.manual_seed(123)
    torch.rand(7)
    assert collect(generate_frames(model, [rows], [options], [6]), 1) == first
    other = SamplingOptions(0.9, 50, 12)
    assert collect(generate_frames(model, [rows], [other], [6]), 1) != first
