"""The page tells nothing of whose clips it holds, and is the same for the same clips and seed."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from duologue.audio import read_audio, write_audio
from duologue.errors import DuologueError, EvaluationError
from duologue.eval.listening import ListeningPage, PageOptions, build_page, pair_folders, read_key, write_page
from duologue.eval.listening.sounds import degrade
from tests.eval.listening.builders import FIRST, IN_CONTEXT, ITEMS, RATE, SECOND, make_system, voice_like

Systems = tuple[Path, Path]


@pytest.fixture
def page(systems: Systems) -> ListeningPage:
    return build_page(pair_folders(*systems))


def content_of(page: ListeningPage) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', page.html, re.DOTALL)
    content = json.loads(text)
    assert isinstance(content, dict)
    return content


def sound_of(uri: str) -> tuple[torch.Tensor, int]:
    return read_audio(base64.b64decode(uri.split(",")[1]))


def test_what_is_asked(page: ListeningPage) -> None:
    content = content_of(page)
    assert (page.num_pairs, page.num_with_context, page.num_checks, page.num_trials) == (3, 1, 4, 8)
    asked = Counter((trial.kind, trial.condition) for trial in page.key.trials)
    assert asked == {
        ("pair", "no context"): 3,
        ("pair", "context"): 1,
        ("identical", "no context"): 1,
        ("degraded", "no context"): 1,
        ("identical", "context"): 1,
        ("degraded", "context"): 1,
    }
    by_id = {trial["id"]: trial for trial in content["trials"]}
    for trial in page.key.trials:
        shown = by_id[trial.id]
        assert set(shown["clips"]) == {trial.first, trial.second}
        assert shown["context"] == (trial.condition == "context") == bool(shown["turns"])
        assert set(shown) == {"id", "clips", "text", "context", "turns"}


def test_no_name_or_id_is_in_the_page(page: ListeningPage, tmp_path: Path) -> None:
    text = page.html.lower()
    names = [FIRST, SECOND, *ITEMS, "opening-line", ".wav", "manifest", "degraded", "identical", str(tmp_path)]
    for name in names:
        assert name.lower() not in text, name
    content = content_of(page)
    ids = [*content["sounds"], *(trial["id"] for trial in content["trials"])]
    assert all(re.fullmatch(r"[0-9a-f]{10}", identifier) for identifier in ids)
    assert len(set(ids)) == len(ids)


def test_order_says_nothing_of_the_system(tmp_path: Path) -> None:
    for name, hertz in ((FIRST, 150.0), (SECOND, 260.0)):
        for number in range(40):
            (tmp_path / name).mkdir(exist_ok=True)
            write_audio(tmp_path / name / f"{number}.wav", voice_like(0.1, hertz + number), RATE)
    page = build_page(pair_folders(tmp_path / FIRST, tmp_path / SECOND), PageOptions(num_checks=0, sound_format="wav"))
    shown = {trial["id"]: trial["clips"] for trial in content_of(page)["trials"]}
    num_first = sum(shown[trial.id][0] == trial.first for trial in page.key.trials)
    assert 8 <= num_first <= 32  # 20 expected; outside with a chance of 1 in 10 000
    order = [trial.item for trial in page.key.trials]
    assert order != sorted(order)
    sounds = list(content_of(page)["sounds"])
    whose = [[trial.first for trial in page.key.trials].count(sound) for sound in sounds]
    assert 8 <= sum(whose[:40]) <= 32


def test_the_key_maps_the_clips(page: ListeningPage, systems: Systems) -> None:
    content = content_of(page)
    assert (page.key.first_system, page.key.second_system) == (FIRST, SECOND)
    for trial in page.key.trials:
        pcm = [sound_of(content["sounds"][clip])[0] for clip in (trial.first, trial.second)]
        if trial.kind == "pair":
            for found, folder in zip(pcm, systems, strict=True):
                assert similarity(found, read_audio(folder / f"{trial.item}.wav")[0]) > 0.95
        elif trial.kind == "identical":
            assert torch.equal(*pcm)
        else:
            assert similarity(*pcm) < 0.9
            assert pcm[0].square().mean().item() == pytest.approx(pcm[1].square().mean().item(), rel=0.15)


def similarity(one: torch.Tensor, other: torch.Tensor) -> float:
    """Cosine of the magnitude spectra: blind to gain and to an encoder's delay."""
    length = min(len(one), len(other))
    spectra = [torch.fft.rfft(pcm[:length]).abs() for pcm in (one, other)]
    return float(torch.nn.functional.cosine_similarity(*spectra, dim=0))


def test_same_seed_same_page(systems: Systems) -> None:
    pairing = pair_folders(*systems)
    one, again, other = (build_page(pairing, PageOptions(seed=seed)) for seed in (3, 3, 4))
    assert one.html == again.html and one.key == again.key
    assert other.key.test != one.key.test
    ids = [{clip for trial in page.key.trials for clip in (trial.first, trial.second)} for page in (one, other)]
    assert not ids[0] & ids[1]


def test_a_subset_is_drawn_by_seed(systems: Systems) -> None:
    pairing = pair_folders(*systems)
    drawn = set()
    for seed in range(8):
        page = build_page(pairing, PageOptions(seed=seed, max_pairs=1, num_checks=0, sound_format="wav"))
        assert page.num_pairs == 1
        drawn |= {trial.item for trial in page.key.trials}
    assert len(drawn) > 1
    assert build_page(pairing, PageOptions(max_pairs=99)).num_pairs == len(ITEMS)


def test_systems_are_alike_in_all_but_speech(tmp_path: Path) -> None:
    folders = tmp_path / FIRST, tmp_path / SECOND
    for folder, rate, level, suffix in zip(folders, (16_000, 24_000), (0.02, 0.7), ("wav", "flac"), strict=True):
        folder.mkdir()
        time = torch.arange(rate) / rate
        write_audio(folder / f"a.{suffix}", level * torch.sin(2 * torch.pi * 300 * time), rate)
    pairing = pair_folders(*folders)
    page = build_page(pairing, PageOptions(num_checks=0))
    found = [sound_of(uri) for uri in content_of(page)["sounds"].values()]
    assert {uri[:23] for uri in content_of(page)["sounds"].values()} == {"data:audio/mpeg;base64,"}
    assert [rate for _, rate in found] == [24_000, 24_000]
    levels = [float(pcm.square().mean().sqrt()) for pcm, _ in found]
    assert levels[0] == pytest.approx(levels[1], rel=0.03)
    kept = build_page(pairing, PageOptions(num_checks=0, keep_loudness=True, sound_format="wav"))
    levels = sorted(float(sound_of(uri)[0].abs().max()) for uri in content_of(kept)["sounds"].values())
    assert levels == pytest.approx([0.02, 0.7], abs=0.01)


def test_silence_around_the_speech_does_not_change_its_level(tmp_path: Path) -> None:
    folders = tmp_path / FIRST, tmp_path / SECOND
    speech = voice_like(1.0, 200.0)
    for folder, silence in zip(folders, (0, 3 * RATE), strict=True):
        folder.mkdir()
        write_audio(folder / "a.wav", torch.nn.functional.pad(speech, (0, silence)), RATE)
    page = build_page(pair_folders(*folders), PageOptions(num_checks=0, sound_format="wav"))
    peaks = [float(sound_of(uri)[0].abs().max()) for uri in content_of(page)["sounds"].values()]
    assert peaks[0] == pytest.approx(peaks[1], rel=0.06)


def test_a_spoiled_clip_is_spoiled() -> None:
    pcm = voice_like(1.0, 200.0)
    spoiled = degrade(pcm, RATE, 5)
    assert len(spoiled) == len(pcm) and torch.equal(spoiled, degrade(pcm, RATE, 5))
    assert not torch.equal(spoiled, degrade(pcm, RATE, 6))
    scale = (spoiled @ pcm) / (pcm @ pcm)
    noise_db = 10 * torch.log10((spoiled - scale * pcm).square().mean() / (scale * pcm).square().mean())
    assert -6 < noise_db < 3
    assert torch.isfinite(degrade(torch.zeros(100), RATE, 1)).all()


def test_a_silent_clip_is_a_clip(systems: Systems) -> None:
    write_audio(systems[0] / f"{ITEMS[0]}.wav", torch.zeros(RATE), RATE)
    assert build_page(pair_folders(*systems)).num_pairs == len(ITEMS)


def test_markup_in_titles_and_texts_stays_text(systems: Systems) -> None:
    page = build_page(pair_folders(*systems), PageOptions(title="<b>A & B</b> {{script}}"))
    assert "<title>&lt;b&gt;A &amp; B&lt;/b&gt; {{script}}</title>" in page.html
    assert page.html.count("</script>") == 2
    (turns,) = {json.dumps(trial["turns"]) for trial in content_of(page)["trials"] if trial["turns"]}
    assert "</script>" in json.loads(turns)[0]["text"]


def luminance(color: str) -> float:
    """WCAG 2.2's relative luminance of #rrggbb."""
    parts = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast(page: ListeningPage) -> None:
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", part)) for part in page.html.split("@media")[:2])
    for colors in (light, dark):
        assert len(colors) == 10
        texts = [(ink, ground) for ink in ("ink", "soft", "accent") for ground in ("ground", "card", "tint")]
        texts += [("on-accent", "accent"), ("done", "card"), ("done", "tint"), ("alert", "card")]
        edges = [("line", "card"), ("line", "ground")]
        for least, couples in ((4.5, texts), (3.0, edges)):
            for one, other in couples:
                darker, lighter = sorted(luminance(colors[name]) for name in (one, other))
                assert (lighter + 0.05) / (darker + 0.05) >= least, (one, other)


def test_nothing_is_fetched(page: ListeningPage) -> None:
    assert "default-src 'none'" in page.html
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page.html)
    assert "http:" not in page.html and "https:" not in page.html


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        (f"{ITEMS[0]}.wav", None, ["does not exist"]),
        (f"{ITEMS[0]}.wav", b"", ["empty"]),
        (f"{ITEMS[0]}.wav", b"This is not audio." * 99, ["not audio"]),
        ("context/opening-line.wav", None, ["cannot be read"]),
        ("context/opening-line.wav", b"", ["empty"]),
    ],
)
def test_bad_clips_are_named(systems: Systems, name: str, data: bytes | None, words: list[str]) -> None:
    for folder in systems:
        (folder / name).unlink()
        if data is not None:
            (folder / name).write_bytes(data)
    with pytest.raises(DuologueError) as caught:
        build_page(pair_folders(*systems))
    for word in [name, *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("options", "word"), [({"title": " "}, "title"), ({"max_pairs": 0}, "0 pairs"), ({"num_checks": -1}, "-1")]
)
def test_bad_options(options: dict[str, Any], word: str) -> None:
    with pytest.raises(EvaluationError, match=word):
        PageOptions(**options)


def test_no_pairs(systems: Systems) -> None:
    with pytest.raises(EvaluationError, match="no pairs"):
        build_page(replace(pair_folders(*systems), pairs=()))


def test_page_and_key_are_written_together(page: ListeningPage, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert write_page(page, folder / "page.html") == folder / "key.json"
    assert (folder / "page.html").read_text(encoding="utf-8") == page.html
    assert read_key(folder / "key.json") == page.key
    write_page(page, folder / "page.html")  # the same test again
    assert sorted(path.name for path in folder.iterdir()) == ["key.json", "page.html"]


def test_the_key_of_another_page_is_not_lost(page: ListeningPage, systems: Systems, tmp_path: Path) -> None:
    other = build_page(pair_folders(*systems), PageOptions(seed=1))
    write_page(page, tmp_path / "page.html")
    with pytest.raises(EvaluationError, match="belongs to another page"):
        write_page(other, tmp_path / "other.html")
    assert read_key(tmp_path / "key.json") == page.key and not (tmp_path / "other.html").exists()
    assert write_page(other, tmp_path / "other.html", tmp_path / "other.json") == tmp_path / "other.json"
    (tmp_path / "notes.json").write_text("{}")
    with pytest.raises(EvaluationError, match="is no key"):
        write_page(other, tmp_path / "other.html", tmp_path / "notes.json")
    with pytest.raises(EvaluationError, match="both the page and its key"):
        write_page(other, tmp_path / "one", tmp_path / "one")
    with pytest.raises(EvaluationError, match="cannot write"):
        write_page(other, tmp_path / "missing" / "page.html")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', "[" * 100_000, "9" * 5_000])
def test_bad_keys(tmp_path: Path, text: str) -> None:
    path = tmp_path / "key.json"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=r"key\.json is not the key"):
        read_key(path)
    with pytest.raises(EvaluationError, match="does not exist"):
        read_key(tmp_path / "missing.json")


def test_context_needs_a_context(tmp_path: Path) -> None:
    folders = [make_system(tmp_path / name, hertz, history=False) for name, hertz in ((FIRST, 150.0), (SECOND, 260.0))]
    page = build_page(pair_folders(*folders))
    assert {trial.condition for trial in page.key.trials} == {"no context"}
    assert IN_CONTEXT[0] in {trial.item for trial in page.key.trials}
