"""Rows, masks, and the rule for the end of speech."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import duologue
from duologue.frames import Segment, audio_rows, is_end, join_rows, text_rows, without_text


def test_text_fills_the_last_slot_of_rows_of_its_own():
    rows = text_rows([7, 8], 3)
    assert rows.tokens.tolist() == [[0, 0, 0, 7], [0, 0, 0, 8]]
    assert rows.mask.tolist() == [[False, False, False, True]] * 2
    assert rows.tokens.dtype == torch.int64 and rows.mask.dtype == torch.bool
    assert len(text_rows([], 3)) == 0


def test_audio_fills_the_first_slots_and_ends_with_a_frame_of_zeros():
    rows = audio_rows(torch.tensor([[1, 2], [3, 4], [5, 6]]))
    assert rows.tokens.tolist() == [[1, 3, 5, 0], [2, 4, 6, 0], [0, 0, 0, 0]]
    assert rows.mask.tolist() == [[True, True, True, False]] * 3
    assert audio_rows(torch.tensor([[1], [2]]), end=False).tokens.tolist() == [[1, 2, 0]]
    assert audio_rows(torch.zeros(2, 0, dtype=torch.int64)).tokens.tolist() == [[0, 0, 0]]


def test_the_end_needs_every_codebook_to_be_zero():
    frames = torch.tensor([[0, 0, 0, 0], [0, 5, 0, 0], [0, 0, 0, 1], [3, 0, 0, 0]])
    assert is_end(frames).tolist() == [True, False, False, False]
    assert bool(is_end(torch.zeros(32, dtype=torch.int64)))
    # transformers looks at 31 of 32 only; Sesame at all.
    frame = torch.zeros(32, dtype=torch.int64)
    frame[31] = 1
    assert not is_end(frame)


@given(parts=st.lists(st.one_of(st.lists(st.integers(0, 299), max_size=5), st.integers(0, 4)), min_size=1, max_size=6))
def test_joined_rows_keep_their_order_and_one_kind_of_slot_each(parts):
    made = [
        text_rows(part, 4) if isinstance(part, list) else audio_rows(torch.randint(0, 64, (4, part))) for part in parts
    ]
    rows = join_rows(made)
    assert len(rows) == sum(len(part) for part in made) == len(rows.mask)
    text, audio = rows.mask[:, -1], rows.mask[:, :-1]
    assert torch.equal(audio.all(dim=1), ~text) and torch.equal(audio.any(dim=1), ~text)
    assert torch.equal(rows.tokens, torch.cat([part.tokens for part in made]))


def test_without_text_hides_what_comes_after_the_last_frame_and_nothing_else():
    before = [text_rows([5, 6], 4), audio_rows(torch.randint(0, 64, (4, 3)))]
    next_text = text_rows([7, 8, 9], 4)
    rows = join_rows([*before, next_text])
    hidden = without_text(rows)
    assert torch.equal(hidden.tokens, rows.tokens)
    assert torch.equal(hidden.mask[:-3], rows.mask[:-3]) and not bool(hidden.mask[-3:].any())
    assert bool(rows.mask[-3:, -1].all())  # the rows given are left alone
    assert not bool(without_text(next_text).mask.any())


def test_segment_takes_the_arguments_of_sesames():
    segment = duologue.Segment(speaker=0, text="hello", audio=torch.zeros(3))
    assert (segment.speaker, segment.text) == (0, "hello") and segment.audio is not None
    assert Segment(1, "hi").audio is None
    with pytest.raises(TypeError):
        Segment(speaker=0)  # type: ignore[call-arg]
