"""Recordings without a text, as many as the corpus has of one kind: the words that `prepare` finds are those spoken."""

import json
import shutil
from pathlib import Path

import pytest

from duologue.data.prepare import PrepareConfig, prepare
from duologue.data.shards import TurnStore
from duologue.data.sources import find_conversations
from duologue.eval.words import WordScorer

NUM_RECORDINGS = 200


def spread(items: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """`NUM_RECORDINGS` of them, evenly."""
    return [items[number * len(items) // NUM_RECORDINGS] for number in range(NUM_RECORDINGS)]


@pytest.mark.slow
@pytest.mark.parametrize("folders", [("kathleen",), ("heldout", "kathleen", "train", "train_joe")])
def test_words_of_recordings_without_text(
    folders: tuple[str, ...], corpus: Path, tmp_path: Path, codec_folder: Path, cache: Path
) -> None:
    known = [
        (corpus / folder / entry["file"], " ".join(turn["text"] for turn in entry["turns"]))
        for folder in folders
        for manifest in sorted((corpus / folder).glob("manifest-*.jsonl"))
        for entry in map(json.loads, manifest.read_text(encoding="utf-8").splitlines())
    ]
    source = tmp_path / "recordings"
    source.mkdir()
    spoken: dict[str, str] = {}
    for path, text in spread(known):
        name = f"{path.parent.name}-{path.stem}"
        shutil.copy(path, source / f"{name}{path.suffix}")
        spoken[name] = text
    for _ in prepare(
        find_conversations(source), tmp_path / "out", PrepareConfig(codec=str(codec_folder)), cache=cache, workers=2
    ):
        pass
    store = TurnStore(tmp_path / "out")
    found = {
        name: " ".join(turn.text for turn in turns)
        for name, turns in zip(store.names, store.conversations, strict=True)
    }
    score = WordScorer()
    errors = [score(spoken[Path(name).stem], text) for name, text in found.items()]
    rate = sum(one.errors for one in errors) / sum(one.num_words for one in errors)
    print(f"{', '.join(folders)}: {len(found)} of {len(spoken)} recordings, word error rate {rate:.2%}")
    assert len(found) >= 0.95 * NUM_RECORDINGS
    assert rate <= 0.10
