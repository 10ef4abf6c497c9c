"""Loading: what is passed on, defaults of device and dtype, and bad arguments. The formats have tests of their own."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch

import duologue
from duologue.engine import load as load_module
from duologue.engine.load import bundled_model, find_device, find_dtype, load, load_codec
from duologue.errors import CheckpointError, OptionError


@dataclass
class FakeCheckpoint:
    model: object
    codec: object
    tokenizer: object
    folder: Path | None
    layout: str = "native"


@pytest.fixture
def calls(monkeypatch, model, codec, tokenizer, library, tmp_path) -> list[tuple[object, dict]]:
    """What reaches `duologue.checkpoints`, which answers with the tiny parts and a folder of voices."""
    seen: list[tuple[object, dict]] = []
    fake = ModuleType("duologue.checkpoints")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "shipped").rename(tmp_path / "checkpoint" / "voices")

    def load_checkpoint(source, **options):
        seen.append((source, options))
        return FakeCheckpoint(model, codec, tokenizer, tmp_path / "checkpoint")

    def load_fake_codec(source, **options):
        seen.append((source, options))
        return codec

    fake.load_checkpoint, fake.load_codec = load_checkpoint, load_fake_codec
    monkeypatch.setitem(sys.modules, "duologue.checkpoints", fake)
    return seen


def test_everything_is_passed_on(calls, tmp_path):
    generator = load(
        "some/model", "cpu", torch.bfloat16, revision="main", token="t", cache_dir=tmp_path, offline=True,
        voices_dir=tmp_path / "mine",
    )  # fmt: skip
    assert calls == [
        (
            "some/model",
            {
                "device": torch.device("cpu"),
                "dtype": torch.bfloat16,
                "revision": "main",
                "token": "t",
                "cache_dir": tmp_path,
                "offline": True,
            },
        )
    ]
    assert isinstance(generator, duologue.Generator)
    assert generator.voices.names == ("zoe", "adam", "bea")


def test_the_codec_alone(calls, codec):
    assert load_codec("some/model", "cpu", offline=True) is codec
    assert calls[0][1] == {
        "device": torch.device("cpu"), "revision": None, "token": None, "cache_dir": None, "offline": True
    }  # fmt: skip


def test_no_model_is_the_bundled_one(calls, monkeypatch, tmp_path):
    monkeypatch.setattr(load_module.resources, "files", lambda package: tmp_path)
    with pytest.raises(CheckpointError, match="bundled model parlor is not installed"):
        load(device="cpu")
    (tmp_path / "pretrained" / "parlor").mkdir(parents=True)
    assert bundled_model() == tmp_path / "pretrained" / "parlor"
    load(device="cpu")
    assert calls[0][0] == tmp_path / "pretrained" / "parlor"


def test_a_saved_checkpoint_loads_and_speaks_in_its_voice(model, codec, tokenizer, library, tmp_path):
    from duologue.checkpoints import save_checkpoint

    tokenizer.save(tmp_path / "tokenizer.json")
    save_checkpoint(
        tmp_path / "model",
        "native",
        model=model,
        codec=codec,
        tokenizer_path=tmp_path / "tokenizer.json",
        voices_folder=tmp_path / "shipped",
    )
    generator = load(tmp_path / "model", "cpu", offline=True)
    options = {"max_audio_length_ms": 400, "seed": 1}
    with pytest.warns(duologue.DuologueWarning, match="cap"):
        audio = generator.generate("hello there", **options)
    assert generator.voices.shipped_names == ("zoe", "adam", "bea")
    with pytest.warns(duologue.DuologueWarning, match="cap"):
        expected = duologue.Generator(model, codec, tokenizer, library).generate("hello there", **options)
    assert torch.equal(audio, expected)
    assert load_codec(tmp_path / "model", "cpu", offline=True).num_codebooks == 4


@pytest.mark.parametrize("device", ["tpu", "mps", "cuda:99", "", 3.5, "cpu:cpu"])
def test_bad_devices(calls, device):
    with pytest.raises(OptionError, match="device"):
        load("m", device)
    assert not calls


@pytest.mark.parametrize("dtype", ["float64", "int8", torch.int8, torch.float64, 16])
def test_bad_dtypes(calls, dtype):
    with pytest.raises(OptionError, match=r"dtype .* expected float32, bfloat16, float16 or None"):
        load("m", "cpu", dtype)


@pytest.mark.parametrize("model", ["", " ", 3, True])
def test_bad_models(calls, model):
    with pytest.raises(OptionError, match="model"):
        load(model, "cpu")


@pytest.mark.parametrize(
    ("options", "match"),
    [({"quantize": "int5"}, "expected 'int8' or None"), ({"quantize": "int8", "dtype": "bfloat16"}, "leave dtype")],
)
def test_bad_quantizations(calls, options, match):
    with pytest.raises(OptionError, match=match):
        load("m", "cpu", **options)
    assert not calls


def test_defaults_of_device_and_dtype():
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert find_device(torch.device("cpu")) == torch.device("cpu")
    assert find_dtype(None, torch.device("cpu")) == torch.float32
    assert find_dtype(None, torch.device("cuda")) == torch.bfloat16
    assert find_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
