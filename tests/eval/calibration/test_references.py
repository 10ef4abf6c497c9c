"""Which recordings are taken, and what the changes make of them."""

import json
from pathlib import Path

import pytest
import torch

from duologue.audio import write_audio
from duologue.errors import EvaluationError
from duologue.eval.calibration.bench import Progress, measure
from duologue.eval.calibration.conditions import CONDITIONS, UNTOUCHED
from duologue.eval.calibration.references import Sample, gather, open_recordings
from duologue.eval.instruments import HeardWord, Instruments, Transcript
from tests.eval.builders import RATE, Scripted, buzz, instruments
from tests.eval.calibration.builders import make_folder


def sampled(tmp_path: Path, *, limit: int = 4, everything: bool = False, num_each: int = 6) -> Sample:
    systems = open_recordings([str(make_folder(tmp_path / "spoken", num_each=num_each))])
    return gather(systems, instruments(tmp_path), limit=limit, everything=everything)


def test_voices_count_alike_and_prompts_do_not_count(tmp_path: Path) -> None:
    sample = sampled(tmp_path, limit=4)
    assert [reference.id for reference in sample.changed] == ["ann2", "ann4", "bea2", "bea4"]
    assert sample.untouched == sample.changed and sample.folders == ("spoken",)
    assert sample.prompts.keys() == {"ann", "bea"}
    whole = sampled(tmp_path / "again", limit=3, everything=True)
    assert [reference.voice for reference in whole.changed] == ["ann", "ann", "bea"]
    assert len(whole.untouched) == 10 and not {"ann0", "bea0"} & {reference.id for reference in whole.untouched}


def test_a_limit_beyond_the_folder_takes_all_of_it(tmp_path: Path) -> None:
    assert len(sampled(tmp_path, limit=100).changed) == 10


def test_short_recordings_and_short_texts_are_passed_over(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "spoken", num_each=3)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    write_audio(folder / "ann1.wav", buzz(1.4), RATE)
    write_audio(folder / "ann2.wav", torch.zeros(2 * RATE), RATE)
    for line in lines:
        if line["file"] == "bea1.wav":
            line["text"] = "three words only"
    (folder / "manifest.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    sample = gather(open_recordings([str(folder)]), instruments(tmp_path), limit=10)
    assert [reference.id for reference in sample.changed] == ["bea2"]


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    folders = [make_folder(tmp_path / part / "wavs") for part in "abc"]
    systems = open_recordings([str(folders[0]), f"{folders[1]}#manifest.jsonl", str(folders[2])])
    assert [system.name for system in systems] == ["wavs", "wavs-2", "wavs-3"]


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ([], "no recordings to calibrate on; give --recordings FOLDER"),
        (["#manifest.jsonl"], "expected FOLDER or FOLDER#PATTERN"),
        (["nowhere"], r"no manifest\*\.jsonl in nowhere"),
    ],
)
def test_what_holds_no_recordings_is_refused(addresses: list[str], reason: str) -> None:
    with pytest.raises(EvaluationError, match=reason):
        open_recordings(addresses)


def test_a_folder_without_enough_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"spoken has no recording of 1\.5 s and 4 words or more"):
        sampled(tmp_path, num_each=1)


def test_a_recording_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "spoken")
    (folder / "ann2.wav").unlink()
    with pytest.raises(EvaluationError, match="spoken, ann2: "):
        gather(open_recordings([str(folder)]), instruments(tmp_path), limit=4)


def test_texts_are_exchanged_within_a_folder(tmp_path: Path) -> None:
    sample = sampled(tmp_path, limit=6)
    made = CONDITIONS["shuffled-texts"].make(sample.changed, 0)
    texts = {reference.id: reference.text for reference in sample.changed}
    assert {reference.id for reference in made} == texts.keys()
    assert all(reference.text != texts[reference.id] and reference.text in texts.values() for reference in made)
    assert [r.text for r in made] == [r.text for r in CONDITIONS["shuffled-texts"].make(sample.changed, 0)]


def test_voices_are_swapped_for_others(tmp_path: Path) -> None:
    sample = sampled(tmp_path)
    made = CONDITIONS["swapped-voices"].make(sample.changed, 0)
    assert [reference.voice for reference in made] == ["bea", "bea", "ann", "ann"]
    alone = [reference for reference in sample.changed if reference.voice == "ann"]
    assert CONDITIONS["swapped-voices"].make(alone, 0) == []


class FourWords(Scripted):
    """Hears four words of half a second in whatever is two seconds long."""

    def transcript(self, pcm: torch.Tensor, sample_rate: int) -> Transcript:
        self.calls += 1
        names = ["we", "all", "went", "home"]
        return Transcript(" ".join(names), tuple(HeardWord(name, n / 2, n / 2 + 0.5) for n, name in enumerate(names)))


def test_every_condition_is_measured_with_each_sound_heard_once(tmp_path: Path) -> None:
    sample, scripted = sampled(tmp_path), FourWords()
    told: list[Progress] = []
    measured = measure(sample, instruments(tmp_path, scripted), progress=told.append)
    assert measured.keys() == CONDITIONS.keys() and all(len(rows) == 4 for rows in measured.values())
    assert [progress.done for progress in told] == list(range(4 * len(CONDITIONS))) and told[0].total == len(told)
    assert scripted.calls == 4 * (len(CONDITIONS) - 2)  # other texts and voices change no sound
    lengths = {name: rows[0].duration_s for name, rows in measured.items()}
    assert lengths[UNTOUCHED] == 2.0 and lengths["silence"] == 4.0
    assert lengths["loop"] == 2.0 + 3 * 1.0  # two words of half a second, three times more
    assert lengths["stuck"] == pytest.approx(2.0 + 3 * 0.5, abs=0.2)
    assert lengths["cut"] == pytest.approx(1.7, abs=0.1)
    assert lengths["slower"] == pytest.approx(2.0 / 0.75, rel=0.02)


def test_bounds_are_measured_on_all_and_changes_on_the_sample(tmp_path: Path) -> None:
    sample = sampled(tmp_path, limit=2, everything=True)
    tools: Instruments = instruments(tmp_path)
    measured = measure(sample, tools, conditions=[CONDITIONS["softer"]])
    assert {name: len(rows) for name, rows in measured.items()} == {UNTOUCHED: 10, "softer": 2}
