"""The renderer of more speech, with a synthesizer that buzzes: the manifest tells what is in the recording."""

import itertools
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from duologue.audio import read_audio
from duologue.data.sources import find_conversations
from duologue.errors import TrainingError
from recipes.parlor import render, troupes


class Buzz:
    """A tone of 200 Hz at 22050 Hz, a fifth of a second a word at pace 1, in silence."""

    sample_rate = 22_050

    def __call__(self, text: str, pace: float) -> npt.NDArray[np.float32]:
        seconds = 0.2 * len(text.split()) / pace
        time = np.arange(round(seconds * self.sample_rate)) / self.sample_rate
        silence = np.zeros(self.sample_rate // 2)
        return np.concatenate([silence, 0.3 * np.sin(2 * np.pi * 200 * time), silence]).astype(np.float32)


def write_texts(corpus: Path) -> None:
    for folder in ("text", "heldout"):
        (corpus / folder).mkdir(parents=True)
    pieces = [
        ["How are you?", "Fine, and you?", "Held out line here.", "Me too, thank you.", "Bye now."],
        ["Hm.", "It costs 5 dollars.", "word " * 30],
    ]
    (corpus / "text" / "self_dialogue.jsonl").write_text("\n".join(map(json.dumps, pieces)))
    line = {"file": "a.opus", "turns": [{"text": "Held out line here."}]}
    (corpus / "heldout" / "manifest-90.jsonl").write_text(json.dumps(line))


def test_held_out_and_unspeakable_lines_are_left_out(tmp_path: Path) -> None:
    write_texts(tmp_path)
    assert render.read_dialogues(tmp_path) == [["How are you?", "Fine, and you?"], ["Me too, thank you.", "Bye now."]]


def test_a_corpus_without_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="give the corpus with --corpus"):
        render.read_dialogues(tmp_path)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_the_manifest_tells_where_each_turn_is(tmp_path: Path, seed: int) -> None:
    texts = ["one two three four five six", "one two three", "one two three four"]
    entry = render.render_piece(troupes.JoeTroupe(Buzz()), texts, tmp_path / "a.flac", (seed,))
    (tmp_path / "manifest-60.jsonl").write_text(json.dumps(entry))
    ((recording,),) = [found.parts for found in find_conversations(tmp_path / "manifest-60.jsonl").conversations]
    pcm, rate = read_audio(recording.path, entry["sample_rate"])
    assert len(pcm) / rate == recording.duration_s
    turns = recording.utterances
    assert [turn.text for turn in turns] == texts
    spans = [(round(turn.start_s * rate), round((turn.end_s or 0) * rate)) for turn in turns]
    for turn, (start, end), written in zip(turns, spans, entry["turns"], strict=True):
        seconds = (end - start) / rate
        assert turn.text is not None
        spoken = 0.2 * len(turn.text.split()) / written["pace"]
        assert seconds == pytest.approx(spoken + 2 * troupes.MARGIN_MS / 1000, abs=0.05)
        level = 20 * torch.log10(pcm[start:end].square().mean().sqrt())
        assert float(level) == pytest.approx(troupes.LOUDNESS_DBFS, abs=1.0)
    gaps = [next_start - end for (_, end), (next_start, _) in itertools.pairwise(spans)]
    assert all(0.1 * rate <= gap <= 0.5 * rate for gap in gaps)


def test_a_shifted_voice_keeps_its_pace_and_moves_its_pitch() -> None:
    plain, raised = (troupes.speak_turn(Buzz(), "one two three four five", voice, 1.0) for voice in ("joe", "joe-121"))
    assert len(raised) == pytest.approx(len(plain), rel=0.02)
    crossings = [int((torch.diff(pcm[4800:19200].sign()) != 0).sum()) for pcm in (plain, raised)]
    assert crossings[1] / crossings[0] == pytest.approx(1.21, rel=0.03)
