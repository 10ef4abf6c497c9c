"""Auditions: who speaks on, who wins, and that two turns together have their chance."""

import numpy as np
import pytest
import torch

from duologue.data.prompts import choose_prompt, ranked_prompts
from duologue.data.shards import CodedTurn
from duologue.engine.voices import Voice, VoiceSegment
from duologue.eval.measure import Row
from recipes.parlor.audition import Candidate, audition


def candidate(*texts: str) -> Candidate:
    segments = tuple(VoiceSegment(text, torch.zeros(2, 3, dtype=torch.int64)) for text in texts)
    return Candidate(Voice("ann", "", segments, "0" * 16))


class Scripted:
    """A stage on which a line's margin is the number in its first text, a tenth more for every further turn."""

    def __init__(self) -> None:
        self.spoken: dict[tuple[str, ...], int] = {}

    def try_out(self, one: Candidate, num_lines: int) -> None:
        texts = tuple(segment.text for segment in one.voice.segments)
        margin = float(texts[0]) + 0.1 * (len(texts) - 1)
        while len(one.rows) < num_lines:
            index = len(one.rows)
            one.rows.append(
                Row("a", "a", f"a/{index}", "hi", index, num_words=2, overall=3.0, measures={"margin": margin})
            )
        self.spoken[texts] = len(one.rows)


def test_the_best_three_and_the_best_two_together_speak_all_lines():
    stage = Scripted()
    ranked = audition(stage, [candidate(text) for text in ("0.1", "0.4", "0.2", "0.3")], 12)
    assert stage.spoken == {("0.1",): 4, ("0.4",): 12, ("0.2",): 12, ("0.3",): 12, ("0.4", "0.3"): 12}
    assert [segment.text for segment in ranked[0].voice.segments] == ["0.4", "0.3"]
    assert ranked[0].score == pytest.approx(0.5 + 0.3)


def test_words_and_sound_count():
    one = candidate("0")
    one.rows.append(Row("a", "a", "a/0", "hi", 0, num_words=2, substitutions=1, overall=2.0, measures={"margin": 0.1}))
    assert one.score == pytest.approx(0.1 + 0.2 - 0.15)
    assert one.summary()["wer"] == 0.5


def test_candidates_are_ranked_as_prompts_are_chosen():
    def turn(text: str, frames: int) -> CodedTurn:
        return CodedTurn("ann", 0, text, np.zeros((2, frames), dtype=np.int16))

    turns = [turn("short.", 10), turn("good enough.", 40), turn("best.", 47), turn("no end", 47)]
    assert [one.text for one in ranked_prompts(turns)[:2]] == ["best.", "good enough."]
    assert choose_prompt([turns], "ann").text == "best."
