"""A batch of requests: the definition, neighbours, ends, caps, joining and leaving, and what stays behind."""

import dataclasses
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.engine.batch import FrameBatch, FrameRequest, Speaking
from duologue.engine.prefix import Prefix
from duologue.engine.sampling import SamplingOptions, draw_gumbel, sample
from duologue.engine.step import FrameStep, prefill
from duologue.frames import Rows, audio_rows, is_end, join_rows, without_text
from duologue.model.csm import CSM
from tests.engine.builders import prompt, tiny_csm


def joined(model, prompts, options, caps, known=()) -> tuple[FrameBatch, list[Speaking]]:
    batch = FrameBatch(model, 2 * len(prompts))
    given = zip(prompts, options, caps, strict=True)
    return batch, [batch.join(FrameRequest(*request, known)) for request in given]


def spoken(model, prompts, options, caps, known=()) -> list[list[list[int]]]:
    """The frames of each request, all driven to their ends together."""
    batch, speaking = joined(model, prompts, options, caps, known)
    while batch.step():
        pass
    return [[frame.tolist() for frame in one.frames] for one in speaking]


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
    (frames,) = spoken(model, [rows], [options], [12])
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
    together = spoken(model, rows, options, caps)
    assert [len(frames) for frames in together] == caps
    for row in range(6):
        (alone,) = spoken(model, [rows[row]], [options[row]], [caps[row]])
        assert together[row] == alone


def test_guidance_changes_frames_and_its_default_is_the_models(model):
    rows, config = prompt(model, 9, 5, seed=0), model.config
    plain, guided = (spoken(model, [rows], [SamplingOptions(0.9, 50, 1, guidance=g)], [8]) for g in (1.0, 3.0))
    assert plain != guided
    assert spoken(model, [rows], [SamplingOptions(0.9, 50, 1)], [8]) == plain
    model.config = dataclasses.replace(config, guidance=3.0)
    try:
        assert spoken(model, [rows], [SamplingOptions(0.9, 50, 1)], [8]) == guided
        assert spoken(model, [rows], [SamplingOptions(0.9, 50, 1, 1.0)], [8]) == plain
    finally:
        model.config = config


def test_a_long_prompt_that_is_over_soon_beside_a_short_one_that_goes_on(model):
    """The caches hold the longest request, which is shorter than the longest prompt and the longest cap together."""
    rows = [prompt(model, 40, 30, seed=0), prompt(model, 2, 0, seed=1)]
    options, caps = [SamplingOptions(seed=3), SamplingOptions(seed=4)], [2, 60]
    together = spoken(model, rows, options, caps)
    for row in range(2):
        (alone,) = spoken(model, [rows[row]], [options[row]], [caps[row]])
        assert together[row] == alone and len(alone) == caps[row]


def test_a_seed_is_a_function_of_the_request_and_not_of_the_global_state(model):
    rows, options = prompt(model, 5, 3, 0), SamplingOptions(0.9, 50, 11)
    first = spoken(model, [rows], [options], [6])
    torch.manual_seed(123)
    torch.rand(7)
    assert spoken(model, [rows], [options], [6]) == first
    other = SamplingOptions(0.9, 50, 12)
    assert spoken(model, [rows], [other], [6]) != first


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_known_prefixes_change_no_frame(model, guidance):
    rows = [prompt(model, 9, 30, seed=0), prompt(model, 14, 3, seed=1)]
    options = [SamplingOptions(0.9, 50, seed, guidance=guidance) for seed in range(2)]
    expected = spoken(model, rows, options, [8, 12])
    state = model.init_state(1, 25)
    prefill(model, rows[0][:25], state)
    assert spoken(model, rows, options, [8, 12], [Prefix(rows[0][:25], state)]) == expected


def test_a_guided_prompt_is_read_once_but_for_its_masked_text(model, counts):
    FrameBatch(model, 2).join(FrameRequest(prompt(model, 9, 30, seed=0), SamplingOptions(seed=0, guidance=2.0), 4))
    assert counts == [31, 9]  # the text and what stands for it in one pass


@pytest.mark.parametrize(("cap", "num_read"), [(6, 5), (1, 0)])
def test_the_prefix_of_a_request_is_what_was_read(model, cap, num_read):
    rows, options = prompt(model, 9, 30, seed=0), SamplingOptions(0.9, 50, 1, guidance=2.0)
    batch, (speaking,) = joined(model, [rows], [options], [cap])
    while batch.step():
        pass
    prefix = batch.prefix(speaking)
    assert len(prefix.rows) == len(rows) + num_read
    codes = torch.stack(speaking.frames, dim=1)[:, :num_read]
    expected = join_rows([rows, audio_rows(codes, end=False)])
    assert torch.equal(prefix.rows.tokens, expected.tokens) and torch.equal(prefix.rows.mask, expected.mask)
    state = model.init_state(1, len(expected))
    prefill(model, expected, state)
    for (_, ours), (_, theirs) in zip(prefix.state.named_tensors(), state.named_tensors(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_prefix_of_a_request_that_ended_has_all_its_frames(model, script_frames):
    script_frames([[1, 3, 0, 0], [2, 0, 0, 1], [0, 0, 0, 0]])
    rows = prompt(model, 3, 0, 0)
    batch, (speaking,) = joined(model, [rows], [SamplingOptions(seed=0)], [10])
    for _ in range(2):
        ((_, frame),) = batch.step()
        frame.zero_()  # what a caller does to a frame is their own affair
    assert batch.step() == [(speaking, None)]
    prefix = batch.prefix(speaking)
    assert prefix.rows.tokens[len(rows) :, :-1].tolist() == [[1, 3, 0, 0], [2, 0, 0, 1]]


def test_a_frame_that_only_begins_with_zero_is_no_end(model, script_frames):
    script_frames([[0, 3, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [5, 5, 5, 5]])
    batch, (speaking,) = joined(model, [prompt(model, 3, 0, 0)], [SamplingOptions(seed=0)], [10])
    while batch.step():
        pass
    assert [frame.tolist() for frame in speaking.frames] == [[0, 3, 0, 0], [0, 0, 0, 1]]
    assert speaking.stop_reason == "end" and batch.step() == []


def test_the_end_can_come_first():
    """Heads of zeros make every logit a tie, and greedy takes the first: the end frame."""
    silent = tiny_csm()
    silent.codebook0_head.weight.data.zero_()
    silent.audio_head.data.zero_()
    batch, (speaking,) = joined(silent, [prompt(silent, 3, 0, 0)], [SamplingOptions(0.0, 50, 0)], [10])
    assert batch.step() == [(speaking, None)]
    assert speaking.stop_reason == "end" and speaking.frames == []


def test_a_request_that_is_over_is_counted_no_more(model, monkeypatch):
    ends = {0: 2, 1: 5}  # request -> the step at which it ends

    def scripted(self, hidden, noise):
        scripted.count += 1
        rows = [[0] * 4 if ends.get(row) == scripted.count else [scripted.count + 1] * 4 for row in range(len(hidden))]
        return torch.tensor(rows)

    scripted.count = -1
    monkeypatch.setattr(FrameStep, "__call__", scripted)
    batch, speaking = joined(model, [prompt(model, 3, 0, 0)] * 3, [SamplingOptions(seed=1)] * 3, [9, 9, 4])
    while batch.step():
        pass
    assert [len(one.frames) for one in speaking] == [2, 5, 4]
    assert [one.stop_reason for one in speaking] == ["end", "end", "cap"]


def test_frames_are_ordinary_tensors(model):
    batch, _ = joined(model, [prompt(model, 3, 0, 0)], [SamplingOptions(seed=0)], [2])
    ((_, frame),) = batch.step()
    assert not frame.is_inference()
    frame += 1  # an inference tensor would refuse


class TestJoiningAndLeaving:
    """Whoever comes and goes, a request gets the frames that it gets alone."""

    def requests(self, model) -> list[FrameRequest]:
        made = []
        for index, (num_text, num_frames, guidance) in enumerate(
            [(3, 0, 1.0), (20, 12, 2.0), (9, 30, 1.0), (14, 3, 2.5), (1, 1, 1.0)]
        ):
            options = SamplingOptions(0.9, 50, index, guidance=guidance)
            made.append(FrameRequest(prompt(model, num_text, num_frames, seed=index), options, 6 + 3 * index))
        return made

    def alone(self, model, request) -> list[list[int]]:
        return spoken(model, [request.rows], [request.sampling], [request.max_frames])[0]

    @classmethod
    @functools.cache
    def expected(cls) -> tuple[CSM, list[FrameRequest], list[list[list[int]]]]:
        """A model, requests, and what each of them gets alone."""
        model, self = tiny_csm(), cls()
        requests = self.requests(model)
        return model, requests, [self.alone(model, request) for request in requests]

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(["join", "step", "leave"]), st.integers(0, 9)), max_size=40))
    def test_in_any_order(self, events):
        model, requests, frames_alone = self.expected()
        waiting, batch, here = list(requests), FrameBatch(model, 5), []
        expected = {id(request): frames for request, frames in zip(requests, frames_alone, strict=True)}
        for event, number in events:
            if event == "join" and waiting and batch.has_room(waiting[0]):
                here.append(batch.join(waiting.pop(0)))
            elif event == "step":
                batch.step()
            elif event == "leave" and here:
                batch.leave(here.pop(number % len(here)))
            assert batch.speaking == tuple(here)
            assert sorted(row for one in here for row in one.rows) == list(range(sum(len(one.rows) for one in here)))
            for one in here:
                frames = [frame.tolist() for frame in one.frames]
                assert frames == expected[id(one.request)][: len(frames)]

    def test_one_that_leaves_early_frees_its_rows_for_others(self, model):
        first, second, third, *_ = self.requests(model)
        batch = FrameBatch(model, 3)
        one, two = batch.join(first), batch.join(second)
        batch.step()
        assert not batch.has_room(third)
        batch.leave(one)
        batch.leave(one)  # harmless
        assert batch.has_room(third)
        three = batch.join(third)
        while batch.step():
            pass
        assert [frame.tolist() for frame in two.frames] == self.alone(model, second)
        assert [frame.tolist() for frame in three.frames] == self.alone(model, third)
        assert len(one.frames) == 1 and one.stop_reason is None

    def test_a_prefix_taken_beside_others_is_that_of_its_request(self, model):
        batch = FrameBatch(model, 8)
        speaking = [batch.join(request) for request in self.requests(model)]
        for _ in range(4):
            batch.step()
        batch.leave(speaking[0])
        prefix = batch.prefix(speaking[2])
        state = model.init_state(1, len(prefix.rows))
        prefill(model, prefix.rows, state)
        for (_, ours), (_, theirs) in zip(prefix.state.named_tensors(), state.named_tensors(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
