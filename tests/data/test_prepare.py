"""Shards made here, by several processes, on Ray: the same bytes; interrupted runs that go on; bad files in between."""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from duologue.audio import read_audio, write_audio
from duologue.data.codes import encode_turns
from duologue.data.prepare import LEFT_OUT, PrepareConfig, Progress, prepare
from duologue.data.shards import TurnStore
from duologue.data.sources import Found, find_conversations
from duologue.data.summary import draw, summarize
from duologue.data.turns import TurnConfig
from duologue.engine.load import load_codec
from duologue.engine.voices import codec_fingerprint
from duologue.errors import DataError
from tests.data.conftest import Spoken

RATE = 24_000
NUM_RECORDINGS = 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven tones with text in a folder, the fourth of them broken."""
    source = tmp_path / "recordings"
    source.mkdir()
    for number in range(NUM_RECORDINGS):
        length = round((1.0 + 0.13 * number) * RATE)
        write_audio(source / f"{number}.wav", 0.1 * torch.sin(0.03 * (1 + number) * torch.arange(length)), RATE)
        (source / f"{number}.txt").write_text(f"this is number {number}")
    whole = (source / "3.wav").read_bytes()
    (source / "3.wav").write_bytes(whole[: len(whole) // 2])
    return source


@pytest.fixture
def config(codec_folder: Path) -> PrepareConfig:
    return PrepareConfig(codec=str(codec_folder), shard_size=2)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(found: Found, out: Path, config: PrepareConfig, cache: Path, **options: object) -> list[Progress]:
    return list(prepare(found, out, config, cache=cache, **options))  # type: ignore[arg-type]


def test_codes_are_those_of_each_turn_by_itself(
    folder: Path, tmp_path: Path, config: PrepareConfig, cache: Path
) -> None:
    progress = run(find_conversations(folder), tmp_path / "out", config, cache)
    assert [(one.done, one.total, one.made) for one in progress] == [(n, 4, n) for n in range(5)]
    codec = load_codec(config.codec)
    store = TurnStore(tmp_path / "out", fingerprint=codec_fingerprint(codec))
    assert store.names == [f"{n}.wav" for n in range(NUM_RECORDINGS) if n != 3]
    pcm, _ = read_audio(folder / "5.wav")
    pcm = pcm * 10 ** (-22 / 20) / pcm.square().mean().sqrt()
    (turn,) = store.conversations[4]
    assert (turn.voice, turn.speaker, turn.text) == ("recordings", 0, "this is number 5")
    (alone,) = encode_turns(codec, [pcm.numpy()])
    assert (turn.codes == alone).mean() > 0.95  # a rounding may tip a code over


def test_a_broken_file_is_skipped_counted_and_listed(
    folder: Path, tmp_path: Path, config: PrepareConfig, cache: Path
) -> None:
    run(find_conversations(folder), tmp_path / "out", config, cache)
    (line,) = (tmp_path / "out" / LEFT_OUT).read_text().splitlines()
    entry = json.loads(line)
    assert entry["what"] == "3.wav"
    assert entry["why"].startswith("unreadable: 3.wav")


def test_several_processes_make_the_same_bytes(
    folder: Path, tmp_path: Path, config: PrepareConfig, cache: Path
) -> None:
    found = find_conversations(folder)
    run(found, tmp_path / "one", config, cache)
    progress = run(found, tmp_path / "two", config, cache, workers=2)
    assert progress[-1].done == 4
    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.filterwarnings("ignore")  # of Ray's own, and of the libraries it imports
def test_ray_makes_the_same_bytes(
    folder: Path, tmp_path: Path, config: PrepareConfig, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of recordings that are named from here, though a cluster's workers run in another place."""
    ray = pytest.importorskip("ray")
    run(find_conversations(folder), tmp_path / "one", config, cache)
    before = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    monkeypatch.chdir(tmp_path)
    found = find_conversations(Path(folder.name))
    config = replace(config, codec=os.path.relpath(str(config.codec)))
    try:
        progress = run(found, tmp_path / "ray", config, cache, workers=2, engine="ray")
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)
    assert progress[-1].done == 4
    assert files(tmp_path / "one") == files(tmp_path / "ray")


def test_an_interrupted_run_goes_on(folder: Path, tmp_path: Path, config: PrepareConfig, cache: Path) -> None:
    found = find_conversations(folder)
    run(found, tmp_path / "whole", config, cache)
    steps: Iterator[Progress] = prepare(found, tmp_path / "out", config, cache=cache)
    for _ in range(3):  # none, one, two
        next(steps)
    del steps
    assert not (tmp_path / "out" / "index.json").exists()
    # As a crash would leave it: codes without their JSON.
    (tmp_path / "out" / "shard-00003.safetensors").write_bytes(b"half")
    before = (tmp_path / "out" / "shard-00000.json").stat().st_mtime_ns
    progress = run(found, tmp_path / "out", config, cache)
    assert [(one.done, one.made) for one in progress] == [(2, 0), (3, 1), (4, 2)]
    assert (tmp_path / "out" / "shard-00000.json").stat().st_mtime_ns == before
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_shards_of_something_else_are_refused(folder: Path, tmp_path: Path, config: PrepareConfig, cache: Path) -> None:
    run(find_conversations(folder), tmp_path / "out", config, cache)
    other = PrepareConfig(TurnConfig(min_s=0.2), config.codec, config.shard_size)
    with pytest.raises(DataError, match="shard-00000 of other recordings, options or codec"):
        run(find_conversations(folder), tmp_path / "out", other, cache)
    (folder / "1.txt").write_text("something else")
    with pytest.raises(DataError, match="choose another folder"):
        run(find_conversations(folder), tmp_path / "out", config, cache)


def test_nothing_left(folder: Path, tmp_path: Path, config: PrepareConfig, cache: Path) -> None:
    strict = PrepareConfig(TurnConfig(min_s=20.0), config.codec)
    with pytest.raises(DataError, match=r"no turn is left of 7 conversations \(too short: under 20 s\)"):
        run(find_conversations(folder), tmp_path / "out", strict, cache)
    assert not (tmp_path / "out" / "index.json").exists()
    reasons = [json.loads(line)["why"] for line in (tmp_path / "out" / LEFT_OUT).read_text().splitlines()]
    assert reasons.count("too short: under 20 s") == 6


def test_refusals(folder: Path, tmp_path: Path, config: PrepareConfig, cache: Path) -> None:
    with pytest.raises(DataError, match="0 workers"):
        run(find_conversations(folder), tmp_path / "out", config, cache, workers=0)


def test_the_summary_adds_up(folder: Path, tmp_path: Path, config: PrepareConfig, cache: Path) -> None:
    out = tmp_path / "out"
    run(find_conversations(folder), out, config, cache)
    summary = summarize(out, frame_rate=12.5)
    assert (summary.layout, summary.conversations, summary.turns) == ("recordings", 6, 6)
    read = sum(1.0 + 0.13 * number for number in range(NUM_RECORDINGS) if number != 3)
    assert summary.read_hours * 3600 == pytest.approx(read, abs=0.01)
    assert summary.hours * 3600 == pytest.approx(read, abs=6 * 0.08)
    assert summary.voices == {"recordings": pytest.approx(summary.hours * 60)}
    assert summary.left_out == {"unreadable": 1}
    figures = summary.figures()
    assert figures["turn_seconds"]["p50"] == pytest.approx(1.4, abs=0.1)
    assert figures["turn_rates"]["p50"] == pytest.approx(len("thisisnumber0") / 1.4, rel=0.1)
    draw(summary, out / "summary.png")
    assert (out / "summary.png").read_bytes().startswith(b"\x89PNG")
    for name in ("a.svg", "b.svg"):
        draw(summary, out / name)
    assert b"</svg>" in (out / "a.svg").read_bytes()


def test_speech_without_text_is_written_down(
    tmp_path: Path, codec_folder: Path, cache: Path, spoken: dict[str, Spoken]
) -> None:
    source = tmp_path / "recordings"
    source.mkdir()
    write_audio(source / "a.wav", spoken["joe"].pcm, RATE)
    run(find_conversations(source), tmp_path / "out", PrepareConfig(codec=str(codec_folder)), cache)
    ((turn,),) = TurnStore(tmp_path / "out").conversations
    assert "coffee" in turn.text.lower()


def test_a_known_speaker_says_nothing_of_when_and_what(
    tmp_path: Path, codec_folder: Path, cache: Path, spoken: dict[str, Spoken]
) -> None:
    """A recording of more than a turn's length whose source names its speaker alone."""
    source = tmp_path / "recordings"
    source.mkdir()
    once = torch.cat((torch.as_tensor(spoken["joe"].pcm), torch.zeros(RATE)))
    write_audio(source / "a.wav", once.repeat(12), RATE)
    (source / "list.csv").write_text("file,speaker\na.wav,joseph\n")
    run(find_conversations(source), tmp_path / "out", PrepareConfig(codec=str(codec_folder)), cache)
    (turns,) = TurnStore(tmp_path / "out").conversations
    assert len(turns) >= 12
    assert {turn.voice for turn in turns} == {"joseph"}
    assert all("coffee" in turn.text.lower() for turn in turns[:2])
