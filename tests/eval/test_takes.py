"""What a run keeps: journals that survive a kill, clips that are spoken once, and requests told apart."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from duologue.errors import AudioError
from duologue.eval.clips import Change, Clip, ContextTurn, Request, Sound
from duologue.eval.files import Journal
from duologue.eval.takes import Take, Takes, request_key
from tests.eval.builders import RATE, Speaker, buzz


def request(**changes: object) -> Request:
    base = Request("plain/001", "plain", "Hello there.", seed=7)
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_a_journal_forgets_only_the_line_that_was_being_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "journal.jsonl"
    with Journal(path) as journal:
        journal.put("a", {"n": 1})
        journal.put("b", {"n": 2})
        journal.put("a", {"n": 3})
    whole = path.read_text()
    for cut in range(len(whole)):
        path.write_text(whole[:cut])
        with Journal(path) as journal:
            known = [line for line in whole[:cut].splitlines() if line in whole.splitlines()]
            assert journal.get("b") == ({"n": 2} if len(known) >= 2 else None)
            journal.put("c", {"n": 4})
        with Journal(path) as journal:
            assert journal.get("c") == {"n": 4} and journal.get("b") == ({"n": 2} if len(known) >= 2 else None)


def test_a_clip_is_spoken_once_and_found_again(tmp_path: Path) -> None:
    speaker, takes = Speaker(), Takes(tmp_path, "speaker")
    with takes.journal("suite") as journal:
        first = takes.perform(speaker, "suite", request(), journal)
        again = takes.perform(speaker, "suite", request(), journal)
    with takes.journal("suite") as journal:
        later = takes.perform(speaker, "suite", request(), journal)
        assert len(speaker.asked) == 1 and first.key == again.key == later.key
        assert first.take == later.take and first.take.total_s == 1.0 and len(first.take.chunks) == 2
        takes.path("suite", "plain/001").unlink()
        takes.perform(speaker, "suite", request(), journal)
        takes.perform(speaker, "suite", request(seed=8), journal)
    assert len(speaker.asked) == 3
    assert Take.from_dict(json.loads(json.dumps(first.take.to_dict()))) == first.take


def test_a_take_gives_the_clip_again() -> None:
    clip = Clip(Sound(buzz(), RATE), 0.5, (), "end", 12.0, ((1, 2), (3, 4)), 8)
    assert vars(Take.of(clip).clip(clip.sound)) == vars(clip)


def test_a_failure_is_a_take_that_is_tried_again_and_an_empty_clip_is_one(tmp_path: Path) -> None:
    class Silent(Speaker):
        def speak(self, request: Request) -> Clip:
            self.asked.append(request)
            return Clip(Sound(torch.zeros(0), RATE))

    speaker, takes = Silent(), Takes(tmp_path, "silent")
    for _ in range(2):
        with takes.journal("suite") as journal:
            assert takes.perform(speaker, "suite", request(), journal).take.failure == "the audio is empty (0 s)"
    assert len(speaker.asked) == 2


def test_a_full_disk_is_no_failure_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise AudioError("cannot write clip.wav: No space left on device")

    speaker, takes = Speaker(), Takes(tmp_path, "speaker")
    monkeypatch.setattr("duologue.eval.takes.write_audio", write)
    with takes.journal("suite") as journal, pytest.raises(AudioError, match="No space left"):
        takes.perform(speaker, "suite", request(), journal)
    monkeypatch.undo()
    with takes.journal("suite") as journal:
        assert takes.perform(speaker, "suite", request(), journal).take.failure is None


def test_every_part_of_a_request_is_in_its_key() -> None:
    turn = ContextTurn(1, "So?", Sound(buzz(), RATE))
    others = [
        request(id="plain/002"),
        request(text="Hello."),
        request(seed=8),
        request(speaker=1),
        request(voice="low"),
        request(facts={"word": "lead"}),
        request(reference="plain/000"),
        request(original=turn.sound),
        request(recode=False),
        request(context=(turn,)),
        request(context=(dataclasses.replace(turn, text="So."),)),
        request(context=(dataclasses.replace(turn, sound=Sound(buzz(1.0, 151.0), RATE)),)),
    ]
    assert len({request_key(item) for item in [request(), *others]}) == len(others) + 1
    assert request_key(request()) == request_key(request(facts={"unkept": object()}))


def test_the_manifest_names_what_was_delivered_and_what_came_before(tmp_path: Path) -> None:
    speaker, takes = Speaker(failing=("No.",)), Takes(tmp_path, "speaker")
    turn = ContextTurn(1, "Hello there.", clip="plain/001")
    faster = dataclasses.replace(turn, change=Change(pace=1.25))
    asked = [request(), request(id="plain/002", text="No."), request(id="plain/003", context=(turn, faster))]
    with takes.journal("suite") as journal:
        for item in asked:
            takes.perform(speaker, "suite", item, journal)
    takes.write_manifest("suite", asked)
    lines = (tmp_path / "clips" / "speaker" / "suite" / "manifest.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"id": "plain/001", "file": "plain/001.wav", "text": "Hello there."},
        {
            "id": "plain/003",
            "file": "plain/003.wav",
            "text": "Hello there.",
            "context": [
                {"speaker": 1, "text": "Hello there.", "file": "plain/001.wav"},
                {"speaker": 1, "text": "Hello there."},
            ],
        },
    ]


def test_prompts_are_kept_as_they_are(tmp_path: Path) -> None:
    takes = Takes(tmp_path, "speaker")
    takes.keep_prompts(Speaker())
    kept = takes.prompt("high")
    assert kept is not None and kept.pcm.numpy() == pytest.approx(buzz(1.0, 250.0).numpy(), abs=1e-4)
    assert takes.prompt("nobody") is None
