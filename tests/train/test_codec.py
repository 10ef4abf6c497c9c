"""The runs of a codec, at toy size: what each teaches, what it leaves alone, and exact resume."""

import copy
import dataclasses
import itertools
import json
import os
import signal
import warnings
from pathlib import Path

import pytest
import torch

from duologue.codec.mimi import Mimi
from duologue.config import MimiConfig
from duologue.errors import TrainingError
from duologue.train.adversary import AdversaryConfig
from duologue.train.codec import (
    CodecBatch,
    CodecTrainConfig,
    CodecTraining,
    QuantizerConfig,
    start_codebooks,
    train_codec,
)
from duologue.train.loop import LoopConfig
from duologue.train.reconstruction import ReconstructionConfig
from duologue.train.semantic import SemanticTeacher
from duologue.train.spectral import MultiScaleMel

ADVERSARY = AdversaryConfig(windows=(512,), filters=4, learning_rate=3e-3)


def make_teacher(units: int = 16) -> SemanticTeacher:
    """The first two units are what `batch_of` tells of; the others are never heard."""
    torch.manual_seed(0)
    return SemanticTeacher(torch.cat((torch.eye(6)[:2], 5 + torch.rand(units - 2, 6))), codebook_dim=8)


def batch_of(index: int) -> CodecBatch:
    """Crops of a low or a high tone; the teacher knows which."""
    generator = torch.Generator().manual_seed(index)
    kinds = torch.randint(0, 2, (8,), generator=generator)
    phase = torch.arange(4 * 1920) * torch.tensor([0.02, 0.3])[kinds][:, None]
    pcm = 0.3 * torch.sin(phase)[:, None] + 0.003 * torch.randn(8, 1, 4 * 1920, generator=generator)
    return CodecBatch(pcm, torch.eye(6)[kinds][:, None].repeat(1, 4, 1))


def make_config(model: MimiConfig, num_steps: int = 30, **changes: object) -> CodecTrainConfig:
    loop = LoopConfig(
        num_steps=num_steps,
        learning_rate=3e-3,
        muon_learning_rate=3e-3,
        warmup_steps=3,
        ema_decay=0.5,
        save_every=4,
        log_every=2,
        evaluate_every=5,
    )
    config = CodecTrainConfig(model=model, loop=loop, quantizer=QuantizerConfig(kmeans_points=64))
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def losses(folder: Path, name: str) -> list[float]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [record[name] for record in records if name in record]


def test_three_runs_make_a_codec_with_words_in_its_first_codebook(codec: Mimi, tmp_path: Path) -> None:
    model, teacher = codec.config, make_teacher()
    latent = train_codec(
        make_config(model, 80, bottleneck="noise"), batch_of, tmp_path / "latent", teacher=teacher, quiet=True
    )
    mel = losses(tmp_path / "latent", "mel")
    assert mel[-1] < 0.6 * mel[0]
    assert 0.3 < losses(tmp_path / "latent", "latent_scale")[-1] < 3  # held near order one
    codes = train_codec(make_config(model), batch_of, tmp_path / "codes", initial=latent, teacher=teacher, quiet=True)
    batch = batch_of(1000)
    kinds = batch.teacher[:, 0].argmax(dim=-1)  # [B]
    # The first frame has no past to tell a low tone by.
    assert (codes.encode(batch.pcm)[:, 0, 1:] == kinds[:, None]).float().mean() > 0.95
    polished = train_codec(
        make_config(model, learn="decoder", reconstruction=ReconstructionConfig(adversary=ADVERSARY)),
        batch_of,
        tmp_path / "decoder",
        initial=codes,
        quiet=True,
    )
    assert torch.equal(polished.encode(batch.pcm), codes.encode(batch.pcm))
    assert not torch.equal(polished.decode(codes.encode(batch.pcm)), codes.decode(codes.encode(batch.pcm)))
    assert losses(tmp_path / "decoder", "discrimination")[-1] < 2.0
    frames = [polished.encode(batch.pcm[:2])[..., index : index + 1] for index in range(4)]
    state = polished.init_decoder_state(2)
    streamed = torch.cat([polished.decode(frame, state) for frame in frames], dim=-1)
    torch.testing.assert_close(streamed, polished.decode(torch.cat(frames, dim=-1)), atol=1e-5, rtol=0)


def test_without_units_the_semantic_codebook_follows_moving_averages(codec: Mimi, tmp_path: Path) -> None:
    before = codec.quantizer.semantic.codebooks[0].vectors.clone()
    trained = train_codec(make_config(codec.config, 10), batch_of, tmp_path, initial=codec, quiet=True)
    assert not torch.equal(trained.quantizer.semantic.codebooks[0].vectors, before)
    assert torch.equal(codec.quantizer.semantic.codebooks[0].vectors, before)
    assert all(losses(tmp_path, f"eval_perplexity_{number}")[-1] > 1 for number in range(3))


def test_with_kmeans_points_at_zero_codebooks_go_on_as_they_are(codec: Mimi, tmp_path: Path) -> None:
    config = make_config(codec.config, 1, quantizer=QuantizerConfig(kmeans_points=0, decay=1.0, revive_below=0.0))
    trained = train_codec(config, batch_of, tmp_path, initial=codec, quiet=True)
    for ours, theirs in zip(trained.codebook_vectors(), codec.codebook_vectors(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("name", "stop_at"), [("noise", 5), ("codes", 1), ("codes", 6), ("decoder", 3), ("decoder", 7)]
)
def test_a_killed_run_resumes_exactly(codec: Mimi, tmp_path: Path, name: str, stop_at: int) -> None:
    changes: dict[str, object] = {
        "noise": {"bottleneck": "noise"},
        "codes": {},
        "decoder": {"learn": "decoder", "reconstruction": ReconstructionConfig(adversary=ADVERSARY)},
    }[name]
    config = make_config(codec.config, 10, **changes)

    def run(folder: Path, stop_at: int | None = None) -> Mimi:
        def batches(index: int) -> CodecBatch:
            if (
                index == stop_at and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            ):  # k-means is before the loop
                os.kill(os.getpid(), signal.SIGTERM)
            return batch_of(index)

        return train_codec(config, batches, folder, initial=codec, teacher=make_teacher(), quiet=True)

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop_at)
    resumed = run(tmp_path / "parts")
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


def test_resume_with_another_configuration_is_refused(codec: Mimi, tmp_path: Path) -> None:
    train_codec(make_config(codec.config, 2), batch_of, tmp_path, initial=codec, quiet=True)
    changed = make_config(codec.config, 2, quantizer=QuantizerConfig(kmeans_points=64, dropout=0.7))
    with pytest.raises(TrainingError, match=r"config\.quantizer\.dropout was 0\.3, is 0\.7"):
        train_codec(changed, batch_of, tmp_path, initial=codec, quiet=True)
    other = copy.deepcopy(codec)
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    with pytest.raises(TrainingError, match="starting_weights was"):
        train_codec(make_config(codec.config, 2), batch_of, tmp_path, initial=other, quiet=True)


def test_a_collapsed_codebook_is_warned_of_by_its_number(codec: Mimi, tmp_path: Path) -> None:
    def silence(index: int) -> CodecBatch:
        return CodecBatch(torch.zeros(8, 1, 4 * 1920), torch.zeros(8, 4, 6))

    quantizer = QuantizerConfig(kmeans_points=64, decay=0.5, revive_below=0.0)
    model = dataclasses.replace(codec.config, codebook_size=64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        config = make_config(model, 10, quantizer=quantizer)
        train_codec(config, silence, tmp_path, teacher=make_teacher(64), quiet=True)
    said = {str(warning.message).partition(":")[0] for warning in caught}
    assert "codebook 1 has collapsed" in said
    assert "codebook 0 has collapsed" not in said  # its vectors are a classifier's, whatever is in use


def test_a_discriminator_that_wins_keeps_the_checkpoint_before(codec: Mimi, tmp_path: Path) -> None:
    judges = dataclasses.replace(ADVERSARY, learning_rate=0.05, lost_below=1.4)
    config = make_config(
        codec.config, 200, learn="decoder", reconstruction=ReconstructionConfig(adversary=judges, mel_weight=1e-6)
    )
    with pytest.raises(TrainingError, match="the discriminators win"):
        train_codec(config, batch_of, tmp_path, initial=codec, quiet=True)
    state = json.loads((tmp_path / "last" / "state.json").read_text())
    assert 4 <= state["step"] < 200


def test_what_the_decoder_trains_on_is_the_codecs_own_round_trip(codec: Mimi) -> None:
    config = make_config(codec.config, learn="decoder", quantizer=QuantizerConfig(dropout=0.0))
    training = CodecTraining(config, codec).eval()
    batch = batch_of(3)
    with torch.no_grad():
        found = training(batch, 0.0)["mel"]
        again = codec.decode(codec.encode(batch.pcm))
    terms = config.reconstruction
    scales = tuple(zip(terms.mel_scales, terms.mel_bins, strict=True))
    expected = MultiScaleMel(codec.sample_rate, scales, floor_db=terms.floor_db)(again[:, 0], batch.pcm[:, 0])
    assert torch.allclose(found, expected, atol=1e-5)


def test_refusals(codec: Mimi, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="needs a codec to start from"):
        train_codec(make_config(codec.config, learn="decoder"), batch_of, tmp_path)
    with pytest.raises(TrainingError, match='set bottleneck to "codes"'):
        make_config(codec.config, learn="decoder", bottleneck="noise")
    with pytest.raises(TrainingError, match="17 units for a codebook of 16 codes"):
        CodecTraining(make_config(codec.config), codec, teacher=make_teacher(17))
    other = dataclasses.replace(codec.config, num_codebooks=4)
    with pytest.raises(TrainingError, match="not of the configured model"):
        train_codec(make_config(other), batch_of, tmp_path, initial=codec)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
def test_a_compiled_run_is_the_same_run(codec: Mimi, tmp_path: Path) -> None:
    config = make_config(codec.config, num_steps=4)
    for name, compiled in (("plain", False), ("compiled", True)):
        train_codec(
            config, batch_of, tmp_path / name, initial=codec, teacher=make_teacher(), compiled=compiled, quiet=True
        )
    assert losses(tmp_path / "compiled", "loss") == pytest.approx(losses(tmp_path / "plain", "loss"), rel=1e-3)


def test_codebooks_of_a_latent_leave_less_of_it_one_after_another(codec: Mimi) -> None:
    start_codebooks(codec, batch_of, 512, seed=0, with_semantic=True)
    acoustic = codec.quantizer.acoustic
    with torch.no_grad():
        latents = acoustic.input_proj(codec.encode_latent(batch_of(1000).pcm))  # of crops they have not seen
        left = [latents.square().mean()]
        for codebook in acoustic:
            latents = latents - codebook.decode(codebook.encode(latents))
            left.append(latents.square().mean())
    assert all(after <= before for before, after in itertools.pairwise(left))
    assert left[-1] < 0.2 * left[0]
    (semantic,) = codec.quantizer.semantic
    assert len(semantic.vectors.unique(dim=0)) > 8


@pytest.mark.gpu
def test_a_run_on_a_gpu_gives_back_a_codec_of_the_cpu(codec: Mimi, tmp_path: Path) -> None:
    config = make_config(codec.config, 80, bottleneck="noise")
    trained = train_codec(config, batch_of, tmp_path, teacher=make_teacher(), device="cuda", quiet=True)
    mel = losses(tmp_path, "mel")
    assert mel[-1] < 0.6 * mel[0]
    assert {tensor.device.type for tensor in trained.state_dict().values()} == {"cpu"}
