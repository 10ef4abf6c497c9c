"""The suites of conversation: who is asked what after which turns, and what figures say of systems that are known."""

from pathlib import Path

import pytest

from duologue.eval.clips import Change, Clip, Request, Sound, SpeechError
from duologue.eval.report import SuiteReport, make_report
from duologue.eval.run import run
from duologue.eval.suites import SUITES, find_suites
from duologue.eval.suites.conversation import CHANGES, CONDITIONS, alter, context_requests, drift_requests
from tests.eval.builders import RATE, Speaker, buzz, instruments


class Echo(Speaker):
    """Answers with its own last turn as it heard it: whatever was changed in the history is in the answer."""

    def speak(self, request: Request) -> Clip:
        clip = super().speak(request)
        own = [turn.sound for turn in request.context if turn.speaker == request.speaker and turn.sound is not None]
        return Clip(own[-1]) if own else clip


def report_of(folder: Path, speaker: Speaker, suite: str, limit: int = 3) -> SuiteReport:
    suites, tools = find_suites([suite]), instruments(folder)
    results = run([speaker], suites, folder, tools, limit=limit, seed=0)
    return make_report(results, [speaker], suites, tools, command="test", seed=0, limit=limit).suites[0]


def values(suite: SuiteReport, metric: str) -> dict[str, float | None]:
    return {figure.group: figure.value for figure in suite.figures if figure.metric == metric}


def test_every_answer_is_asked_for_in_every_condition() -> None:
    asked = context_requests(Speaker(takes_context=True), limit=2, seed=0)
    turns = {request.id: request for request in asked if request.group == "turn"}
    answers = [request for request in asked if request.group != "turn"]
    assert [request.group for request in answers] == [name for name in CONDITIONS for _ in range(2)]
    assert len({request.id for request in asked}) == len(asked)
    for request in answers:
        by_itself = next(r for r in answers if r.group == "without" and r.text == request.text)
        assert (request.seed, request.voice) == (by_itself.seed, "low")
        for turn in request.context:
            assert turn.clip is not None and turns[turn.clip].speaker == turn.speaker
            assert asked.index(turns[turn.clip]) < asked.index(request)
            assert turn.change == CHANGES.get(request.group, Change())
    own = {request.id: [turn.clip for turn in request.context] for request in answers}
    assert own["without/001"] == [] and own["with/001"] == own["slower/001"] == ["history/001", "history/002"]
    assert own["swapped/001"] == own["with/002"] == ["history/003", "history/004"]
    assert {turn.voice for turn in turns.values()} == {"low", "high"}


def test_a_system_without_context_is_asked_by_itself_only() -> None:
    asked = context_requests(Speaker(), limit=2, seed=0)
    assert {request.group for request in asked} == {"turn", "without"} and not any(r.context for r in asked)


def test_the_turns_reach_the_system_as_they_were_spoken_and_changed(tmp_path: Path) -> None:
    speaker = Speaker(takes_context=True)
    report_of(tmp_path, speaker, "context", limit=1)
    asked = {request.group: request for request in speaker.asked}
    plain, slower, louder = (asked[name].context[0].sound for name in ("with", "slower", "louder"))
    assert plain is not None and slower is not None and louder is not None
    assert len(plain.pcm) == RATE and slower.duration_s == pytest.approx(1.25, abs=0.03)
    assert louder.pcm.abs().max() / plain.pcm.abs().max() == pytest.approx(10 ** (5 / 20), rel=1e-3)


def test_carry_over_is_one_where_the_answer_follows_and_nothing_where_it_does_not(tmp_path: Path) -> None:
    deaf = report_of(tmp_path / "deaf", Speaker(takes_context=True), "context")
    echo = report_of(tmp_path / "echo", Echo(takes_context=True), "context")
    for metric, slack in (("carry_pace", 0.05), ("carry_pitch", 0.1), ("carry_level", 0.05)):
        assert values(deaf, metric) == {"all": pytest.approx(0, abs=1e-6)}
        assert values(echo, metric) == {"all": pytest.approx(1, abs=slack)}
    assert values(echo, "pace_follows")["all"] == pytest.approx(0.9, abs=0.1)  # texts of another number of syllables
    assert values(deaf, "pace_follows") == values(deaf, "pace_unheard") == values(echo, "pace_unheard")
    assert values(echo, "level_step")["with"] == pytest.approx(0, abs=1e-3)
    assert values(echo, "level_step")["louder"] == pytest.approx(5, abs=0.1)
    assert values(echo, "pitch_step")["higher"] == pytest.approx(2, abs=0.2)
    assert set(values(echo, "turn_similarity")) == set(CONDITIONS)
    assert values(echo, "turn_similarity")["with"] == pytest.approx(1)
    assert "all" not in values(echo, "wer")


def test_an_answer_without_its_history_is_counted_as_failed(tmp_path: Path) -> None:
    broken = context_requests(Speaker(), limit=1, seed=0)[0].text
    suite = report_of(tmp_path, Speaker(failing=(broken,), takes_context=True), "context", limit=1)
    failures = {row.group: row.failure for row in suite.systems[0].rows if row.failure}
    assert failures["with"] == "the turn history/001 before it was not delivered"
    assert failures["turn"] == "no free slot" and "without" not in failures
    assert values(suite, "failed")["with"] == 100


def test_a_conversation_of_ten_turns_grows_turn_by_turn() -> None:
    asked = drift_requests(Speaker(takes_context=True), limit=20, seed=0)
    assert [len(request.context) for request in asked] == [*range(10), *range(10)]
    assert [turn.clip for turn in asked[12].context] == ["drift/2.01", "drift/2.02"]
    assert {(request.speaker, request.voice) for request in asked} == {(0, "low"), (1, "high")}
    assert not any(request.context for request in drift_requests(Speaker(), limit=20, seed=0))


class Drifting(Speaker):
    """Its voice leaves that of the prompt by the same bit each turn."""

    def speak(self, request: Request) -> Clip:
        hertz = {"low": 150.0, "high": 250.0}[request.voice or "low"] + 4 * len(request.context)
        return Clip(Sound(buzz(1.0, hertz), RATE))


def test_drift_is_how_far_the_voice_goes_over_ten_turns(tmp_path: Path) -> None:
    still = report_of(tmp_path / "still", Speaker(takes_context=True), "similarity", limit=10)
    going = report_of(tmp_path / "going", Drifting(takes_context=True), "similarity", limit=10)
    assert values(still, "drift_turns")["all"] == pytest.approx(0, abs=1e-3)
    similar = [row.similarity for row in going.systems[0].rows if row.group == "drift"]
    assert similar[0] is not None and similar[-1] is not None
    assert values(going, "drift_turns")["drift"] == pytest.approx(similar[-1] - similar[0], abs=0.05)
    assert similar[-1] < 0.99


def test_altering_a_recording() -> None:
    sound = Sound(buzz(1.0), RATE)
    assert alter(sound, Change()).pcm is sound.pcm
    assert alter(sound, Change(pace=1.25)).duration_s == pytest.approx(0.8, abs=0.03)
    assert alter(sound, Change(semitones=2)).duration_s == pytest.approx(1.0, abs=0.03)


def test_only_systems_that_can_are_put_through_a_suite() -> None:
    class Codec(Speaker):
        speaks = False

        def recode(self, sound: Sound) -> Clip:
            raise SpeechError("not here")

    assert {name for name, suite in SUITES.items() if suite.unfit(Codec()) is None} == {"codec"}
    assert {name for name, suite in SUITES.items() if suite.unfit(Speaker())} == {"codec"}
