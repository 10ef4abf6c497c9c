"""CMOS of made-up raters whose opinion is known, whatever side the clips were on; and files that are not ratings."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duologue.errors import ConfigError, EvaluationError
from duologue.eval.listening import Comparison, Key, RaterFile, compare_opinions, read_ratings
from duologue.eval.listening.key import Trial
from tests.eval.listening.builders import FIRST, SECOND, attentive, make_key, rate


def opinion(found: Comparison, condition: str) -> Any:
    (result,) = [item for item in found.conditions if item.condition == condition]
    return result


@pytest.mark.parametrize("swapped", [lambda n: False, lambda n: True, lambda n: n % 2 == 0, lambda n: n % 3 == 0])
def test_the_side_does_not_matter(swapped: Any) -> None:
    key = make_key(4, num_with_context=2)
    by_trial = {"t0": 3, "t1": 1, "t2": 0, "t3": -2, "u0": 2, "u1": -1}
    found = compare_opinions(key, [rate(key, "ada", lambda trial: by_trial[trial.id], swapped=swapped)])
    assert opinion(found, "no context").value == pytest.approx(0.5)
    assert opinion(found, "context").value == pytest.approx(0.5)
    assert opinion(found, "all").value == pytest.approx(0.5)
    counts = opinion(found, "all")
    assert (counts.num_ratings, counts.num_raters, counts.num_items) == (6, 1, 4)
    assert (counts.num_second_better, counts.num_same, counts.num_first_better) == (3, 1, 2)
    values = {(item.item, item.condition): item.value for item in found.items}
    assert values[("item000", "no context")] == 3 and values[("item000", "context")] == 2
    assert values[("item003", "no context")] == -2 and len(values) == 6
    assert (found.first_system, found.second_system) == (FIRST, SECOND)


def test_raters_who_lean_to_one_side_are_seen() -> None:
    key = make_key(10)
    lean = rate(key, "ada", lambda trial: 0)
    answers = tuple(dataclasses.replace(answer, rating=1) for answer in lean.answers)
    found = compare_opinions(key, [dataclasses.replace(lean, answers=answers)])
    assert found.mean_right_over_left == 1 and opinion(found, "all").value == 0


def test_a_condition_that_was_not_asked_is_not_told() -> None:
    key = make_key(2)
    found = compare_opinions(key, [rate(key, "ada", lambda trial: 1)])
    assert [item.condition for item in found.conditions] == ["no context", "all"]


@pytest.mark.parametrize(
    ("kind", "value", "passes"),
    [("identical", 0, True), ("identical", 1, True), ("identical", -1, True), ("identical", 2, False)]
    + [("degraded", -3, True), ("degraded", -1, True), ("degraded", 0, False), ("degraded", 3, False)],
)
def test_attention_checks(kind: str, value: int, passes: bool) -> None:
    key = make_key(3, num_checks=2)
    good = rate(key, "ada", attentive(lambda trial: 1))
    other = rate(key, "bob", lambda trial: value if trial.kind == kind else attentive(lambda trial: -3)(trial))
    found = compare_opinions(key, [good, other])
    assert found.num_raters == (2 if passes else 1)
    assert opinion(found, "all").value == (-1 if passes else 1)
    assert opinion(found, "all").num_ratings == (6 if passes else 3)
    failed = [(item.rater, item.num_failed, item.num_checks, item.counted) for item in found.failed_raters]
    assert failed == ([] if passes else [("bob", 1, 2, False)])
    for lenient in (compare_opinions(key, [good, other], include_failed=True),):
        assert lenient.num_raters == 2 and [item.counted for item in lenient.failed_raters] == (
            [] if passes else [True]
        )
    assert compare_opinions(key, [good, other], allowed_failures=1).num_raters == 2


def test_nobody_left() -> None:
    key = make_key(3, num_checks=2)
    careless = rate(key, "bob", lambda trial: 3)
    with pytest.raises(EvaluationError, match="none of 1 raters passed"):
        compare_opinions(key, [careless])
    assert compare_opinions(key, [careless], include_failed=True).num_raters == 1
    only_checks = dataclasses.replace(careless, answers=careless.answers[3:])
    with pytest.raises(EvaluationError, match="attention checks only"):
        compare_opinions(key, [only_checks], include_failed=True)
    for options in ({"allowed_failures": -1}, {"seed": -1}):
        with pytest.raises(EvaluationError, match="-1"):
            compare_opinions(key, [careless], **options)


def test_one_rating_has_no_interval() -> None:
    key = make_key(1)
    found = opinion(compare_opinions(key, [rate(key, "ada", lambda trial: 2)]), "all")
    assert (found.value, found.low, found.high) == (2, None, None)


def test_unanswered_questions_are_counted() -> None:
    key = make_key(4)
    whole = rate(key, "ada", lambda trial: 1)
    part = dataclasses.replace(rate(key, "bob", lambda trial: -1), answers=rate(key, "bob", lambda t: -1).answers[:1])
    found = compare_opinions(key, [part, whole])
    assert found.num_unanswered == 3 and opinion(found, "all").value == pytest.approx(3 / 5)


def noisy_raters(generator: np.random.Generator, num_raters: int, num_items: int, truth: float) -> tuple[Key, list]:
    """Ratings made of a truth, a rater's and an item's own leaning, and noise; rounded to the scale."""
    key = make_key(num_items)
    items = {trial.id: generator.normal(0, 0.6) for trial in key.trials}
    files = []
    for number in range(num_raters):
        leaning = generator.normal(0, 0.4)

        def answer(trial: Trial, leaning: float = leaning) -> int:
            value = truth + items[trial.id] + leaning + generator.normal(0, 0.8)
            return int(np.clip(round(value), -3, 3))

        files.append(rate(key, f"rater{number:02}", answer))
    return key, files


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(11)
    num_runs, truth, inside = 50, 0.5, 0
    for _ in range(num_runs):
        key, files = noisy_raters(generator, 14, 16, truth)
        found = opinion(compare_opinions(key, files), "all")
        inside += found.low <= truth <= found.high
    assert inside >= 42  # 47.5 expected; a bootstrap over single ratings holds it about 28 times


def test_the_interval_minds_clusters() -> None:
    """The same ratings, but each item rated alike by all: there are as many independent facts as items."""
    key = make_key(50)
    by_item = {trial.id: value for trial, value in zip(key.trials, [-3, 3] * 25, strict=True)}
    files = [rate(key, f"rater{n}", lambda trial: by_item[trial.id]) for n in range(10)]
    found = opinion(compare_opinions(key, files), "all")
    width = 2 * 1.96 * 3 / np.sqrt(50)
    assert found.high - found.low == pytest.approx(width, rel=0.15)
    key = make_key(10)
    by_rater = [rate(key, f"rater{n:02}", lambda trial, n=n: (-3, 3)[n % 2]) for n in range(50)]  # type: ignore[misc]
    found = opinion(compare_opinions(key, by_rater), "all")
    assert found.high - found.low == pytest.approx(width, rel=0.15)


def test_same_ratings_same_figures() -> None:
    key, files = noisy_raters(np.random.default_rng(3), 6, 8, 0.2)
    one, again = compare_opinions(key, files), compare_opinions(key, files[::-1])
    assert one == again
    other = compare_opinions(key, files, seed=5)
    assert opinion(other, "all").value == opinion(one, "all").value and other != one
    assert Comparison.from_json(one.to_json()) == one


# ---- Files.


def written(folder: Path, ratings: RaterFile, name: str = "ada.json") -> Path:
    path = folder / name
    path.write_text(ratings.to_json(), encoding="utf-8")
    return path


def test_files_are_read(tmp_path: Path) -> None:
    key = make_key(3)
    files = [rate(key, name, lambda trial: 1) for name in ("ada", "bob")]
    paths = [written(tmp_path, ratings, f"{ratings.rater}.json") for ratings in files]
    assert read_ratings(paths, key) == tuple(files)
    with pytest.raises(EvaluationError, match="no ratings were given"):
        read_ratings([], key)


def changed(**changes: Any) -> Any:
    return lambda value: value | changes


def changed_answer(**changes: Any) -> Any:
    return lambda value: value | {"answers": [value["answers"][0] | changes, *value["answers"][1:]]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (changed(format="other"), ["format 'other'"]),
        (changed(version=2), ["version 2"]),
        (changed(test="elsewhere"), ["another page", "'elsewhere'"]),
        (changed(answers=[]), ["no answers"]),
        (changed(answers=7), ["expected a list"]),
        (changed(rater=7), ["rater"]),
        (changed(extra=1), ["unknown field(s) extra"]),
        (lambda value: {name: value[name] for name in value if name != "seed"}, ["missing field(s) seed"]),
        (changed_answer(rating=4), ["rating 4"]),
        (changed_answer(rating=-4), ["rating -4"]),
        (changed_answer(rating=1.5), ["rating", "1.5"]),
        (changed_answer(rating=True), ["rating", "True"]),
        (changed_answer(rating=None), ["rating"]),
        (changed_answer(seconds=-1), ["seconds -1"]),
        (changed_answer(seconds=float("nan")), ["seconds nan"]),
        (changed_answer(trial="t9"), ["'t9'", "does not ask"]),
        (changed_answer(left="a1"), ["'t0'", "does not ask"]),
        (changed_answer(left="b0"), ["'t0'", "does not ask"]),
        (lambda value: value | {"answers": value["answers"] + value["answers"][:1]}, ["'t0'", "twice"]),
        (lambda value: [value], ["found list"]),
    ],
)
def test_files_that_are_refused(tmp_path: Path, change: Any, words: list[str]) -> None:
    key = make_key(3)
    path = tmp_path / "ada.json"
    path.write_text(json.dumps(change(rate(key, "ada", lambda trial: 1).to_dict())))
    refuse([path], key, "ada.json", *words)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5_000, b"null"])
def test_files_that_are_damaged(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "ada.json"
    path.write_bytes(data)
    refuse([path], make_key(3), "ada.json")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    refuse([tmp_path / "missing.json"], make_key(3), "missing.json does not exist")
    refuse([tmp_path], make_key(3), "is a folder")


def test_one_rater_twice(tmp_path: Path) -> None:
    key = make_key(3)
    ratings = rate(key, "ada", lambda trial: 1)
    paths = [written(tmp_path, ratings), written(tmp_path, ratings, "copy.json")]
    refuse(paths, key, "ada.json", "copy.json", "'ada'")


def refuse(paths: list[Path], key: Key, *words: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        read_ratings(paths, key)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1_000
    for word in words:
        assert word in message, (word, message)


def test_a_key_with_a_trial_twice() -> None:
    key = make_key(2)
    with pytest.raises(ConfigError, match="twice"):
        dataclasses.replace(key, trials=key.trials[:1] * 2)
