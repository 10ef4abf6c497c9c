"""The page in a real browser: headless Chromium goes through a whole test, sound included."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duologue.eval.listening import (
    ListeningPage,
    build_page,
    compare_opinions,
    pair_folders,
    read_key,
    read_ratings,
    write_page,
)
from tests.eval.browser import PATIENCE, needs_chromium, open_browser, webdriver
from tests.eval.listening.builders import FIRST, SECOND, make_system
from tests.eval.listening.chance import plan_of

pytestmark = needs_chromium

CLIP_SECONDS = 0.25
PHONE = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}


class Browser:
    """A page and what a rater does on it."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def __getitem__(self, identifier: str) -> Any:
        return self.driver.find_element("id", identifier)

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.script(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"waited in vain for {condition}; the page says: {self['problem'].text}"
            time.sleep(0.05)

    def play(self, identifier: str) -> None:
        """Play to the end."""
        self.script("document.getElementById(arguments[0]).scrollIntoView({block: 'center'})", identifier)
        self[identifier].click()
        self.wait(f"document.getElementById('{identifier}').classList.contains('heard')")

    def is_open(self) -> bool:
        """Whether an answer can be given."""
        inputs = self.driver.find_elements("name", "rating")
        states = {item.is_enabled() for item in inputs}
        assert len(inputs) == 7 and len(states) == 1
        return states.pop()

    def choose(self, rating: int) -> None:
        label = self.driver.find_element("css selector", f"label:has(input[name=rating][value='{rating}'])")
        self.script("arguments[0].scrollIntoView({block: 'center'})", label)
        label.click()

    def next(self) -> None:
        self.script("document.getElementById('next').scrollIntoView({block: 'center'})")
        self["next"].click()

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> Any:
        return self.driver.switch_to.active_element

    def problems(self) -> list[Any]:
        """What the console holds."""
        return list(self.driver.get_log("browser"))


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with open_browser(tmp_path) as driver:
        yield Browser(driver)


@pytest.fixture
def page(tmp_path: Path) -> ListeningPage:
    """Written as page.html in the test's folder, with its key."""
    folders = [make_system(tmp_path / name, hertz, CLIP_SECONDS) for name, hertz in ((FIRST, 150.0), (SECOND, 260.0))]
    page = build_page(pair_folders(*folders))
    write_page(page, tmp_path / "page.html")
    return page


def content_of(page: ListeningPage) -> dict[str, Any]:
    (text,) = re.findall(r'id="content">(.*?)</script>', page.html, re.DOTALL)
    content = json.loads(text)
    assert isinstance(content, dict)
    return content


def start(browser: Browser, page_path: Path, rater: str) -> None:
    browser.driver.get(page_path.as_uri())
    browser["rater"].send_keys(rater)
    browser.driver.find_element("css selector", "#start-form button").click()
    assert browser["position"].text == "Question 1 of 8"


def listen_to_all(browser: Browser, has_history: bool) -> None:
    """Play everything; no answer can be given before the last sound has ended."""
    parts = ["play-right", "play-left"]
    if has_history:
        browser.script("document.querySelector('#turns .player').id = 'first-turn'")
        parts = ["first-turn", *parts, "play-history"]
    for part in parts:
        assert not browser.is_open() and not browser["next"].is_enabled()
        browser.play(part)
    assert browser.is_open() and not browser["next"].is_enabled()
    assert browser["hint"].text.startswith("Choose an answer")


def test_a_whole_test(browser: Browser, page: ListeningPage, tmp_path: Path) -> None:
    plan = plan_of(content_of(page), "ada")
    trials = {trial.id: trial for trial in page.key.trials}
    start(browser, tmp_path / "page.html", "ada")
    for number, (shown, left, right) in enumerate(plan, start=1):
        trial = trials[shown["id"]]
        assert browser["position"].text == f"Question {number} of {len(plan)}"
        asked = "as the next turn of this conversation?" if shown["context"] else "like natural human speech?"
        assert browser["question"].text.endswith(asked)
        assert browser["history"].is_displayed() == shown["context"]
        assert shown["text"] in browser["sentence"].text
        listen_to_all(browser, shown["context"])
        wanted = {"pair": 2, "identical": 0, "degraded": -3}[trial.kind]  # how much better the second is
        browser.choose(wanted if right == trial.second else -wanted)
        assert left in (trial.first, trial.second)
        if number == 4:  # a reload before the answer is handed in loses no more than it
            browser.driver.refresh()
            assert browser["position"].text == f"Question {number} of {len(plan)}"
            assert browser["bar"].get_attribute("value") == str(number - 1)
            listen_to_all(browser, shown["context"])
            browser.choose(wanted if right == trial.second else -wanted)
        browser.next()
    assert browser["finish-heading"].text == "Thank you, that was all"

    exported = browser["export"].get_attribute("value")
    browser.driver.refresh()
    assert browser["finish-heading"].text == "Thank you, that was all"
    browser["download"].click()
    end = time.monotonic() + PATIENCE
    while not (found := list((tmp_path / "downloads").glob("*.json"))):
        assert time.monotonic() < end, "nothing was downloaded"
        time.sleep(0.1)
    assert [path.name for path in found] == [f"ratings-{page.key.test}-ada.json"]
    downloaded = json.loads(found[0].read_text(encoding="utf-8"))
    assert downloaded | {"exported": ""} == json.loads(exported) | {"exported": ""}

    (ratings,) = read_ratings(found, read_key(tmp_path / "key.json"))
    assert [(a.trial, a.left, a.right) for a in ratings.answers] == [(t["id"], left, right) for t, left, right in plan]
    assert all(answer.plays_left == answer.plays_right == 1 for answer in ratings.answers)
    result = compare_opinions(page.key, [ratings])
    assert not result.failed_raters
    assert [(item.condition, item.value, item.num_ratings) for item in result.conditions] == [
        ("no context", 2, 3),
        ("context", 2, 1),
        ("all", 2, 4),
    ]
    assert browser.problems() == []
    fetched = browser.script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(name.startswith(("blob:", "data:")) for name in fetched), fetched


def test_by_keyboard_alone(browser: Browser, page: ListeningPage, tmp_path: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.driver.get((tmp_path / "page.html").as_uri())
    assert browser.focused().get_attribute("id") == "welcome-heading"
    browser.press(Keys.TAB)
    assert browser.focused().get_attribute("id") == "rater"
    browser.press("bob", Keys.ENTER)
    assert browser.focused().get_attribute("id") == "question"
    for name in ("play-left", "play-right"):
        browser.press(Keys.TAB)
        assert browser.focused().get_attribute("id") == name
        outline = browser.script("return getComputedStyle(document.activeElement).outlineWidth")
        assert outline == "3px"
        browser.press(Keys.SPACE)
        browser.wait(f"document.getElementById('{name}').classList.contains('heard')")
    assert browser["announcer"].get_attribute("textContent") == browser["hint"].text
    browser.press(Keys.TAB)
    assert browser.focused().get_attribute("name") == "rating"
    browser.press(Keys.SPACE, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert browser.script("return document.querySelector('input:checked').value") == "-1"
    browser.press(Keys.ENTER)
    assert browser["position"].text == "Question 2 of 8"
    assert browser.focused().get_attribute("id") == "question"
    assert browser.problems() == []


def test_back_stop_and_another_rater(browser: Browser, page: ListeningPage, tmp_path: Path) -> None:
    start(browser, tmp_path / "page.html", "an odd/näme")
    listen_to_all(browser, False)
    browser.choose(3)
    browser.next()
    browser["back"].click()
    assert browser["position"].text == "Question 1 of 8" and browser.is_open()
    assert browser.script("return document.querySelector('input:checked').value") == "3"
    browser.choose(1)
    browser.next()
    assert browser["position"].text == "Question 2 of 8" and not browser.is_open()
    browser["stop-early"].click()
    assert browser["finish-heading"].text == "You rated 1 of 8"
    path = tmp_path / "ratings.json"
    path.write_text(browser["export"].get_attribute("value"), encoding="utf-8")
    assert browser["download"].get_attribute("download") == f"ratings-{page.key.test}-an_odd_n_me.json"
    (ratings,) = read_ratings([path], page.key)
    assert ratings.rater == "an odd/näme" and [answer.rating for answer in ratings.answers] == [1]
    browser["resume"].click()
    assert browser["position"].text == "Question 2 of 8"
    browser["stop-early"].click()
    browser["again"].click()
    browser.driver.switch_to.alert.accept()
    assert browser["welcome"].is_displayed() and browser["rater"].get_attribute("value") == ""
    browser.driver.find_element("css selector", "#start-form button").click()
    browser.driver.refresh()
    assert browser["position"].text == "Question 1 of 8"
    kept = browser.script("return JSON.parse(localStorage.getItem(Object.keys(localStorage)[0]))")
    assert re.fullmatch(r"[0-9a-f]{8}", kept["rater"]) and kept["answers"] == {}
    assert browser.problems() == []


def test_stopping_is_not_hearing(browser: Browser, page: ListeningPage, tmp_path: Path) -> None:
    start(browser, tmp_path / "page.html", "ada")
    browser.script("const b = document.getElementById('play-left'); b.click(); b.click();")
    time.sleep(3 * CLIP_SECONDS)
    assert "heard" not in browser["play-left"].get_attribute("class")
    browser.play("play-right")
    assert not browser.is_open() and "Play A to the end" in browser["hint"].text


def test_phone_width_and_labels(browser: Browser, page: ListeningPage, tmp_path: Path) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    start(browser, tmp_path / "page.html", "ada")
    context = next(number for number, (trial, _, _) in enumerate(plan_of(content_of(page), "ada")) if trial["context"])
    for number in range(context + 1):
        width = browser.script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width == [PHONE["width"], PHONE["width"]], f"question {number + 1} is wider than the phone"
        if number < context:
            listen_to_all(browser, False)
            browser.choose(0)
            browser.next()
    nameless = browser.script(
        """return [...document.querySelectorAll("input, textarea, button, progress, a")]
             .filter((item) => item.offsetParent && !item.labels?.length &&
               !item.textContent.trim() && !item.getAttribute("aria-labelledby")
           ).map((item) => item.outerHTML)"""
    )
    assert nameless == []
    targets = browser.script(
        """return [...document.querySelectorAll("button, .choices label")].filter((item) => item.offsetParent)
             .map((item) => item.getBoundingClientRect()).filter((box) => box.height < 36 || box.width < 44).length"""
    )
    assert targets == 0
    assert browser.problems() == []
