"""The codec suite against codecs with known answers, and its numbers against slow ones."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from duologue.eval.clips import Clip, Sound
from duologue.eval.codebooks import CodebookUse
from duologue.eval.measure import Row
from duologue.eval.report import SuiteReport, make_report
from duologue.eval.run import run
from duologue.eval.suites import find_suites
from duologue.eval.suites.fidelity import codec_requests, mel_distance_db
from tests.eval.builders import Speaker, instruments

FRAMES = 25


class Codec(Speaker):
    """Adds noise of a level, and counts through its codes."""

    speaks = False

    def __init__(self, noise: float = 0.0) -> None:
        super().__init__("codec")
        self.noise = noise

    def recode(self, sound: Sound) -> Clip:
        noise = self.noise * torch.randn(len(sound.pcm), generator=torch.Generator().manual_seed(0))
        codes = (tuple(range(FRAMES)), tuple(n % 5 for n in range(FRAMES)))
        return Clip(Sound(sound.pcm + noise, sound.sample_rate), codes=codes, codebook_size=32)


def report_of(folder: Path, codec: Speaker) -> SuiteReport:
    suites, tools = find_suites(["codec"]), instruments(folder)
    results = run([codec], suites, folder, tools, limit=2, seed=0)
    return make_report(results, [codec], suites, tools, command="test", seed=0, limit=2).suites[0]


def values(suite: SuiteReport) -> dict[tuple[str, str], float | None]:
    return {(figure.metric, figure.group): figure.value for figure in suite.figures}


def test_every_recording_is_measured_before_and_after() -> None:
    asked = codec_requests(Codec(), limit=2, seed=0)
    assert [request.group for request in asked] == ["original"] * 4 + ["decoded"] * 4
    assert [r.id.partition("/")[2] for r in asked[:4]] == [r.id.partition("/")[2] for r in asked[4:]]
    assert all(request.original is not None for request in asked)
    assert [request.recode for request in asked] == [False] * 4 + [True] * 4


def test_a_codec_that_loses_nothing_and_one_that_adds_noise(tmp_path: Path) -> None:
    clean, noisy = (values(report_of(tmp_path / str(noise), Codec(noise))) for noise in (0.0, 0.05))
    assert clean["stoi", "decoded"] == pytest.approx(1, abs=1e-3)
    assert clean["mel_distance", "decoded"] == pytest.approx(0, abs=0.1)  # of 16 bits in the file
    assert noisy["stoi", "decoded"] < 0.95 and noisy["mel_distance", "decoded"] > 5  # type: ignore[operator]
    assert clean["added_wer", "all"] == 0 and clean["added_overall", "all"] == 0
    assert ("wer", "all") not in clean and {"original", "decoded"} == {g for m, g in clean if m == "wer"}
    assert ("mel_distance", "original") not in clean
    assert clean["codebook_use", "decoded"] == pytest.approx(5)


def test_the_bitrate_is_that_of_the_codes(tmp_path: Path) -> None:
    suite = report_of(tmp_path, Codec())
    rows = [row for row in suite.systems[0].rows if row.group == "decoded"]
    for row in rows:
        assert row.duration_s is not None
        wanted = 2 * FRAMES * math.log2(32) / row.duration_s / 1000
        assert row.measures["bitrate_kbps"] == pytest.approx(wanted, rel=1e-3)


def test_mel_distance_is_the_mean_difference_in_decibels() -> None:
    pcm = torch.randn(24_000, generator=torch.Generator().manual_seed(1)) * 0.1
    assert mel_distance_db(pcm, pcm) == 0
    assert mel_distance_db(pcm, pcm / 2) == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert mel_distance_db(torch.zeros(24_000), torch.zeros(24_000)) == 0


def row_with(codes: list[list[int]], number: int, size: int = 8) -> Row:
    made = tuple(tuple(row) for row in codes)
    return Row("codec", "decoded", f"decoded/{number}", "t", 0, codes=made, codebook_size=size)


def slow_perplexity(rows: list[Row]) -> float:
    found = []
    for book in range(len(rows[0].codes)):
        codes = [code for row in rows for code in row.codes[book]]
        shares = [codes.count(code) / len(codes) for code in set(codes)]
        found.append(math.prod(share**-share for share in shares))
    return min(found)


def test_codebook_use_is_the_least_perplexity() -> None:
    random = np.random.default_rng(0)
    rows = [row_with(random.integers(0, 8, (3, 40)).tolist(), n) for n in range(6)]
    figure = CodebookUse().figure(rows)
    assert figure.value == pytest.approx(slow_perplexity(rows)) and figure.count == 6
    assert figure.low is not None and figure.high is not None and figure.low < figure.value < figure.high
    assert CodebookUse().figure([row_with([[1, 1, 1], [0, 1, 2]], 0)]).value == pytest.approx(1)
    assert CodebookUse().figure([]).count == 0


def test_two_codecs_compared_by_their_codebooks() -> None:
    random = np.random.default_rng(0)
    few = [row_with(random.integers(0, 2, (2, 40)).tolist(), n) for n in range(6)]
    many = [row_with(random.integers(0, 8, (2, 40)).tolist(), n) for n in range(1, 7)]
    difference = CodebookUse().difference(few, many)
    assert difference.count == 5 and difference.significant
    assert difference.value == pytest.approx(slow_perplexity(many[:-1]) - slow_perplexity(few[1:]))
    assert CodebookUse().difference(few, []).count == 0


def test_a_system_without_a_codec_is_left_out(tmp_path: Path) -> None:
    suite = report_of(tmp_path, Speaker())
    assert suite.systems[0].skipped == "it gives no access to a codec" and not suite.systems[0].rows
