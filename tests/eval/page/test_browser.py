"""The page in headless Chromium, from a file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duologue.eval.page import report_html
from tests.eval.browser import PATIENCE, needs_chromium, open_browser
from tests.eval.page import builders

pytestmark = needs_chromium

PHONE = {"width": 420, "height": 800, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Any]:
    with open_browser(tmp_path) as driver:
        yield driver


def wait(driver: Any, condition: str) -> None:
    """Until a JavaScript expression is true."""
    end = time.monotonic() + PATIENCE
    while not driver.execute_script(f"return Boolean({condition})"):
        assert time.monotonic() < end, f"waited in vain for {condition}"
        time.sleep(0.05)


def column(driver: Any, index: int) -> list[str]:
    found = driver.execute_script(
        "return [...document.querySelectorAll('#listing tbody tr')].map((row) => row.cells[arguments[0]].textContent)",
        index,
    )
    return list(found)


def search(driver: Any, words: str) -> None:
    field = driver.find_element("id", "search")
    field.clear()
    field.send_keys(words or " ")


def test_the_page_works_from_a_file(driver: Any, tmp_path: Path) -> None:
    report = builders.sample(tmp_path)
    path = tmp_path / "report.html"
    path.write_text(report_html(report, tmp_path), encoding="utf-8")
    driver.get(path.as_uri())

    wait(driver, "[...document.querySelectorAll('audio')].every((player) => player.duration > 0)")
    wait(driver, "[...document.images].every((image) => image.naturalWidth > 0)")
    assert driver.execute_script("return [document.querySelectorAll('audio').length, document.images.length]") == [
        10,
        10,
    ]

    driver.execute_script("document.querySelector('audio').play()")
    wait(driver, "document.querySelector('audio').currentTime > 0.05")
    wait(driver, "document.querySelector('audio').ended")
    driver.execute_script("document.querySelectorAll('.track img')[1].click()")
    wait(driver, "document.querySelectorAll('audio')[1].played.length > 0")

    assert len(column(driver, 0)) == 16
    search(driver, "no FREE slot")
    assert column(driver, 3) == ["plain/007"] * 2
    assert driver.find_element("id", "num-found").text == "2 of 16 utterances"
    search(driver, "")
    driver.execute_script(
        "const by = document.getElementById('by-system'); by.value = 'two';"
        "by.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    assert column(driver, 0) == ["two"] * 8
    heads = driver.find_elements("css selector", "#listing th button")
    heads[6].click()
    rates = [float(text) for text in column(driver, 6)]
    assert rates == sorted(rates) and len(set(rates)) > 2
    heads[6].click()
    assert [float(text) for text in column(driver, 6)] == sorted(rates, reverse=True)
    heads[9].click()
    assert column(driver, 9)[-1] == ""  # a length that is not known comes last
    heads[9].click()
    assert column(driver, 9)[-1] == ""
    assert heads[9].find_element("xpath", "..").get_attribute("aria-sort") == "descending"

    driver.execute_script("document.querySelector('details').open = false; location.hash = '#clip-1'")
    wait(driver, "document.getElementById('clip-1').closest('details').open")

    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE["width"]
    assert driver.get_log("browser") == []


def test_a_text_cannot_run_and_many_rows_are_drawn_in_portions(driver: Any, tmp_path: Path) -> None:
    evil = builders.with_text(builders.report(), builders.EVIL)
    rows = [builders.row(number, id=f"plain/{number}") for number in range(3000)]
    report = builders.report(evil.suites[0], builders.suite(rows, systems=[builders.EVIL]), systems=[builders.EVIL])
    path = tmp_path / "report.html"
    path.write_text(report_html(report, tmp_path), encoding="utf-8")
    driver.get(path.as_uri())
    assert builders.EVIL in driver.title and driver.execute_script("return document.images.length") == 0
    assert len(column(driver, 0)) == 200
    more = driver.find_element("id", "more")
    driver.execute_script("arguments[0].click()", more)
    assert len(column(driver, 0)) == 400 and more.text == "Show more (400 of 3002 are shown)"
    driver.execute_script("document.querySelectorAll('#listing th button')[3].click()")
    assert len(column(driver, 0)) == 200
    assert driver.get_log("browser") == []
