"""The codec's recipe at toy size: two runs, a kill in the middle, the table, and a decoder adapted to a voice."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import duologue
from duologue.checkpoints import load_codec
from duologue.codec.mimi import Mimi
from duologue.data.corpus import PcmStore
from duologue.errors import EvaluationError, TrainingError
from duologue.eval.clips import Sound
from duologue.eval.instruments import Instruments, Quality, Transcript
from duologue.train.loop import LoopConfig
from recipes.parlor_codec import ablate, adapt, configs, evaluate, pipeline
from recipes.parlor_codec.evaluate import counts_to_try, markdown, table
from recipes.parlor_codec.listening import Ear, Line, Listener, gather, summary, through_codes, through_latent
from recipes.work import Work


def train(
    folder: Path, plan: configs.CodecPlan, store: PcmStore, features: Path | None, listener: Listener | None = None
) -> Mimi:
    return pipeline.make_codec(Work((), folder, threads=1), plan, store, features, listener=listener)


class Recognizer:
    """Hears one word, always the same."""

    name = "toy"

    def __call__(self, pcm: torch.Tensor, sample_rate: int) -> Transcript:
        return Transcript("hello")


class Encoder:
    """A voice is its share of loud samples: two numbers on a circle."""

    name = "toy"

    def __call__(self, pcm: torch.Tensor, sample_rate: int):  # type: ignore[no-untyped-def]
        angle = torch.tensor(float((pcm.abs() > 0.05).float().mean()))
        return torch.stack((angle.cos(), angle.sin())).numpy()


class Judge:
    """Everything is good."""

    name = "toy"

    def __call__(self, pcm: torch.Tensor, sample_rate: int) -> Quality:
        return Quality(3.0, 3.0, 3.0, 3.0)


@pytest.fixture
def ear(tmp_path: Path) -> Ear:
    instruments = Instruments(
        tmp_path, recognizer_override=Recognizer(), speaker_encoder_override=Encoder(), quality_judge_override=Judge()
    )
    sound = Sound(0.2 * torch.sin(torch.arange(48_000) * 0.05), 24_000)
    return Ear(instruments, [Line("a", "hello there", sound), Line("b", "hello", sound)])


@pytest.fixture(scope="module")
def trained(
    toy_plan: configs.CodecPlan, toy_store: PcmStore, toy_features: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Mimi]:
    folder = tmp_path_factory.mktemp("codec")
    return folder, train(folder, toy_plan, toy_store, toy_features)


def test_the_recipe_makes_a_codec_that_streams(trained: tuple[Path, Mimi]) -> None:
    folder, _ = trained
    codec = load_codec(folder / "model")
    pcm = 0.2 * torch.sin(torch.arange(8 * 1920) * 0.04)[None, None]
    codes = codec.encode(pcm)
    encoder, decoder = codec.init_encoder_state(1), codec.init_decoder_state(1)
    streamed = torch.cat([codec.encode(piece, encoder) for piece in pcm.split(1920, dim=-1)], dim=-1)
    assert torch.equal(streamed, codes)
    sound = torch.cat([codec.decode(codes[..., i : i + 1], decoder) for i in range(8)], dim=-1)
    torch.testing.assert_close(sound, codec.decode(codes), atol=1e-5, rtol=0)


def test_codebooks_are_those_of_the_latent(trained: tuple[Path, Mimi]) -> None:
    latent, codes, finished = (
        load_codec(trained[0] / name) for name in ("latent/model", "codes/model", "decoder/model")
    )
    rested = ("encoder.", "encoder_transformer.", "downsample.", "quantizer.acoustic.input_proj.")
    for name, tensor in finished.state_dict().items():
        if name.startswith(rested):
            assert torch.equal(tensor, latent.state_dict()[name]), name
    for found, kept in zip(codes.codebook_vectors(), finished.codebook_vectors(), strict=True):
        assert torch.equal(found, kept)
    assert not torch.equal(codes.codebook_vectors()[1], latent.codebook_vectors()[1])


def test_the_loss_falls(trained: tuple[Path, Mimi]) -> None:
    log = [json.loads(line) for line in (trained[0] / "latent" / "log.jsonl").read_text().splitlines()]
    mel = [record["mel"] for record in log if "mel" in record]
    assert mel[-1] < mel[0]


def test_a_recipe_killed_in_any_run_ends_with_the_same_codec(
    trained: tuple[Path, Mimi],
    toy_plan: configs.CodecPlan,
    toy_store: PcmStore,
    toy_features: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = trained[1].state_dict()
    batches, kills = pipeline.batches, [("latent", 3), ("decoder", 1)]

    def deadly(plan, config, store, features, *, seed, workers=0):  # type: ignore[no-untyped-def]
        draw = batches(plan, config, store, features, seed=seed)
        name = next(name for name, run in plan.runs().items() if run == config)

        def batch(index: int):  # type: ignore[no-untyped-def]
            if (name, index) in kills and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
                kills.remove((name, index))
                os.kill(os.getpid(), signal.SIGTERM)
            return draw(index)

        return batch

    monkeypatch.setattr(pipeline, "batches", deadly)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, toy_plan, toy_store, toy_features)
    codec = train(tmp_path, toy_plan, toy_store, toy_features)
    assert not kills
    for name, tensor in codec.state_dict().items():
        assert torch.equal(tensor, whole[name]), name


def test_a_finished_recipe_is_not_run_again(
    trained: tuple[Path, Mimi], toy_plan: configs.CodecPlan, toy_store: PcmStore
) -> None:
    folder, codec = trained
    again = train(folder, toy_plan, toy_store, None)
    for name, tensor in codec.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_codec_is_trained_further(
    trained: tuple[Path, Mimi], toy_plan: configs.CodecPlan, toy_store: PcmStore, toy_features: Path, tmp_path: Path
) -> None:
    first = trained[0] / "model"
    work = Work((), tmp_path / "more", threads=1)
    codec = pipeline.make_codec(work, toy_plan, toy_store, toy_features, continue_from=first)
    before, after = (pipeline.read_teacher(folder / "teacher.safetensors") for folder in (first, work.path("model")))
    assert torch.equal(before.centres, after.centres)  # every code stands for the unit that it stood for
    assert not torch.equal(before.vectors, after.vectors)
    assert not (work.folder / "units.npy").exists()
    log = [json.loads(line) for line in (work.path("latent") / "log.jsonl").read_text().splitlines()]
    fresh = [json.loads(line) for line in (trained[0] / "latent" / "log.jsonl").read_text().splitlines()]
    assert log[0]["mel"] < fresh[0]["mel"]
    assert codec.config == toy_plan.latent.model
    with pytest.raises(TrainingError, match=r"no teacher\.safetensors beside the codec"):
        pipeline.make_codec(
            Work((), tmp_path / "again", threads=1),
            toy_plan,
            toy_store,
            toy_features,
            continue_from=first.parent / "codes" / "model",
        )


def test_round_trips_are_measured_on_the_way(
    toy_plan: configs.CodecPlan, toy_store: PcmStore, tmp_path: Path, ear: Ear
) -> None:
    train(tmp_path, toy_plan, toy_store, None, Listener(ear))
    for name in ("latent", "decoder"):
        log = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        measured = [record for record in log if "eval_wer" in record]
        assert [record["step"] for record in measured] == [4, 8]
        assert measured[-1]["eval_wer"] == pytest.approx(100 / 3, abs=0.01)  # "there" is one word of three
        assert -1 <= measured[-1]["eval_sim"] <= 1


def test_an_adapted_codec_keeps_its_codes(
    trained: tuple[Path, Mimi], toy_store: PcmStore, tmp_path: Path, toy_loop: Callable[[int], LoopConfig]
) -> None:
    codec = load_codec(trained[0] / "model")
    config = configs.adaptation(codec.config, minutes=1)
    config = dataclasses.replace(config, loop=toy_loop(3))
    adapted = adapt.adapt(Work((), tmp_path, threads=1), codec, config, toy_store)
    pcm = torch.randn(2, 1, 3840) * 0.1
    codes = codec.encode(pcm)
    assert torch.equal(load_codec(tmp_path / "model").encode(pcm), codes)
    assert not torch.equal(adapted.decode(codes), codec.decode(codes))


def test_the_table_has_a_row_for_every_count(trained: tuple[Path, Mimi], ear: Ear) -> None:
    codec = load_codec(trained[0] / "model")
    assert counts_to_try(3) == [1, 2, 3]
    assert counts_to_try(16) == [1, 2, 4, 8, 16]
    heard = [ear.originals(), *(ear.after(through_codes(codec, count)) for count in (1, 3))]
    entries = table(codec, heard, [1, 3])
    assert [entry["codebooks"] for entry in entries] == [0, 1, 3]
    assert entries[0]["sim"] == pytest.approx(1.0)
    assert entries[2]["kbps"] == pytest.approx(3 * 4 * 12.5 / 1000)
    found = entries[2]["perplexities"]
    assert isinstance(found, list)
    assert len(found) == 3 and all(1 <= value <= 16 for value in found)
    assert markdown(entries).splitlines()[3].startswith("| 1 | 0.05 | 33.3 |")


@pytest.mark.slow
def test_several_processes_hear_what_one_hears(
    corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "_AT_A_TIME", 1)
    lines = gather([str(corpus / "heldout")], limit=2)[:2]
    codec = duologue.load_codec("parlor", device="cpu")
    own = evaluate.Listening(codec)
    one, two = (evaluate.hear_all("parlor", own, lines, [2], workers) for workers in (1, 2))
    for alone, together in zip(one, two, strict=True):
        assert [heard.row.text for heard in together] == [line.text for line in lines]
        assert [heard.row.heard for heard in together] == [heard.row.heard for heard in alone]
        assert [heard.likeness for heard in together] == pytest.approx([heard.likeness for heard in alone], abs=1e-3)
    assert capsys.readouterr().err.splitlines()[-1] == "2 of 2 recordings"


def test_without_acoustic_quantization_the_latent_is_decoded_as_it_is(codec_of_noise: Mimi, ear: Ear) -> None:
    sound = ear.lines[0].sound
    exact = through_latent(codec_of_noise)(sound).sound.pcm
    coarse = through_codes(codec_of_noise)(sound).sound.pcm
    assert exact.shape == sound.pcm.shape
    assert not torch.equal(exact, coarse[: len(exact)])


@pytest.fixture
def codec_of_noise(toy_plan: configs.CodecPlan) -> Mimi:
    torch.manual_seed(0)
    codec = Mimi(toy_plan.latent.model).eval()
    for vectors in (*codec.quantizer.semantic, *codec.quantizer.acoustic):
        vectors.embedding_sum.normal_()
    return codec


def test_lines_are_gathered_from_manifests(toy_corpus: Path) -> None:
    lines = gather([str(toy_corpus / "heldout")], limit=None)
    assert [line.text for line in lines] == ["Good morning to you."]  # the others have fewer than four words
    with pytest.raises(EvaluationError, match="no manifest"):
        gather([str(toy_corpus)], limit=1)


def test_summary_counts_words_not_lines(ear: Ear) -> None:
    figures = summary(ear.originals())
    assert figures == {"wer": pytest.approx(100 / 3), "sim": pytest.approx(1.0), "ovrl": 3.0}


def test_a_corpus_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recipes.parlor_codec", "--corpus", str(tmp_path), "--work", str(tmp_path / "w")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip() == f"error: no manifests of train recordings in {tmp_path}: give --corpus"


def test_a_decoder_without_discriminators_beside_one_with_them(
    trained: tuple[Path, Mimi], toy_plan: configs.CodecPlan, toy_store: PcmStore, ear: Ear
) -> None:
    folder, _ = trained
    judges = toy_plan.decoder.reconstruction.adversary
    assert judges is not None
    codec = load_codec(folder / "codes" / "model")
    made = ablate.without_adversary(Work((), folder, threads=1), toy_store, codec, toy_plan.decoder, judges)
    first, second = (load_codec(path) for path in made.values())
    pcm = 0.2 * torch.sin(torch.arange(4 * 1920) * 0.04)[None, None]
    codes = first.encode(pcm)
    assert torch.equal(codes, second.encode(pcm))
    assert not torch.equal(first.decode(codes), second.decode(codes))
    lines: list[str] = []
    ablate.compare(made, ear, lines.append)
    assert [json.loads(line)["codec"] for line in lines] == ["original", "with adversary", "without adversary"]


def test_a_codec_without_distillation_beside_one_with_it(
    toy_plan: configs.CodecPlan, toy_store: PcmStore, toy_features: Path, tmp_path: Path
) -> None:
    made = ablate.without_distillation(Work((), tmp_path, threads=1), toy_plan, toy_store, toy_features)
    assert list(made) == ["with distillation", "without distillation"]
    first, second = (load_codec(path) for path in made.values())
    (ours,), (theirs,) = first.quantizer.semantic, second.quantizer.semantic
    assert not torch.equal(ours.vectors, theirs.vectors)
