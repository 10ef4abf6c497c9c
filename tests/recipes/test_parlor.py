"""The recipe at toy size: trained, saved, loaded, and made to speak; and that it goes on where it stopped."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import duologue
from duologue.checkpoints import save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.data.corpus import PcmStore
from duologue.data.shards import CodedTurn, TurnStore
from duologue.errors import TrainingError
from duologue.model.csm import CSM
from duologue.train.csm import without_codes
from duologue.train.loop import LoopConfig
from recipes.parlor import __main__ as program
from recipes.parlor import configs, pipeline
from recipes.parlor.evaluate import unseen_lines
from recipes.parlor.text import build_tokenizer, symbols
from recipes.parlor_codec.configs import CodecPlan
from recipes.parlor_codec.pipeline import make_codec
from recipes.work import Work, recordings

SMALL = pipeline.Machine(batch_rows=400)


@pytest.fixture(scope="module")
def trained(
    toy_corpus: Path,
    toy_plan: CodecPlan,
    toy_store: PcmStore,
    toy_features: Path,
    toy_loop: Callable[[int], LoopConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Work, Path]:
    patch = pytest.MonkeyPatch()
    patch.setattr(pipeline, "VALIDATION_ROWS", 400)
    work, store = Work((toy_corpus,), tmp_path_factory.mktemp("parlor"), threads=1), toy_store
    codec = make_codec(dataclasses.replace(work, folder=work.path("codec")), toy_plan, store, toy_features)
    turns = pipeline.encode_corpus(work, str(work.path("codec") / "model"), lambda line: None)
    full = configs.csm_model(pipeline.text_vocab_size(work), codec.config)
    backbone = dataclasses.replace(full.backbone, dim=32, num_layers=3, num_heads=2, num_kv_heads=2, ffn_dim=64)
    depth = dataclasses.replace(full.depth, dim=16, num_layers=1, num_heads=2, num_kv_heads=2, ffn_dim=32)
    model_config = dataclasses.replace(full, backbone=backbone, depth=depth)
    config = dataclasses.replace(configs.csm_training(model_config, minutes=1), loop=toy_loop(8))
    model = pipeline.make_csm(work, config, turns, codec, machine=SMALL)
    pipeline.export(work, model, codec, turns, work.path("parlor"))
    patch.undo()
    return work, work.path("parlor")


@pytest.mark.filterwarnings("ignore:the speech was cut at its cap")
def test_the_checkpoint_loads_and_speaks(trained: tuple[Work, Path]) -> None:
    generator = duologue.load(trained[1])
    assert generator.voices.shipped_names == ("joe", "anna")
    speech = generator.speak("Hello there.", seed=1, max_audio_length_ms=800)
    assert speech.stop_reason in ("end", "cap")
    assert speech.audio.shape[0] == speech.codes.shape[1] * generator.codec.frame_size
    assert bool(speech.audio.isfinite().all())
    again = generator.speak("Hello there.", seed=1, max_audio_length_ms=800)
    assert torch.equal(speech.codes, again.codes)


def test_a_trained_model_is_trained_further(
    trained: tuple[Work, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toy_loop: Callable[[int], LoopConfig],
) -> None:
    monkeypatch.setattr(pipeline, "VALIDATION_ROWS", 400)
    work, folder = trained
    earlier = duologue.load(folder)
    config = dataclasses.replace(configs.csm_continuation(earlier.model.config, minutes=1), loop=toy_loop(4))
    further = Work(work.corpora, tmp_path, threads=1)
    turns = TurnStore(work.path("turns"))
    model = pipeline.make_csm(further, config, turns, earlier.codec, earlier.model.state_dict(), SMALL)
    before, after = (m.codebook0_head.weight.detach() for m in (earlier.model, model))
    assert 0 < float((after - before).norm()) < 0.5 * float(before.norm())  # from there, not from nothing
    pipeline.export(further, model, earlier.codec, turns, tmp_path / "parlor")
    generator = duologue.load(tmp_path / "parlor")
    assert generator.model.config.guidance == configs.GUIDANCE > 1
    assert generator.voices.fingerprint == earlier.voices.fingerprint


@pytest.mark.filterwarnings("ignore:the speech was cut at its cap")
def test_a_trained_model_learns_the_codes_of_another_codec(
    trained: tuple[Work, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toy_loop: Callable[[int], LoopConfig],
) -> None:
    monkeypatch.setattr(pipeline, "VALIDATION_ROWS", 400)
    work, folder = trained
    earlier = duologue.load(folder)
    other = Mimi(dataclasses.replace(earlier.codec.config, num_codebooks=3, codebook_size=8))
    save_checkpoint(tmp_path / "codec", "native", codec=other)
    further = Work(work.corpora, tmp_path, threads=1)
    turns = pipeline.encode_corpus(further, str(tmp_path / "codec"), lambda line: None)
    assert turns.num_codebooks == 3
    config = configs.csm_transfer(earlier.model.config, other.config, minutes=1, num_codebooks=2)
    initial = without_codes(earlier.model.state_dict())
    config = dataclasses.replace(config, loop=toy_loop(4))
    model = pipeline.make_csm(further, config, turns, other, initial, SMALL)
    before, after = (m.text_embeddings.weight.detach() for m in (earlier.model, model))
    assert 0 < float((after - before).norm()) < 0.5 * float(before.norm())
    pipeline.export(further, model, other, turns, tmp_path / "parlor")
    speech = duologue.load(tmp_path / "parlor").speak("Hello there.", seed=1, max_audio_length_ms=400)
    assert speech.codes.shape[0] == 2
    assert int(speech.codes.max()) < 8


def test_going_on_keeps_codebooks_that_the_model_does_not_speak(
    trained: tuple[Work, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, folder = trained
    whole = duologue.load(folder)
    count = whole.model.num_codebooks
    model = CSM(dataclasses.replace(whole.model.config, num_codebooks=count - 1))
    tokenizer = folder / "tokenizer.json"
    start = save_checkpoint(tmp_path / "start", "native", model=model, codec=whole.codec, tokenizer_path=tokenizer)
    monkeypatch.setattr(pipeline, "encode_corpus", lambda *_: TurnStore(work.path("turns")))
    monkeypatch.setattr(pipeline, "make_csm", lambda *_: model)
    (tmp_path / "csm").mkdir()
    shutil.copy(tokenizer, tmp_path / "csm" / "tokenizer.json")
    options = ["--continue-from", str(start), "--work", str(tmp_path), "--device", "cpu", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["parlor", *options])
    assert program.main() == 0
    assert duologue.load_codec(tmp_path / "parlor").num_codebooks == count
    assert duologue.load(tmp_path / "parlor").model.num_codebooks == count - 1


def test_turns_are_not_encoded_again(trained: tuple[Work, Path]) -> None:
    work, _ = trained
    shard = work.path("turns") / "shard-00000.safetensors"
    before = shard.stat().st_mtime_ns
    turns = pipeline.encode_corpus(work, str(work.path("codec") / "model"), lambda line: None)
    assert shard.stat().st_mtime_ns == before
    assert turns.num_codebooks == 3


def test_held_out_recordings_stay_out(trained: tuple[Work, Path]) -> None:
    work, _ = trained
    assert len(recordings(work).conversations) == 3
    assert [Path(found.name).parent.name for found in recordings(work, "heldout").conversations] == ["heldout"]


def test_the_same_words_in_another_voice_are_held_out_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoken(text: str, voice: str) -> list[CodedTurn]:
        return [CodedTurn(voice, 0, text, np.zeros((3, 5), dtype=np.int16))]

    monkeypatch.setattr(pipeline, "VALIDATION_EVERY", 2)
    texts = ["One.", "Two.", "Three.", "Four."]
    learned, held_out = pipeline.split_by_words([spoken(text, voice) for voice in ("joe", "joe@88") for text in texts])
    assert sorted((turn.text, turn.voice) for [turn] in learned) == [
        ("Four.", "joe"),
        ("Four.", "joe@88"),
        ("Two.", "joe"),
        ("Two.", "joe@88"),
    ]
    assert sorted({turn.text for [turn] in held_out}) == ["One.", "Three."]
    assert len(held_out) == 4
    with pytest.raises(TrainingError, match=r"2 conversations .* same words"):
        pipeline.split_by_words([spoken("One.", "joe"), spoken("One.", "anna")])


def test_unseen_lines_are_each_taken_once_and_some_left_out(tmp_path: Path) -> None:
    turns = [
        {"text": text, "unseen": unseen} for text, unseen in (("A.", True), ("B.", False), ("C.", True), ("A.", True))
    ]
    turns += [{"text": "D."}, {"text": "E.", "unseen": True}]
    (tmp_path / "heldout").mkdir()
    (tmp_path / "heldout" / "manifest-a.jsonl").write_text(json.dumps({"turns": turns}))
    assert unseen_lines(tmp_path, 2) == ["A.", "C."]
    assert unseen_lines(tmp_path, 2, skip=1) == ["C.", "E."]
    with pytest.raises(TrainingError, match="has 3 unseen lines, not 4: lower --lines or --skip"):
        unseen_lines(tmp_path, 2, skip=2)


def test_losses_fall(trained: tuple[Work, Path]) -> None:
    log = [json.loads(line) for line in (trained[0].path("csm") / "log.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in log if "loss" in record]
    assert losses[-1] < losses[0]


def test_every_training_phoneme_has_a_symbol(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    ids = tokenizer.encode("How much is the yellow camera? Three-fourths, of course!", 2)
    assert 3 not in ids  # <|unk|>
    assert tokenizer.vocab_size == len(set(symbols())) + 4 + len("0123456789[]")
