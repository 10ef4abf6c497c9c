"""Turn stores and the sequences drawn from them."""

import numpy as np
import pytest
import torch

from duologue.data.conversations import SequenceSampler
from duologue.data.shards import CodedTurn
from duologue.errors import TrainingError
from duologue.frames import is_end

K = 3


def make_turn(voice: str, speaker: int, frames: int, text: str = "abcd") -> CodedTurn:
    value = sum(map(ord, voice)) % 50 + 1
    return CodedTurn(voice, speaker, text, np.full((K, frames), value, np.int16))


def make_conversations() -> list[list[CodedTurn]]:
    talk = [
        [make_turn("a", 0, 5), make_turn("b", 1, 7), make_turn("a", 0, 4), make_turn("b", 1, 6)],
        [make_turn("c", 0, 8), make_turn("a", 1, 3)],
    ]
    return talk + [[make_turn("solo", 0, 6)] for _ in range(3)]


def encode(text: str, speaker: int) -> list[int]:
    return [1, 10 + speaker, *(20 + ord(letter) - ord("a") for letter in text), 2]


def make_sampler(lengths: tuple[int, ...] = (14, 40, 60), **changes: object) -> SequenceSampler:
    options = {"batch_rows": 240, "lengths": lengths, "seed": 0} | changes
    return SequenceSampler(make_conversations(), encode, **options)  # type: ignore[arg-type]


def test_every_turn_is_text_then_audio_then_an_end_frame() -> None:
    sampler = make_sampler()
    for step in range(20):
        batch = sampler(step)
        assert batch.tokens.shape == (*batch.scored.shape, K + 1)
        for row in range(batch.tokens.shape[0]):
            for number in range(int(batch.turn[row].max()) + 1):
                rows = batch.turn[row] == number
                tokens, mask, scored = batch.tokens[row, rows], batch.mask[row, rows], batch.scored[row, rows]
                text = int((~scored).sum())
                assert bool(scored[text:].all())
                assert bool(mask[:text, -1].all())
                assert not mask[:text, :-1].any()
                assert bool(mask[text:, :-1].all())
                assert not mask[text:, -1].any()
                assert tokens[0, -1] == 1
                assert tokens[text - 1, -1] == 2
                assert is_end(tokens[text:, :-1]).tolist() == [False] * (int(scored.sum()) - 1) + [True]


def test_padding_is_masked_and_not_scored() -> None:
    batch = make_sampler()(1)
    padding = batch.turn < 0
    assert padding.any()
    assert not batch.mask[padding].any()
    assert not batch.scored[padding].any()


def test_a_speaker_keeps_one_voice_within_a_sequence_and_ids_vary_between() -> None:
    sampler = make_sampler(prompt_share=0.9)
    tags = set()
    for step in range(30):
        batch = sampler(step)
        for row in range(batch.tokens.shape[0]):
            voices: dict[int, set[int]] = {}
            for number in range(int(batch.turn[row].max()) + 1):
                rows = batch.turn[row] == number
                tag = int(batch.tokens[row, rows][1, -1])
                first_code = int(batch.tokens[row, rows][batch.scored[row, rows]][0, 0])
                voices.setdefault(tag, set()).add(first_code)
                tags.add(tag)
            assert all(len(codes) == 1 for codes in voices.values())
    assert tags == {10, 11, 12, 13}


def test_sequences_keep_to_their_length() -> None:
    for step in range(20):
        assert make_sampler()(step, longest=40).tokens.shape[1] <= 40


def test_draws_depend_on_seed_and_step_alone() -> None:
    first, again, other = make_sampler()(5), make_sampler()(5), make_sampler(seed=1)(5)
    assert torch.equal(first.tokens, again.tokens)
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


def test_nothing_that_fits() -> None:
    with pytest.raises(TrainingError, match="fits a sequence of 5 rows"):
        make_sampler(lengths=(5,))


def test_turns_of_one_voice_in_a_row_become_one() -> None:
    lines: list[str] = []

    def encode_lines(text: str, speaker: int) -> list[int]:
        lines.append(text)
        return encode(text.replace("\n", ""), speaker)

    talk = [[make_turn("a", 0, 5, "ab"), make_turn("a", 0, 7, "cd"), make_turn("b", 1, 4, "ef")]]
    sampler = SequenceSampler(
        talk, encode_lines, batch_rows=200, lengths=(60,), seed=0, prompt_share=0.0, merge_share=1.0
    )
    merged = sampler(0)
    assert "ab\ncd" in lines
    whole = [
        row for row in range(len(merged.turn)) if bool((merged.tokens[row, :, -1] == ord("a") - ord("a") + 20).any())
    ]
    assert whole
    for row in whole:
        first = merged.turn[row] == 0
        audio = merged.tokens[row, first & merged.scored[row], :-1]
        assert is_end(audio).tolist() == [False] * 12 + [True]  # 5 + 7 frames, one end
        assert merged.tokens[row, first & ~merged.scored[row], -1].tolist()[2:-1] == [20, 21, 22, 23]


def test_no_turn_introduces_itself() -> None:
    """It would be learned by copying it; a voice with a single turn goes without."""
    alone = [[make_turn("solo", 0, 6, text)] for text in ("ab", "cd")]
    talk = [[make_turn(voice, 0, 5, text)] for voice, text in zip("xyz", ("ef", "gh", "ij"), strict=True)]
    sampler = SequenceSampler(alone + talk, encode, batch_rows=240, lengths=(60,), seed=0)
    lengths = set()
    for step in range(30):
        batch = sampler(step)
        for row in range(len(batch.turn)):
            numbers = range(int(batch.turn[row].max()) + 1)
            texts = [tuple(batch.tokens[row, batch.turn[row] == n][2:4, -1].tolist()) for n in numbers]
            assert len(texts) == len(set(texts))
            lengths.add(len(texts))
    assert lengths == {1, 2}
