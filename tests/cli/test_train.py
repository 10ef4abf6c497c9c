"""`duologue train` as a user runs it, from recordings to a checkpoint that speaks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import duologue
from duologue.audio import write_audio
from duologue.engine.load import load
from tests.cli.conftest import TIMEOUT, Run, environment

RATE = 24_000
FAST = ("--steps", 4, "--evaluate-every", 2, "--save-every", 2, "--rows", 200, "--max-rows", 120, "--warmup", 1)


@pytest.fixture
def data(run: Run, tiny: Path, tmp_path: Path) -> Path:
    """Three dozen tones of a "voice", prepared for the tiny model."""
    source = tmp_path / "ellen"
    source.mkdir()
    for number in range(24):
        write_audio(
            source / f"{number:02d}.wav", 0.1 * torch.sin((0.02 + 0.002 * number) * torch.arange(2 * RATE)), RATE
        )
        (source / f"{number:02d}.txt").write_text("what she says here.")
    result = run("prepare", source, tmp_path / "data", "--model", tiny, "--quiet")
    assert result.exit_code == 0, result.stderr
    return tmp_path / "data"


@pytest.mark.parametrize("options", [(), ("--lora", 2, "--checkpointing", "--learn", "last", "--accumulate", 2)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of peft's imports
def test_a_tuned_model_speaks(run: Run, tiny: Path, data: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    out = tmp_path / "tuned"
    result = run("train", data, "-o", out, "--model", tiny, *FAST, *options, "--depth-share", 0.5)
    assert result.exit_code == 0, result.stderr
    log = [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "eval_codebook0" in entry] == [2, 4]
    generator = load(out / "model")
    assert generator.voices.shipped_names == ("ellen", "ada", "bob")
    before = duologue.load(tiny).model.state_dict()
    changed = [name for name, t in generator.model.state_dict().items() if not torch.equal(t, before[name])]
    assert changed
    assert all("_proj" in name for name in changed) == ("--lora" in options)
    spoken = run("speak", "hello", "--model", out / "model", "-o", tmp_path / "a.wav", "--max-seconds", 1, "--seed", 1)
    assert spoken.exit_code == 0
    assert sorted(path.name for path in (out / "samples").iterdir()) == ["step-000002.wav", "step-000004.wav"]


def test_another_alphabet_is_for_models_that_read_phonemes(run: Run, tiny: Path, data: Path, tmp_path: Path) -> None:
    letters = run("train", data, "-o", tmp_path / "a", "--model", tiny, *FAST, "--alphabet", "espeak:es")
    assert letters.exit_code == 2
    assert "this one's is 'text'" in letters.stderr
    rehearsing = run("train", data, "-o", tmp_path / "a", "--alphabet", "espeak:es", "--rehearse", data)
    assert rehearsing.exit_code == 2
    assert "with --alphabet that is another one" in rehearsing.stderr


def test_a_run_goes_on_where_it_stopped(run: Run, tiny: Path, data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run("train", data, "-o", whole, "--model", tiny, *FAST)
    run("train", data, "-o", parts, "--model", tiny, *FAST)
    (parts / "model").rename(tmp_path / "first")
    again = run("train", data, "-o", parts, "--model", tiny, *FAST)
    assert again.exit_code == 0
    weights = [load(folder).model.state_dict() for folder in (whole / "model", parts / "model")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_blend_lies_between_the_weights_before_and_those_learned(
    run: Run, tiny: Path, data: Path, tmp_path: Path
) -> None:
    whole, half = tmp_path / "whole", tmp_path / "half"
    run("train", data, "-o", whole, "--model", tiny, *FAST)
    assert run("train", data, "-o", half, "--model", tiny, *FAST, "--blend", 0.25).exit_code == 0
    before, learned, blended = (load(folder).model.state_dict() for folder in (tiny, whole / "model", half / "model"))
    for name, weight in blended.items():
        torch.testing.assert_close(weight, 0.75 * before[name] + 0.25 * learned[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(weight, before[name]) for name, weight in learned.items())


def test_bad_input_ends_with_one_line(run: Run, tiny: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "there" / "model").mkdir(parents=True)
    cases = [
        ((tmp_path / "nowhere",), tiny, tmp_path / "a", "no coded turns"),
        ((data,), None, tmp_path / "b", "encoded by another codec"),
        ((data,), tiny, tmp_path / "there", "is there already"),
        ((data, "--max-rows", 32, "--rows", 32), tiny, tmp_path / "c", "no turn fits a sequence of 32 rows"),
    ]
    for arguments, model, out, message in cases:
        chosen = [] if model is None else ["--model", model]
        result = run("train", *arguments, "-o", out, *chosen)
        assert result.exit_code == 2, result.stderr
        assert message in result.stderr
        assert result.stderr.count("\n") == 1


def test_another_setting_is_refused_with_the_difference(run: Run, tiny: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    run("train", data, "-o", out, "--model", tiny, *FAST)
    (out / "model").rename(tmp_path / "first")
    result = run("train", data, "-o", out, "--model", tiny, *FAST, "--dropout", 0.1)
    assert result.exit_code == 2
    assert "dropout was 0.0, is 0.1" in result.stderr


@pytest.mark.slow
def test_under_torchrun_the_weights_are_spread(tiny: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned"
    command = ["torch.distributed.run", "--nproc-per-node", 2, "-m", "duologue", "train", data, "-o", out, "--shard"]
    result = subprocess.run(
        [sys.executable, "-m", *map(str, [*command, "--model", tiny, *FAST])],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment() | {"OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("trained; hear it with") + result.stdout.count("trained; hear it with") == 1
    log = [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "eval_codebook0" in entry] == [2, 4]
    assert load(out / "model").voices.shipped_names == ("ellen", "ada", "bob")
