"""The recipe at toy size: trained, saved, loaded, and made to speak; and that it goes on where it stopped."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import duologue
from duologue.audio import write_audio
from duologue.config import MimiConfig
from duologue.data.conversations import TurnStore
from duologue.data.corpus import PcmStore
from duologue.data.teacher import feature_path
from duologue.train.loop import LoopConfig
from recipes.parlor import configs, pipeline
from recipes.parlor.text import build_tokenizer, symbols

RATE = 24_000


def write_corpus(folder: Path) -> Path:
    """Three conversations of two "voices", a buzz each, in two folders, one of them held out."""
    torch.manual_seed(0)
    for part, count in (("train", 3), ("heldout", 1)):
        target = folder / part
        target.mkdir(parents=True)
        lines = []
        for index in range(count):
            turns, pieces, at = [], [], 0
            for number, text in enumerate(("Hello there.", "Good morning to you.", "Bye.")):
                length = round((3.0 if number < 2 else 1.2) * RATE)
                pitch = (0.03, 0.05)[number % 2]
                phase = torch.arange(length) * pitch
                pieces += [0.2 * torch.sin(phase) * (0.5 + 0.5 * torch.sin(phase / 50)), torch.zeros(2400)]
                turns.append(
                    {
                        "speaker": number % 2,
                        "voice": ("ko-a", "joe")[number % 2],
                        "text": text,
                        "start": at,
                        "end": at + length,
                    }
                )
                at += length + 2400
            write_audio(target / f"{index}.wav", torch.cat(pieces), RATE)
            lines.append(json.dumps({"file": f"{index}.wav", "sample_rate": RATE, "samples": at, "turns": turns}))
        (target / f"manifest-{part}.jsonl").write_text("\n".join(lines))
    return folder


def toy_codec() -> MimiConfig:
    full = configs.codec_model()
    transformer = dataclasses.replace(full.transformer, dim=16, num_layers=1, num_heads=2, num_kv_heads=2, ffn_dim=32)
    return dataclasses.replace(
        full, transformer=transformer, dim=16, num_filters=4, num_codebooks=3, codebook_size=16, codebook_dim=8
    )


def toy_loop(num_steps: int) -> LoopConfig:
    return LoopConfig(num_steps=num_steps, warmup_steps=2, save_every=4, log_every=4, evaluate_every=4)


def toy_stages() -> configs.CodecStages:
    stages = configs.codec_training(minutes=1)
    return configs.CodecStages(
        dataclasses.replace(
            stages.sound, model=toy_codec(), loop=toy_loop(8), kmeans_points=64, quantize_from=0.25, teacher_dim=6
        ),
        dataclasses.replace(stages.words, loop=toy_loop(8)),
        dataclasses.replace(stages.decoder, loop=toy_loop(8)),
        num_units=8,
    )


def write_features(store: PcmStore, folder: Path) -> Path:
    """What a recogniser might hear: nothing but noise, six numbers a frame."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for position, name in enumerate(store.names):
        frames = -(-store.num_samples(position) // 1920)
        np.save(feature_path(folder, name), random.normal(size=(frames, 6)).astype(np.float16))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[pipeline.Work, Path]:
    root = tmp_path_factory.mktemp("parlor")
    patch = pytest.MonkeyPatch()
    patch.setattr(pipeline, "CROPS_PER_BATCH", 2)
    patch.setattr(pipeline, "CROP_FRAMES", 6)
    patch.setattr(pipeline, "BATCH_ROWS", 400)
    work = pipeline.Work((write_corpus(root / "corpus"),), root / "work", threads=1)
    store = pipeline.decode_recordings(work, RATE)
    codec = pipeline.make_codec(work, toy_stages(), store, write_features(store, work.path("features")))
    turns = pipeline.encode_corpus(work, codec, store, lambda line: None)
    full = configs.csm_model(pipeline.text_vocab_size(work), codec.config)
    backbone = dataclasses.replace(full.backbone, dim=32, num_layers=3, num_heads=2, num_kv_heads=2, ffn_dim=64)
    depth = dataclasses.replace(full.depth, dim=16, num_layers=1, num_heads=2, num_kv_heads=2, ffn_dim=32)
    model_config = dataclasses.replace(full, backbone=backbone, depth=depth)
    config = dataclasses.replace(configs.csm_training(model_config, minutes=1), loop=toy_loop(8))
    model = pipeline.make_csm(work, config, turns, codec)
    pipeline.export(work, model, codec, turns, work.path("parlor"))
    patch.undo()
    return work, work.path("parlor")


@pytest.mark.filterwarnings("ignore:the speech was cut at its cap")
def test_the_checkpoint_loads_and_speaks(trained: tuple[pipeline.Work, Path]) -> None:
    generator = duologue.load(trained[1])
    assert generator.voices.shipped_names == ("joe", "anna")
    speech = generator.speak("Hello there.", seed=1, max_audio_length_ms=800)
    assert speech.stop_reason in ("end", "cap")
    assert speech.audio.shape[0] == speech.codes.shape[1] * generator.codec.frame_size
    assert bool(speech.audio.isfinite().all())
    again = generator.speak("Hello there.", seed=1, max_audio_length_ms=800)
    assert torch.equal(speech.codes, again.codes)


def test_a_trained_model_is_trained_further(
    trained: tuple[pipeline.Work, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "BATCH_ROWS", 400)
    work, folder = trained
    earlier = duologue.load(folder)
    config = dataclasses.replace(configs.csm_continuation(earlier.model.config, minutes=1), loop=toy_loop(4))
    further = pipeline.Work(work.corpora, tmp_path, threads=1)
    turns = TurnStore(work.path("turns"))
    model = pipeline.make_csm(further, config, turns, earlier.codec, earlier.model)
    before, after = (m.codebook0_head.weight.detach() for m in (earlier.model, model))
    assert 0 < float((after - before).norm()) < 0.5 * float(before.norm())  # from there, not from nothing
    pipeline.export(further, model, earlier.codec, turns, tmp_path / "parlor")
    generator = duologue.load(tmp_path / "parlor")
    assert generator.model.config.guidance == configs.GUIDANCE > 1
    assert generator.voices.fingerprint == earlier.voices.fingerprint


def test_finished_steps_are_not_run_again(trained: tuple[pipeline.Work, Path]) -> None:
    work, _ = trained
    store = pipeline.decode_recordings(work, RATE)
    before = (work.path("turns") / "turns.json").stat().st_mtime_ns
    codec = pipeline.make_codec(work, toy_stages(), store, None)
    turns = pipeline.encode_corpus(work, codec, store, lambda line: None)
    assert (work.path("turns") / "turns.json").stat().st_mtime_ns == before
    assert turns.num_codebooks == codec.num_codebooks


def test_held_out_recordings_stay_out(trained: tuple[pipeline.Work, Path]) -> None:
    work, _ = trained
    assert len(pipeline.recordings(work)) == 3
    assert [r.path.parent.name for r in pipeline.recordings(work, "heldout")] == ["heldout"]


def test_losses_fall(trained: tuple[pipeline.Work, Path]) -> None:
    # codec/words has no place here: it starts with its acoustic error at zero, and its teacher here is noise.
    for step in ("codec/sound", "codec/decoder", "csm"):
        log = [json.loads(line) for line in (trained[0].path(step) / "log.jsonl").read_text().splitlines()]
        losses = [record["loss"] for record in log if "loss" in record]
        assert losses[-1] < losses[0]


def test_every_training_phoneme_has_a_symbol(tmp_path: Path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    ids = tokenizer.encode("How much is the yellow camera? Three-fourths, of course!", 2)
    assert 3 not in ids  # <|unk|>
    assert tokenizer.vocab_size == len(set(symbols())) + 4 + len("0123456789[]")
