"""A run: every request performed once, failures counted, an interrupted run taken up, and the same report again."""

import json
from pathlib import Path

import pytest

from duologue.errors import EvaluationError
from duologue.eval.clips import Clip, Request
from duologue.eval.markdown import comparison_markdown, report_markdown
from duologue.eval.report import (
    EvaluationReport,
    ReportedFigure,
    SuiteReport,
    compare_reports,
    make_report,
    read_report,
    write_report,
)
from duologue.eval.run import run
from duologue.eval.suites import SUITES, find_suites
from duologue.eval.takes import clip_path
from tests.eval.builders import Scripted, Speaker, instruments

TWO = ("similarity", "stopping")


def execute(folder: Path, *speakers: Speaker, scripted: Scripted | None = None, seed: int = 0) -> EvaluationReport:
    suites, tools = find_suites(TWO), instruments(folder, scripted)
    results = run(speakers, suites, folder, tools, limit=3, seed=seed)
    return make_report(results, speakers, suites, tools, command="test", seed=seed, limit=3)


def by_group_of(suite: SuiteReport) -> dict[tuple[str, str], ReportedFigure]:
    return {(figure.group, figure.metric): figure for figure in suite.figures}


def comparable(report: EvaluationReport) -> dict[str, object]:
    return report.to_dict() | {"created": None}


def test_a_report_has_every_figure_with_its_count(tmp_path: Path) -> None:
    report = execute(tmp_path, Speaker())
    assert [suite.name for suite in report.suites] == list(TWO)
    similarity, stopping = report.suites
    assert {figure.metric for figure in similarity.figures} == set(SUITES["similarity"].metrics)
    by_group = by_group_of(stopping)
    assert by_group["all", "cap"].count == 6 and by_group["tempting", "cap"].count == 3
    right = next(f for f in similarity.figures if f.metric == "right_voice")
    assert right.value == 100 and right.count == 6
    assert by_group_of(similarity)["single", "right_voice"].count == 3
    assert similarity.lists["similarity"]["version"] >= 1
    assert (tmp_path / "clips" / "speaker" / "similarity" / "single" / "001.wav").is_file()
    manifest = (tmp_path / "clips" / "speaker" / "stopping" / "manifest.jsonl").read_text().splitlines()
    assert len(manifest) == 6 and json.loads(manifest[0])["file"] == "tempting/001.wav"


def test_voices_take_turns_in_the_similarity_suite(tmp_path: Path) -> None:
    speaker = Speaker()
    execute(tmp_path, speaker)
    assert [request.voice for request in speaker.asked if request.group == "single"] == ["low", "high", "low"]


def test_the_same_seed_gives_the_same_report_and_another_asks_otherwise(tmp_path: Path) -> None:
    first, again, other = Speaker(), Speaker(), Speaker()
    report = execute(tmp_path / "a", first)
    assert comparable(execute(tmp_path / "b", again)) == comparable(report)
    execute(tmp_path / "c", other, seed=1)
    assert [r.seed for r in first.asked] == [r.seed for r in again.asked] != [r.seed for r in other.asked]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = execute(tmp_path / "whole", Speaker())
    folder, speaker, scripted = tmp_path / "run", Speaker(), Scripted()
    speaker.interrupt_after = 4
    with pytest.raises(KeyboardInterrupt):
        execute(folder, speaker, scripted=scripted)
    assert scripted.calls == 0  # nothing is measured before all is spoken
    takes = folder / "takes" / "speaker" / "similarity.jsonl"
    with takes.open("a") as file:
        file.write('{"key": "half a li')  # what a kill in the middle of a write leaves
    later = Speaker()
    report = execute(folder, later, scripted=scripted)
    assert len(speaker.asked) == 4 and len(later.asked) == 8 and scripted.calls == 12
    assert comparable(report) == comparable(whole)
    finished = Speaker()
    assert comparable(execute(folder, finished)) == comparable(whole) and not finished.asked


def test_failures_are_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    texts = [request.text for request in SUITES["stopping"].requests(Speaker(), limit=3, seed=0)]
    report = execute(tmp_path, Speaker(failing=(texts[1],)))
    stopping = report.suites[1]
    failed = next(f for f in stopping.figures if f.metric == "failed" and f.group == "all")
    assert failed.value == pytest.approx(100 / 6) and failed.count == 6
    (row,) = [row for row in stopping.systems[0].rows if row.failure]
    assert row.failure == "no free slot" and row.text == texts[1]
    assert f"speaker, {row.id}: no free slot" in report_markdown(report)


def test_systems_side_by_side(tmp_path: Path) -> None:
    page = report_markdown(execute(tmp_path, Speaker("one"), Speaker("two")))
    assert "| measure | one | two |" in page and "right voice first" in page
    with pytest.raises(EvaluationError, match="two systems have one name"):
        execute(tmp_path / "x", Speaker("one"), Speaker("one"))


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    execute(tmp_path, Speaker())
    with pytest.raises(EvaluationError, match="holds a run of other systems or another seed"):
        execute(tmp_path, Speaker("other"))
    with pytest.raises(EvaluationError, match="another seed"):
        execute(tmp_path, Speaker(), seed=5)


def test_a_report_is_read_back_and_a_broken_one_is_refused(tmp_path: Path) -> None:
    report = execute(tmp_path, Speaker())
    path = write_report(report, tmp_path)
    assert read_report(tmp_path) == read_report(path) == report
    text = path.read_text()
    for content, reason in (
        (text[: len(text) // 2], "is not a report"),
        ("[]", "schema None"),
        (text.replace('"schema": 1', '"schema": 99'), "schema 99"),
        (text.replace('"seed": 0', '"seed": "x"', 1), "expected int"),
    ):
        path.write_text(content)
        with pytest.raises(EvaluationError, match=reason):
            read_report(path)
    with pytest.raises(EvaluationError, match="does not exist"):
        read_report(tmp_path / "none.json")


def test_two_reports_compared(tmp_path: Path) -> None:
    good = execute(tmp_path / "a", Speaker("good"), scripted=Scripted(""))
    bad = execute(tmp_path / "b", Speaker("bad"), scripted=Scripted("something else entirely altogether"))
    compared = {(item.suite, item.metric.name): item for item in compare_reports(good, bad)}
    wer = compared["stopping", "wer"].difference
    assert wer.count == 6 and wer.value is not None
    assert compared["similarity", "similarity"].difference.value == pytest.approx(0.0)
    assert "good → bad" in comparison_markdown(list(compared.values()))
    with pytest.raises(EvaluationError, match="share no system"):
        compare_reports(execute(tmp_path / "c", Speaker("x"), Speaker("y")), good)


def test_an_unknown_suite_is_refused() -> None:
    with pytest.raises(EvaluationError, match="unknown suite 'speeed'; expected all or some of intelligibility"):
        find_suites(["speed", "speeed"])
    assert find_suites(["all"]) == list(SUITES.values())


def test_clip_names_stay_in_their_folder(tmp_path: Path) -> None:
    for identity in ("../../etc/x", "/abs/x", "a/../x", "..", "", "a\\b"):
        path = clip_path(tmp_path, identity)
        assert tmp_path in path.parents and ".." not in path.parts and path.suffix == ".wav"
    assert clip_path(tmp_path, "90-00000.2") == tmp_path / "90-00000.2.wav"


def test_one_system_at_a_time_is_in_memory(tmp_path: Path) -> None:
    """Though all are asked for their voices before the first one speaks."""
    systems: list[Speaker] = []

    class Lazy(Speaker):
        def voices(self) -> list[str]:
            self.is_open = True
            return super().voices()

        def speak(self, request: Request) -> Clip:
            self.is_open = True
            assert [system.name for system in systems if system.is_open] == [self.name]
            return super().speak(request)

    systems += [Lazy("one"), Lazy("two")]
    execute(tmp_path, *systems)
    assert all(system.asked for system in systems)
