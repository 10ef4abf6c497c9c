"""A corpus and a codec small enough for a recipe to run in a test."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from duologue.audio import write_audio
from duologue.config import HarmonicConfig, MimiConfig
from duologue.data.corpus import PcmStore
from duologue.data.teacher import feature_path
from duologue.train.adversary import AdversaryConfig
from duologue.train.codec import CodecTrainConfig
from duologue.train.loop import LoopConfig
from recipes.parlor_codec import configs
from recipes.work import Work, decode_recordings

RATE = 24_000
ENDINGS = ("Bye.", "Until then.", "So long.")


@pytest.fixture(scope="session")
def toy_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three conversations of two "voices", a buzz each, in two folders, one of them held out."""
    folder = tmp_path_factory.mktemp("corpus")
    torch.manual_seed(0)
    for part, count in (("train", 3), ("heldout", 1)):
        target = folder / part
        target.mkdir(parents=True)
        lines = []
        for index in range(count):
            turns, pieces, at = [], [], 0
            for number, text in enumerate(("Hello there.", "Good morning to you.", ENDINGS[index])):
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
    full = configs.parlor_model()
    transformer = dataclasses.replace(full.transformer, dim=16, num_layers=1, num_heads=2, num_kv_heads=2, ffn_dim=32)
    return dataclasses.replace(
        full,
        transformer=transformer,
        dim=16,
        num_codebooks=3,
        codebook_size=16,
        codebook_dim=8,
        harmonic=HarmonicConfig(num_channels=16, num_bands=24, fft_size=512),
    )


@pytest.fixture(scope="session")
def toy_loop() -> Callable[[int], LoopConfig]:
    """A loop of so many steps."""
    return lambda num_steps: LoopConfig(
        num_steps=num_steps, warmup_steps=2, save_every=4, log_every=4, evaluate_every=4
    )


@pytest.fixture(scope="session")
def toy_plan(toy_loop: Callable[[int], LoopConfig]) -> configs.CodecPlan:
    """Parlor's plan for a codec of a few thousand weights, eight steps a run, the last with a discriminator."""
    plan = configs.parlor(1)

    judges = AdversaryConfig(windows=(512,), filters=4)

    def small(config: CodecTrainConfig) -> CodecTrainConfig:
        return dataclasses.replace(
            config,
            model=toy_codec(),
            loop=toy_loop(8),
            reconstruction=dataclasses.replace(
                config.reconstruction, adversary=judges if config.learn == "decoder" else None
            ),
        )

    return configs.CodecPlan(
        **{name: small(run) for name, run in plan.runs().items()},
        crop_frames=6,
        crops_per_batch=2,
        shifted=0.5,
        kmeans_points=64,
    )


@pytest.fixture(scope="session")
def toy_store(toy_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> PcmStore:
    """The corpus as samples."""
    work = Work((toy_corpus,), tmp_path_factory.mktemp("store"), threads=1)
    return decode_recordings(work, RATE, print)


@pytest.fixture(scope="session")
def toy_features(toy_store: PcmStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a recogniser might hear: nothing but noise, six numbers a frame."""
    folder = tmp_path_factory.mktemp("features")
    random = np.random.default_rng(0)
    for position, name in enumerate(toy_store.names):
        frames = -(-toy_store.num_samples(position) // 1920)
        np.save(feature_path(folder, name), random.normal(size=(frames, 6)).astype(np.float16))
    return folder
