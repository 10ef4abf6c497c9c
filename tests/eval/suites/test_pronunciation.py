"""The suites of pronunciation: which words are asked for, in which order, and what counts as kept."""

from pathlib import Path

from duologue.eval.clips import Clip, Request, Sound
from duologue.eval.phones import pair_accuracy
from duologue.eval.report import SuiteReport, make_report
from duologue.eval.run import run
from duologue.eval.suites import find_suites, pronunciation
from duologue.eval.suites.pronunciation import consistency_requests, homograph_requests
from tests.eval.builders import RATE, Speaker, buzz, instruments


class Chooser(Speaker):
    """Says words in the second way (short) after a turn that did, and where `seconds` says so."""

    def __init__(self, seconds: dict[str, float], *, keeps: bool) -> None:
        super().__init__(takes_context=True)
        self.seconds, self.keeps = seconds, keeps

    def speak(self, request: Request) -> Clip:
        own = self.seconds.get(request.group, 1.0)
        before = request.context[-1].sound if request.context else None
        return Clip(Sound(buzz(before.duration_s if before is not None and self.keeps else own), RATE))


def report_of(folder: Path, speaker: Speaker, suite: str) -> SuiteReport:
    suites, tools = find_suites([suite]), instruments(folder)
    results = run([speaker], suites, folder, tools, limit=1, seed=0)
    return make_report(results, [speaker], suites, tools, command="test", seed=0, limit=1).suites[0]


def values(suite: SuiteReport, metric: str) -> dict[str, float | None]:
    return {figure.group: figure.value for figure in suite.figures if figure.metric == metric}


def separable(words: set[str]) -> set[str]:
    return {word for word in words if pair_accuracy()[word].separable}


def test_only_words_that_the_instrument_can_judge_are_asked_for() -> None:
    homographs = homograph_requests(Speaker(), limit=None, seed=0)
    words = {str(request.facts["word"]) for request in homographs}
    assert words == separable({"lead", "bass", "tear", "wound", "row"}) and words
    assert all(request.text.lower().count(str(request.facts["word"])) >= 1 for request in homographs)
    kept = {str(request.facts["word"]) for request in consistency_requests(Speaker(), limit=None, seed=0)}
    assert kept and all(pair_accuracy()[word].separable for word in kept)


def test_an_answer_comes_after_the_turn_with_its_word() -> None:
    asked = consistency_requests(Speaker(takes_context=True), limit=None, seed=0)
    by_id = {request.id: request for request in asked}
    assert len(by_id) == len(asked)
    for request in asked:
        if request.group == "with":
            (turn,) = request.context
            before = by_id[str(turn.clip)]
            assert (turn.speaker, before.speaker, request.speaker) == (1, 1, 0)
            assert before.facts["word"] == request.facts["word"] and before.voice == "high"
            assert asked.index(before) < asked.index(request)
            alone = by_id[request.id.replace("with/", "without/")]
            assert alone.context == () and alone.seed == request.seed
    groups = {request.group for request in consistency_requests(Speaker(), limit=None, seed=0)}
    assert groups == {"before", "without"}


def test_a_system_that_keeps_the_variant_of_the_turn_before(tmp_path: Path) -> None:
    keeping = report_of(tmp_path / "a", Chooser({"before": 0.6}, keeps=True), "pronunciation")
    assert values(keeping, "consistency") == {"with": 100, "without": 0}
    assert values(keeping, "variant") == {"before": 100, "with": 100, "without": 0}
    deaf = report_of(tmp_path / "b", Chooser({"before": 0.6}, keeps=False), "pronunciation")
    assert values(deaf, "consistency") == {"with": 0, "without": 0}


def test_words_that_are_not_found_are_counted_apart(tmp_path: Path) -> None:
    suite = report_of(tmp_path, Chooser({"lead": 0.25, "tear": 0.6, "bass": 1.0}, keeps=False), "homographs")
    found, intended = values(suite, "word_found"), values(suite, "intended")
    for word, share, right in (("lead", 0, None), ("tear", 100, 0), ("bass", 100, 100)):
        if pair_accuracy()[word].separable:
            assert found[word] == share and intended.get(word) == right
    assert suite.headline == "intended" and suite.notes


def test_what_the_instrument_cannot_judge_is_said() -> None:
    kept, left_out = pronunciation._notes(set(pair_accuracy()))[0], pronunciation._notes(set(pair_accuracy()))[1:]
    for word, pair in pair_accuracy().items():
        shown = f"{word} {100 * pair.accuracy:.0f} % (n = {pair.count})"
        assert (shown in kept) is pair.separable
        assert any(shown in note for note in left_out) is not pair.separable
