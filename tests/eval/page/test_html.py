"""The document: whole, self-contained, the same again, and harmless whatever the texts are."""

from __future__ import annotations

import base64
import builtins
import dataclasses
import hashlib
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from duologue.errors import EvaluationError
from duologue.eval.page import report_html
from duologue.eval.report import EvaluationReport
from tests.eval.page import builders
from tests.eval.page.builders import EVIL, SYSTEMS
from tests.eval.page.parsing import Page, parse


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluationReport, Path, str]:
    folder = tmp_path_factory.mktemp("run")
    report = builders.sample(folder)
    return report, folder, report_html(report, folder)


@pytest.fixture(scope="module")
def page(made: tuple[EvaluationReport, Path, str]) -> Page:
    return parse(made[2])


def test_the_document_is_in_order(made: tuple[EvaluationReport, Path, str], page: Page) -> None:
    assert made[2].startswith('<!doctype html>\n<html lang="en">')
    assert "{{" not in made[2]
    ids = [node.attributes["id"] for node in page.nodes if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    targets = [node.attributes["href"] for node in page.all("a")]
    assert targets and all(target and target[1:] in ids for target in targets)
    levels = [int(node.name[1]) for node in page.nodes if re.fullmatch("h[1-6]", node.name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(node.attributes.get("alt") for node in page.all("img"))
    tables = [node for node in page.all("table") if node.attributes.get("id") != "listing"]
    assert len(tables) >= 4 and sum(1 for node in page.all("th") if node.attributes.get("scope")) >= 2 * len(tables)


def test_nothing_is_fetched(made: tuple[EvaluationReport, Path, str], page: Page) -> None:
    for node in page.nodes:
        for name in ("src", "href", "action", "srcset", "data"):
            assert (node.attributes.get(name) or "#").startswith(("data:", "#")), node
        assert not any(name.startswith("on") or name == "style" for name in node.attributes), node
    assert "://" not in re.sub(r"base64,[^\"]*", "", made[2])
    policy = next(n.attributes["content"] for n in page.all("meta") if n.attributes.get("http-equiv"))
    assert policy and "default-src 'none'" in policy and "unsafe" not in policy
    scripts = [node.text for node in page.all("script") if node.attributes.get("type") is None]
    for content in (*scripts, page.all("style")[0].text):
        assert base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() in policy


def test_the_same_report_gives_the_same_bytes(made: tuple[EvaluationReport, Path, str]) -> None:
    report, folder, html = made
    assert report_html(report, folder) == html
    assert str(folder) not in html


def test_head_foot_and_suites(page: Page) -> None:
    assert page.all("h1")[0].text == "Evaluation of one and two"
    assert page.all("time")[0].text == "2026-03-01 12:30 UTC"
    text = page.all("body")[0].text
    for words in (
        "cap 20.0 s",
        "memory 1.5 GB",
        "abacus",
        "fingerprint 0123456789abcdef",
        "duologue eval",
        "bootstrap",
    ):
        assert words in text
    assert text.count("was left out: it is not timed.") == len(SYSTEMS)
    (failures,) = page.all("details", "failures")
    assert "2 utterances were not delivered: one 1, two 1" in failures.text and "no free slot" in failures.text
    best = [node.text for node in page.all("strong") if "td" in node.parents]
    assert best == ["10.0 %"] * 2 + ["11.0 %", "12.0 %"]  # the summary, the suite, its two groups


def test_all_utterances_are_listed(made: tuple[EvaluationReport, Path, str], page: Page) -> None:
    (listing,) = [node for node in page.all("script") if node.attributes.get("id") == "rows"]
    content = json.loads(listing.text)
    assert len(content["rows"]) == 16 and all(len(line) == len(content["columns"]) + 1 for line in content["rows"])
    shown = [line for line in content["rows"] if line[-1] is not None]
    assert len(shown) == len(page.all("article")) == 10
    assert {line[-1] for line in shown} == {node.attributes["id"] for node in page.all("article")}


@pytest.mark.parametrize("text", [EVIL, "{{script}} {{title}}", "\ud800\x00\x07'\"<!--", "..", "$x_1$ 你好 ]]>"])
def test_texts_are_harmless(tmp_path: Path, text: str) -> None:
    plain = builders.sample(tmp_path)
    html = report_html(builders.with_text(plain, text), tmp_path)
    page = parse(html)
    html.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", html)
    assert [node for node in page.all("img") if not (node.attributes["src"] or "").startswith("data:")] == []
    assert len(page.all("script")) == 2 and not page.all("b", "evil")
    if text == EVIL:
        assert "<img src=x" not in html
        assert text in page.all("h1")[0].text and text in page.all("article")[0].text
        (listing,) = [node for node in page.all("script") if node.attributes.get("id") == "rows"]
        assert json.loads(listing.text)["rows"][0][4] == text


def test_a_budget_is_kept_and_said(made: tuple[EvaluationReport, Path, str]) -> None:
    report, folder, html = made
    sizes = [len(uri) for uri in re.findall(r'data:audio/mpeg;base64,[^"]*', html)]
    assert len(sizes) == 10
    page = parse(report_html(report, folder, audio_budget=sum(sizes) // 2))
    kept = [len(node.attributes["src"] or "") for node in page.all("audio")]
    assert 4 <= len(kept) < 10 and sum(kept) <= sum(sizes) // 2
    assert f"{10 - len(kept)} of 10 clips are not shown" in page.all("body")[0].text
    firsts = [node.attributes["aria-label"] for node in page.all("article")]
    assert sum(1 for label in firsts if label and label.startswith("worst 1")) == 2
    assert sum(1 for label in firsts if label and label.startswith("best 1")) == 2


def test_clips_that_are_missing_or_broken(made: tuple[EvaluationReport, Path, str], tmp_path: Path) -> None:
    report = made[0]
    page = parse(report_html(report, tmp_path))
    assert not page.all("audio") and not page.all("img")
    assert page.all("body")[0].text.count("The clip is missing.") == 10
    for system in SYSTEMS:
        for number in range(7):
            path = tmp_path / "clips" / system / "intelligibility" / "plain" / f"{number:03d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"RIFF, or not")
    assert parse(report_html(report, tmp_path)).all("body")[0].text.count("The clip cannot be read.") == 10


def test_a_report_without_anything(tmp_path: Path) -> None:
    page = parse(report_html(dataclasses.replace(builders.report(systems=()), limit=None), tmp_path))
    assert page.all("h1")[0].text == "Evaluation" and "There are no clips." in page.all("body")[0].text
    empty = dataclasses.replace(builders.suite([]), figures=())
    page = parse(report_html(builders.report(empty), tmp_path))
    assert "Nothing was measured." in page.all("body")[0].text


def test_a_headline_without_a_figure_over_all_and_notes(tmp_path: Path) -> None:
    figures = tuple(builders.figure(name, 5.0, group=group) for name in SYSTEMS for group in ("with", "without"))
    suite = dataclasses.replace(builders.suite([]), figures=figures, notes=("heard by a made-up instrument",))
    page = parse(report_html(builders.report(suite), tmp_path))
    summary = page.all("table")[0].text
    assert "WER, with" in summary and "WER, without" in summary and summary.count("5.0 %") == 4
    assert next(node.text for node in page.all("p", "note")) == "heard by a made-up instrument"
    (groups,) = page.all("details")
    assert "open" in groups.attributes and groups.text.count("5.0 %") == 4


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "PIL":
            raise ModuleNotFoundError("No module named 'PIL'", name="PIL")
        return real(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EvaluationError, match=r"pillow is not installed: pip install 'duologue\[eval\]'"):
        report_html(builders.report(), tmp_path)
