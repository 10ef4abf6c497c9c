"""Models and codecs under test: loaded when needed, let go again, heard as they speak."""

import subprocess
import sys

import pytest
import torch

from duologue.engine.fingerprint import weights_fingerprint
from duologue.engine.generator import Generator
from duologue.errors import OptionError, VoiceError
from duologue.eval import memory
from duologue.eval.clips import ContextTurn, Recoder, Request, Sound, SpeechError, System
from duologue.eval.systems import CodecSystem, ModelOptions, ModelSystem
from tests.engine.builders import tiny_csm, tiny_mimi, tiny_tokenizer

RATE = 24_000


def tiny_generator() -> Generator:
    return Generator(tiny_csm(), tiny_mimi(), tiny_tokenizer())


class Loader:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Generator:
        self.times += 1
        return tiny_generator()


def asked(text: str = "Hello there.", context: tuple[ContextTurn, ...] = ()) -> Request:
    return Request("plain/001", "plain", text, seed=3, context=context)


def test_a_model_is_loaded_when_it_is_needed_and_let_go() -> None:
    loader = Loader()
    system: System = ModelSystem("tiny", loader, source="here", options=ModelOptions(cap_s=0.4))
    assert loader.times == 0
    system.open()
    system.close()
    weights = weights_fingerprint(tiny_generator().model)
    assert system.describe() == {"kind": "model", "model": "here", "weights": weights, "voice": None, "cap_s": 0.4}
    assert system.voices() == []
    assert loader.times == 1
    clip = system.speak(asked())
    assert loader.times == 2
    system.close()
    again = system.speak(asked())
    assert loader.times == 3 and torch.equal(clip.sound.pcm, again.sound.pcm)
    assert clip.stop_reason in ("end", "cap") and clip.sound.duration_s <= 0.4
    assert clip.total_s is not None and sum(chunk.audio_s for chunk in clip.chunks) == pytest.approx(
        clip.sound.duration_s
    )


def test_the_history_is_heard() -> None:
    system = ModelSystem("tiny", tiny_generator, source="here", options=ModelOptions(cap_s=0.4))
    turn = ContextTurn(1, "So?", Sound(0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0)), 16_000))
    alone, after = system.speak(asked()), system.speak(asked(context=(turn,)))
    assert not torch.equal(alone.sound.pcm, after.sound.pcm)


def test_a_voice_that_is_not_there_is_told_when_the_model_is_opened() -> None:
    with pytest.raises(VoiceError, match="nobody"):
        ModelSystem("tiny", tiny_generator, source="here", options=ModelOptions(voice="nobody")).open()


def test_text_that_cannot_be_spoken_is_a_failure_with_its_reason() -> None:
    with pytest.raises(SpeechError, match="text"):
        ModelSystem("tiny", tiny_generator, source="here").speak(asked(" "))


def test_a_codec_by_itself() -> None:
    system = CodecSystem("mimi", tiny_mimi, source="here", num_codebooks=2)
    assert isinstance(system, Recoder) and not system.speaks and system.voices() == []
    assert system.describe() == {"kind": "codec", "model": "here", "codebooks": 2}
    sound = Sound(0.1 * torch.randn(8_000, generator=torch.Generator().manual_seed(0)), 16_000)
    clip = system.recode(sound)
    codec = tiny_mimi()
    assert clip.sound.duration_s == pytest.approx(0.5) and clip.sound.sample_rate == RATE
    assert len(clip.codes) == 2 and clip.codebook_size == codec.config.codebook_size
    pcm = torch.tensor(clip.codes)[None]
    assert torch.allclose(codec.decode(pcm)[0, 0, : len(clip.sound.pcm)], clip.sound.pcm, atol=1e-5)
    with pytest.raises(SpeechError, match="does not speak"):
        system.speak(asked())
    with pytest.raises(OptionError, match="99 codebooks; here has 1 to"):
        CodecSystem("mimi", tiny_mimi, source="here", num_codebooks=99).open()


def test_a_model_shows_its_codec_with_the_codebooks_that_it_speaks() -> None:
    system = ModelSystem("tiny", tiny_generator, source="here")
    assert isinstance(system, Recoder)
    clip = system.recode(Sound(0.1 * torch.ones(RATE), RATE))
    assert len(clip.codes) == tiny_generator().model.num_codebooks


def test_the_peak_of_memory_is_that_of_the_time_in_between() -> None:
    if not memory.reset_peak():
        pytest.skip("this system does not tell")
    # In a process of its own: what other tests leave behind is freed at any time.
    script = """
import torch
from duologue.eval import memory
memory.reset_peak()
before = memory.peak_mb()
block = torch.ones(50_000_000 // 4)
with_block = memory.peak_mb()
del block
memory.reset_peak()
print(before, with_block, memory.peak_mb())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    before, with_block, after = map(float, ran.stdout.split())
    assert 40 < with_block - before < 80
    assert after < with_block - 30
