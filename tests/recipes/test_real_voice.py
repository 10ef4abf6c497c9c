"""The recipe for a person's voice at toy size: amounts, methods, what is measured, and that nothing is done twice."""

import json
import sys
from dataclasses import replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duologue.audio import write_audio
from duologue.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from duologue.config import CSM_PRESETS, TextConfig
from duologue.data.hearing import Heard as Hearing
from duologue.data.shards import CodedTurn
from duologue.engine.load import find_source, load, load_codec
from duologue.eval.instruments import Instruments
from duologue.eval.systems import ModelOptions
from duologue.train.csm import CSMTrainConfig
from recipes.real_voice import __main__ as recipe
from recipes.real_voice import hearing
from recipes.real_voice.hearing import Heard, markdown
from tests.engine.builders import tiny_csm, tiny_mimi, tiny_tokenizer, tone
from tests.recipes.test_parlor_codec import Encoder, Judge, Recognizer

RATE = 24_000

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of peft's imports
    pytest.mark.filterwarnings("ignore::duologue.DuologueWarning"),  # a random model does not stop
]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return save_tiny(tmp_path, "text")


def save_tiny(tmp_path: Path, alphabet: str) -> Path:
    from duologue.engine.voices import VoiceLibrary

    tiny_tokenizer().save(tmp_path / "tokenizer.json")
    codec = tiny_mimi()
    text = TextConfig(alphabet=alphabet)
    config = replace(CSM_PRESETS["tiny"], num_codebooks=codec.num_codebooks - 1, text=text)  # as parlor's
    VoiceLibrary(codec, user=tmp_path / "voices").add("ada", tone(1.2, hertz=300), "what ada says", "high")
    return save_checkpoint(
        tmp_path / "tiny",
        "native",
        model=tiny_csm(config=config),
        codec=codec,
        tokenizer_path=tmp_path / "tokenizer.json",
        voices_folder=tmp_path / "voices",
    )


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "anyone"
    folder.mkdir()
    for number in range(6):
        write_audio(folder / f"{number}.wav", 0.1 * torch.sin((0.02 + 0.01 * number) * torch.arange(3 * RATE)), RATE)
        (folder / f"{number}.txt").write_text(f"what is said in {number}")
    return folder


@pytest.fixture
def _scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    instruments = partial(
        Instruments,
        recognizer_override=Recognizer(),
        speaker_encoder_override=Encoder(),
        quality_judge_override=Judge(),
    )
    monkeypatch.setattr(recipe, "Instruments", instruments)
    monkeypatch.setattr(hearing, "ModelOptions", partial(ModelOptions, cap_s=0.8))  # a random model does not stop


@pytest.mark.usefixtures("_scripted")
def test_every_amount_and_method_is_tuned_and_measured_once(
    tiny: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["real_voice", "--source", recordings, "--heldout", recordings, "--voice", "eve", "--model", tiny]
    command += ["--speech-minutes", 0.1, 1000, "--train-minutes", 0.003, "--lines", 2, "--others", 1]
    command += ["--work", tmp_path / "work", "--threads", 1, "--no-rehearsal"]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    assert recipe.main() == 0
    lines = capsys.readouterr().out.splitlines()
    measured = [next(iter(json.loads(line.partition("] ")[2]))) for line in lines if line.endswith("}")]
    assert measured == ["before", "full 0.1", "lora 0.1", "full all", "lora all"]
    table = [line for line in lines if line.startswith("| ")]
    assert table[0].startswith("| model | eve: WER %, SIM, DNSMOS | ada: WER %")
    assert len(table) == 6
    folders = [tmp_path / "work" / name for name in ("before", "full_0.1/model", "lora_all/model")]
    assert len({(folder / "voices" / "eve.safetensors").read_bytes() for folder in folders}) == 1
    tuned = tmp_path / "work" / "lora_all" / "model"
    assert load(tuned).voices.shipped_names == ("eve", "ada")
    assert load_codec(tuned).num_codebooks == load(tuned).model.num_codebooks + 1

    before = (tmp_path / "work" / "full_all" / "model" / "model.safetensors").stat().st_mtime_ns
    assert recipe.main() == 0
    assert (tmp_path / "work" / "full_all" / "model" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.usefixtures("_scripted")
def test_another_language_is_learned_alone(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lines.txt").write_text("uno\n\ndos\n", encoding="utf-8")
    command = ["real_voice", "--source", recordings, "--heldout", tmp_path / "lines.txt", "--voice", "eva"]
    command += ["--model", save_tiny(tmp_path, "espeak:en-us"), "--language", "es", "--methods", "full"]
    command += ["--speech-minutes", 1000, "--train-minutes", 0.003, "--lines", 2, "--learning-rate", 1e-3]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--work", str(tmp_path / "work"), "--threads", "1"])
    assert recipe.main() == 0
    assert "| full all | " in capsys.readouterr().out
    tuned = load(tmp_path / "work" / "full_all" / "model")
    assert tuned.voices.shipped_names == ("eva",)
    assert tuned.model.config.text == TextConfig(alphabet="espeak:es", normalize=False)
    assert not (tmp_path / "work" / "own").exists()


def test_the_spanish_lines_are_lines() -> None:
    lines = recipe.held_out_lines(recipe.LINES.with_name("lines.es.txt"), 40)
    assert len(set(lines)) == 40


def test_bad_input_ends_with_one_line(
    tiny: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["real_voice", "--source", recordings, "--heldout", recordings, "--model", tiny, "--lines", 99]
    monkeypatch.setattr(sys, "argv", [*map(str, command), "--work", str(tmp_path / "work"), "--threads", "1"])
    assert recipe.main() == 2
    assert f"--lines 99, but {recordings} has 6 with text" in capsys.readouterr().err


class Ears:
    """Understands the same of everything."""

    name = "some ears"

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, pcm: object) -> Hearing:
        return Hearing("Hello there.", 0.0)


def test_the_models_own_speech_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "Transcriber", Ears)
    messages: list[str] = []
    lines = ["Hello there.", "Good morning."]
    arguments = (lines, tmp_path / "own", load_checkpoint(find_source("parlor")), "parlor", None)
    own = recipe.own_speech(*arguments, messages.append)
    assert [turn.text for turns in own for turn in turns] == ["Hello there."]
    assert own[0][0].codes.shape[0] == load("parlor").model.num_codebooks
    made = (tmp_path / "own" / "shard-00000.json").stat().st_mtime_ns
    recipe.own_speech(*arguments, messages.append)
    assert messages == ["own: 2 of 2 lines spoken, 1 kept"] * 2
    assert (tmp_path / "own" / "shard-00000.json").stat().st_mtime_ns == made


@pytest.mark.usefixtures("_scripted")
def test_what_is_learned_beside_the_recordings(
    tiny: Path, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, str | None, int]] = []
    tuned: list[tuple[str, bool, float | None, float | None]] = []
    tune = recipe.tune

    def own_speech(
        lines: list[str], folder: Path, base: Checkpoint, model: str | Path, voice: str | None, _: object
    ) -> list[list[CodedTurn]]:
        said.append((str(model), voice, len(lines)))
        codes = np.zeros((base.model.num_codebooks, 20), np.int16)
        return [[CodedTurn(voice or "ada", 0, "what is said", codes)]]

    def watched(base: Checkpoint, turns: object, config: CSMTrainConfig, out: Path, **options: Any) -> None:
        beside = [options.get(name) for name in ("rehearsal", "self_training")]
        tuned.append((out.name, config.lora is None, *(own and own.share for own in beside)))  # type: ignore[arg-type]
        tune(base, turns, config, out, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(recipe, "own_speech", own_speech)
    monkeypatch.setattr(recipe, "tune", watched)
    (tmp_path / "say.txt").write_text("one\n\ntwo\nthree\n", encoding="utf-8")
    work = tmp_path / "work"
    command = ["real_voice", "--source", recordings, "--heldout", recordings, "--voice", "eve", "--model", tiny]
    command += ["--speech-minutes", 1000, "--train-minutes", 0.003, "--first-minutes", 0.003, "--lines", 2]
    command += ["--rehearse", tmp_path / "say.txt", "--others", 0, "--work", work, "--threads", 1]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    assert recipe.main() == 0
    # The model before says all lines in its voices, the first tuned one every second line in the new voice.
    assert said == [(str(tiny), None, 3), (str(work / "first_all" / "model"), "eve", 2)]
    assert tuned == [("first_all", True, None, None), ("full_all", True, 0.25, 0.35), ("lora_all", False, 0.25, 0.35)]


def test_the_recipes_lines_are_no_test_lines() -> None:
    lines = {line.lower() for line in recipe.LINES.read_text(encoding="utf-8").splitlines()}
    assert len(lines) == 480
    lists = sorted((files("duologue") / "eval" / "lists").iterdir(), key=str)
    tested = [path.read_text(encoding="utf-8").lower() for path in lists if path.name.endswith(".json")]
    assert tested
    assert not [line for line in lines if any(line in text for text in tested)]


def test_the_table_has_a_row_a_model_and_says_none_where_nothing_is_known() -> None:
    results = {"before": [Heard("eve", 2, 12.345, None, 3.0)], "full 5": [Heard("eve", 2, 4.0, 0.9, 3.1)]}
    assert markdown(results).splitlines()[2:] == ["| before | 12.3, none, 3.00 |", "| full 5 | 4.0, 0.90, 3.10 |"]
