"""`duologue codec`."""

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from duologue.audio import read_audio, write_audio
from duologue.cli import codes as code_files
from duologue.errors import CodeError
from tests.cli.conftest import RATE, Run
from tests.cli.helpers import assert_nothing_left, assert_refused, json_of, lines_of
from tests.engine.builders import tiny_mimi, tone

FRAME = 1920
NUM_FRAMES = 19  # 1.5 s


def expected_codes(recording: Path) -> torch.Tensor:
    pcm, _ = read_audio(recording, RATE)
    return tiny_mimi().encode(pcm[None, None])[0]  # [K, T]


def test_a_recording_there_and_back(run: Run, tiny: Path, recording: Path) -> None:
    result = run("codec", "encode", recording, "-o", "a.safetensors", "-m", tiny)
    assert result.exit_code == 0 and result.stdout == ""
    (line,) = lines_of(result.stderr)
    assert line.startswith("a.safetensors: 19 frames of 4 codes, 0.30 kbit/s, 1.50 s of audio in ")
    codes = load_file("a.safetensors")["codes"]
    assert codes.dtype == torch.int16 and torch.equal(codes.long(), expected_codes(recording))
    result = run("codec", "decode", "a.safetensors", "-o", "a.wav", "-m", tiny)
    assert result.exit_code == 0
    assert "a.wav: 19 frames of 4 codes" in result.stderr and "1.50 s of audio" in result.stderr
    pcm, rate = read_audio("a.wav")
    assert (len(pcm), rate) == (round(1.5 * RATE), RATE)  # without the padding of the last frame
    decoded = tiny_mimi().decode(codes.long()[None])[0, 0, : len(pcm)].clamp(-1, 1)
    assert torch.allclose(pcm, decoded, atol=1e-4)
    assert_nothing_left(Path(), ["a.safetensors", "a.wav"])


def test_pieces_make_no_difference(run: Run, tiny: Path, recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duologue.cli.codec._PIECE_SECONDS", 0.1)
    assert run("codec", "encode", recording, "-o", "a.npy", "-m", tiny).exit_code == 0
    codes = np.load("a.npy")
    assert codes.dtype == np.int16 and torch.equal(torch.from_numpy(codes).long(), expected_codes(recording))
    assert run("codec", "decode", "a.npy", "-o", "a.wav", "-m", tiny).exit_code == 0
    pcm, _ = read_audio("a.wav")
    assert len(pcm) == NUM_FRAMES * FRAME  # npy does not say how long the recording was
    decoded = tiny_mimi().decode(torch.from_numpy(codes).long()[None])[0, 0].clamp(-1, 1)
    assert torch.allclose(pcm, decoded, atol=1e-4)


def test_fewer_codebooks(run: Run, tiny: Path, recording: Path) -> None:
    run("codec", "encode", recording, "-o", "all.npy", "-m", tiny)
    value = json_of(run("codec", "encode", recording, "-o", "two.npy", "-m", tiny, "--codebooks", 2, "--json").stdout)
    assert (value["num_codebooks"], value["num_frames"], value["frame_rate"]) == (2, NUM_FRAMES, 12.5)
    assert value["bits_per_second"] == 12.5 * 2 * 6 and value["seconds"] == 1.5 and value["output"] == "two.npy"
    assert value["real_time_factor"] == pytest.approx(value["total_seconds"] / 1.5)
    assert np.array_equal(np.load("two.npy"), np.load("all.npy")[:2])
    run("codec", "decode", "two.npy", "-o", "two.wav", "-m", tiny)
    assert run("codec", "decode", "all.npy", "-o", "all.wav", "-m", tiny, "--codebooks", 2).exit_code == 0
    assert Path("two.wav").read_bytes() == Path("all.wav").read_bytes()


def test_standard_input_and_output(run: Run, tiny: Path, recording: Path) -> None:
    encoded = run("codec", "encode", "-", "-o", "-", "-m", tiny, "--json", input=recording.read_bytes())
    assert encoded.exit_code == 0 and json.loads(lines_of(encoded.stderr)[-1])["output"] == "-"
    decoded = run("codec", "decode", "-", "-o", "-", "-m", tiny, "-q", input=encoded.stdout_bytes)
    assert decoded.exit_code == 0 and decoded.stderr == ""
    assert len(read_audio(io.BytesIO(decoded.stdout_bytes))[0]) == round(1.5 * RATE)
    assert_nothing_left(Path())


def test_stereo_silence_and_odd_rates_are_encoded(run: Run, tiny: Path, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "stereo.wav", np.zeros((4410, 2)), 44_100)
    value = json_of(run("codec", "encode", tmp_path / "stereo.wav", "-o", "a.npy", "-m", tiny, "--json").stdout)
    assert (value["seconds"], value["num_frames"]) == (pytest.approx(0.1), 2)


def write_codes(folder: Path) -> None:
    good = torch.randint(0, 64, (4, 10), dtype=torch.int16)
    tensors: Mapping[str, torch.Tensor] = {
        "good": good,
        "large": good.clone().index_put_((torch.tensor(1), torch.tensor(2)), torch.tensor(64, dtype=torch.int16)),
        "negative": good - 64,
        "flat": good[0].clone(),
        "batch": good.repeat(3, 1, 1),
        "tall": good.repeat(2, 1),
        "empty": good[:, :0],
        "float": good.float(),
        "truth": good > 3,
    }
    for name, tensor in tensors.items():
        save_file({"codes": tensor.contiguous()}, folder / f"{name}.safetensors")
    save_file({"tokens": good}, folder / "other.safetensors")
    whole = (folder / "good.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-3])
    (folder / "header.safetensors").write_bytes(whole[:20])
    (folder / "none.safetensors").write_bytes(b"")
    (folder / "text.safetensors").write_text("These are no codes at all.")
    np.save(folder / "float.npy", good.float().numpy())
    np.save(folder / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(folder / "good.npy", good.numpy())
    (folder / "cut.npy").write_bytes((folder / "good.npy").read_bytes()[:-3])


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("large.safetensors", ["0..63", "64"]),
        ("negative.safetensors", ["0..63"]),
        ("flat.safetensors", ["[10]", "[codebooks, frames]"]),
        ("batch.safetensors", ["[3, 4, 10]"]),
        ("tall.safetensors", ["8", "4"]),
        ("empty.safetensors", ["[4, 0]"]),
        ("float.safetensors", ["float32", "whole numbers"]),
        ("truth.safetensors", ["bool", "whole numbers"]),
        ("other.safetensors", ["tokens", "codes"]),
        ("cut.safetensors", ["truncated"]),
        ("header.safetensors", ["truncated"]),
        ("none.safetensors", ["empty"]),
        ("text.safetensors", ["damaged"]),
        ("float.npy", ["float32", "whole numbers"]),
        ("objects.npy", ["Python objects"]),
        ("cut.npy", ["truncated"]),
        ("missing.npy", ["does not exist"]),
        (".", ["folder"]),
    ],
)
def test_bad_codes(run: Run, tiny: Path, tmp_path: Path, file: str, words: list[str]) -> None:
    write_codes(tmp_path)
    assert_refused(run("codec", "decode", tmp_path / file, "-o", "a.wav", "-m", tiny), *words)


def test_bad_codes_are_told_before_a_pipe_gets_sound(run: Run, tiny: Path, tmp_path: Path) -> None:
    codes = torch.zeros(4, 300, dtype=torch.int16)
    codes[3, 299] = 64
    save_file({"codes": codes}, tmp_path / "late.safetensors")
    assert_refused(run("codec", "decode", tmp_path / "late.safetensors", "-o", "-", "-m", tiny), "0..63", "64")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["codec", "encode", "missing.wav", "-o", "a.npy"], ["missing.wav"]),
        (["codec", "encode", "TONE", "-o", "a.txt"], ["a.txt", ".safetensors or .npy"]),
        (["codec", "encode", "TONE", "-o", "nowhere/a.npy"], ["nowhere"]),
        (["codec", "encode", "TONE", "-o", "."], ["."]),
        (["codec", "encode", "TONE", "-o", "/proc/a.npy"], ["/proc/a.npy"]),
        (["codec", "encode", "TONE", "-o", "a.npy", "--codebooks", "5"], ["--codebooks 5", "1 to 4"]),
        (["codec", "encode", "TONE", "-o", "a.npy", "--codebooks", "0"], ["--codebooks"]),
        (["codec", "encode", "TONE", "-o", "FULL.npy"], ["No space left"]),
        (["codec", "decode", "CODES", "-o", "a.txt"], ["a.txt"]),
        (["codec", "decode", "CODES", "-o", "FULL.wav"], ["No space left"]),
        (["codec", "decode", "CODES", "-o", "a.wav", "--codebooks", "9"], ["--codebooks 9", "1 to 4"]),
    ],
)
def test_bad_input(
    run: Run, tiny: Path, tmp_path: Path, recording: Path, arguments: list[str], words: list[str]
) -> None:
    write_codes(tmp_path)
    for suffix in ("npy", "wav"):
        os.symlink("/dev/full", tmp_path / f"full.{suffix}")
    places = {"TONE": str(recording), "CODES": str(tmp_path / "good.npy"), "FULL": str(tmp_path / "full")}
    for name, place in places.items():
        arguments = [argument.replace(name, place) for argument in arguments]
    assert_refused(run(*arguments, "-m", tiny), *words)


def test_a_file_of_codes_is_written_whole_or_not_at_all(
    run: Run, tiny: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(source: object, target: object) -> None:
        raise KeyboardInterrupt

    Path("a.npy").write_text("precious")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        assert run("codec", "encode", recording, "-o", "a.npy", "-m", tiny).exit_code == 130
    assert_nothing_left(Path(), ["a.npy"])
    assert Path("a.npy").read_text() == "precious"


def test_large_codes_need_a_wider_type() -> None:
    codes = torch.tensor([[40_000, 1]])
    for suffix in code_files.SUFFIXES:
        data = code_files.encode_codes(codes, {"num_samples": "7"}, suffix)
        read = code_files.read_codes("the codes", io.BytesIO(data))
        assert torch.equal(read.codes, codes)
        assert read.num_samples == (7 if suffix == ".safetensors" else None)
    with pytest.raises(CodeError, match="the codes is empty"):
        code_files.read_codes("the codes", io.BytesIO(b""))


def test_a_wrong_length_is_not_believed(run: Run, tiny: Path, tmp_path: Path) -> None:
    codes = torch.zeros(4, 3, dtype=torch.int16)
    for length in ("0", "999999", "-5", "x", str(2 * FRAME)):
        (tmp_path / "a.safetensors").write_bytes(
            code_files.encode_codes(codes, {"num_samples": length}, ".safetensors")
        )
        assert run("codec", "decode", tmp_path / "a.safetensors", "-o", "a.wav", "-m", tiny).exit_code == 0
        assert len(read_audio("a.wav")[0]) == 3 * FRAME


def test_the_codec_alone_is_enough(run: Run, tmp_path: Path) -> None:
    from duologue.checkpoints import save_checkpoint

    save_checkpoint(tmp_path / "mimi", "transformers-mimi", codec=tiny_mimi())
    write_audio(tmp_path / "tone.wav", tone(0.2), RATE)
    result = run("codec", "encode", tmp_path / "tone.wav", "-o", "a.npy", "-m", tmp_path / "mimi")
    assert result.exit_code == 0, result.stderr
