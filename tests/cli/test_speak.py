"""`duologue speak`."""

import errno
import io
import json
import os
import struct
from pathlib import Path

import pytest
import torch

from duologue.audio import read_audio, write_audio
from duologue.cli import terminal
from duologue.engine.sampling import SamplingOptions
from tests.cli.conftest import RATE, Asked, Run
from tests.cli.helpers import assert_nothing_left, assert_refused, json_of, lines_of
from tests.engine.builders import tone

CAP = ("--max-seconds", "0.4")
CAPPED = "cut at its cap"


def notes_and_rest(stderr: str) -> tuple[list[str], list[str]]:
    lines = lines_of(stderr)
    return [line for line in lines if line.startswith("note: ")], [
        line for line in lines if not line.startswith("note")
    ]


def test_a_text_becomes_a_file(run: Run, tiny: Path) -> None:
    result = run("speak", "Hello there.", "-m", tiny, *CAP, "--seed", 5)
    assert result.exit_code == 0 and result.stdout == ""
    pcm, rate = read_audio("speech.wav")
    assert (len(pcm), rate) == (round(0.4 * RATE), RATE)
    notes, (line,) = notes_and_rest(result.stderr)
    assert len(notes) == 1 and CAPPED in notes[0] and "--max-seconds" in notes[0]
    for part in (
        "speech.wav: 0.40 s of audio",
        "real-time factor",
        "first audio after",
        "seed 5",
        "stopped at the cap",
    ):
        assert part in line
    assert_nothing_left(Path(), ["speech.wav"])


def test_json(run: Run, tiny: Path) -> None:
    result = run("speak", "Hello.", "-m", tiny, *CAP, "--seed", 5, "--json", "--voice", "ada", "--speaker", 3)
    value = json_of(result.stdout)
    assert value["output"] == "speech.wav" and value["text"] == "Hello." and value["sample_rate"] == RATE
    assert (value["seed"], value["speaker"], value["voice"]) == (5, 3, "ada")
    assert value["seconds"] == pytest.approx(0.4) and value["num_frames"] == 5 and value["num_evicted"] == 0
    assert value["stop_reason"] == "cap" and value["first_audio_seconds"] > 0
    assert value["real_time_factor"] == pytest.approx(value["total_seconds"] / value["seconds"])


def test_quiet(run: Run, tiny: Path) -> None:
    result = run("speak", "Hello.", "-m", tiny, *CAP, "-q")
    assert notes_and_rest(result.stderr)[1] == [] and result.stdout == ""


def test_options_reach_the_generator(run: Run, tiny: Path, asked: list[Asked]) -> None:
    assert run("speak", "It is 5.", "-m", tiny, *CAP).exit_code == 0
    options = ("--seed", 1, "--temperature", 0.5, "--topk", 7, "--voice", "bob", "--speaker", 2, "--no-normalize")
    assert run("speak", "It is 5.", "-m", tiny, *CAP, *options, "--device", "cpu", "--offline").exit_code == 0
    default, chosen = asked
    assert default == Asked("It is 5.", 0, [], {}, True, SamplingOptions(0.9, 50, None), 400.0, None)
    assert chosen == Asked("It is 5.", 2, [], {2: "bob"}, True, SamplingOptions(0.5, 7, 1), 400.0, False)
    first = read_audio("speech.wav")[0]
    run("speak", "It is 5.", "-m", tiny, *CAP, *options, "--threads", 1)
    assert torch.equal(first, read_audio("speech.wav")[0])


def test_standard_input_and_output(run: Run, tiny: Path) -> None:
    result = run("speak", "-", "-o", "-", "-m", tiny, *CAP, "--seed", 3, input="\ufeffHello\nthere.\n".encode())
    assert result.exit_code == 0
    assert "standard output: 0.40 s" in result.stderr
    pcm, _ = read_audio(io.BytesIO(result.stdout_bytes))
    run("speak", "Hello\nthere.\n", "-m", tiny, *CAP, "--seed", 3)
    assert torch.equal(pcm, read_audio("speech.wav")[0])
    result = run("speak", "-", "-o", "-", "-m", tiny, *CAP, "--json", input="Hello")
    assert result.stdout_bytes[:4] == b"RIFF"
    (line,) = notes_and_rest(result.stderr)[1]
    assert json.loads(line)["output"] == "-"


def test_a_pipe_gets_each_chunk_at_once(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    written = terminal.StandardOutput.write

    def write(self: terminal.StandardOutput, data: bytes) -> int:
        sizes.append(len(data))
        return written(self, data)

    monkeypatch.setattr(terminal.StandardOutput, "write", write)
    monkeypatch.setattr(terminal.StandardOutput, "seekable", lambda self: False)
    result = run("speak", "Hello", "-o", "-", "-m", tiny, *CAP)
    frame = 2 * RATE * 8 // 100
    assert sizes == [44, *[frame] * 5]
    assert struct.unpack_from("<I", result.stdout_bytes, 40) == (0xFFFFFFFF,)  # a length that says: until the end


def test_other_formats_and_an_existing_file(run: Run, tiny: Path) -> None:
    Path("a.flac").write_text("old")
    assert run("speak", "Hello", "-o", "a.flac", "-m", tiny, *CAP).exit_code == 0
    assert len(read_audio("a.flac")[0]) == round(0.4 * RATE)
    assert_nothing_left(Path(), ["a.flac"])


def test_silence_is_a_result(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duologue.engine.batch.is_end", lambda frames: torch.ones(len(frames), dtype=torch.bool))
    result = run("speak", "Hello", "-m", tiny)
    assert result.exit_code == 0 and "the model said nothing" in result.stderr
    assert "stopped at the cap" not in result.stderr
    value = json_of(run("speak", "Hello", "-m", tiny, "--json").stdout)
    assert (value["seconds"], value["real_time_factor"], value["first_audio_seconds"]) == (0, None, None)
    assert value["stop_reason"] == "end"


def write_context(recording: Path) -> None:
    write_audio("said.wav", tone(0.5), RATE)
    Path("talk.yaml").write_text(
        "voices: {Bob: bob, Ada: {audio: " + str(recording) + ", text: what is said}}\n"
        "turns:\n- {speaker: Ada, text: Hi., audio: said.wav}\n- {speaker: Bob, text: Well.}\n"
    )


def test_a_context(run: Run, tiny: Path, recording: Path, asked: list[Asked]) -> None:
    write_context(recording)
    said = [(0, "Hi.", 7), (1, "Well.", None)]
    for arguments, speaker, voices in (
        (["--speaker", "Bob"], 1, {0: "prompt", 1: "bob"}),
        (["--speaker", "1"], 1, {0: "prompt", 1: "bob"}),
        (["--speaker", "Ada"], 0, {0: "prompt", 1: "bob"}),
        (["--speaker", "Bob", "--voice", "ada"], 1, {0: "prompt", 1: "ada"}),
        (["--speaker", "2"], 2, {0: "prompt", 1: "bob", 2: "ada"}),
    ):
        result = run("speak", "Yes.", "-m", tiny, *CAP, "--seed", 1, "--context", "talk.yaml", *arguments)
        assert result.exit_code == 0, result.stderr
        call = asked.pop()
        assert (call.text, call.speaker, call.context, call.voices) == ("Yes.", speaker, said, voices)
        assert call.sampling.seed == 1 and call.max_ms == 400.0
    parts = [{"type": "text", "text": "Hi."}, {"type": "audio", "path": "said.wav"}]
    Path("talk.json").write_text(json.dumps([{"role": "0", "content": parts}]))
    assert run("speak", "Yes.", "-m", tiny, *CAP, "--context", "talk.json", "--speaker", 1).exit_code == 0
    assert asked[-1].context == [(0, "Hi.", 7)]


def test_the_voices_of_a_contexts_turns(run: Run, tiny: Path, asked: list[Asked]) -> None:
    Path("talk.yaml").write_text(
        "voices: {Ada: ada}\nturns:\n"
        "- {speaker: Bob, text: Hi., voice: bob}\n- {speaker: Ada, text: Yes., voice: bob}\n"
    )
    assert run("speak", "Yes.", "-m", tiny, *CAP, "--context", "talk.yaml", "--speaker", "Bob").exit_code == 0
    assert asked[-1].voices == {0: "bob", 1: "ada"}


def test_a_context_longer_than_the_model_is_cut_and_told(run: Run, tiny: Path) -> None:
    Path("long.txt").write_text("".join(f"A: this is the line of number {n} in a long talk\n" for n in range(40)))
    value = run("speak", "Yes.", "-m", tiny, *CAP, "--context", "long.txt", "--json")
    assert value.exit_code == 0 and "were left out" in value.stderr
    assert 0 < json_of(value.stdout)["num_evicted"] < 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["", *CAP], ["empty"]),
        (["  \n", *CAP], ["empty"]),
        (["...", *CAP], ["'...'"]),
        (["hello \udcff"], ["UTF-8"]),
        (["a" * 5000], ["5000 characters"]),
        (["hello", "--voice", "nobody"], ["'nobody'", "ada, bob"]),
        (["hello", "--voice", "../ada"], ["voice name"]),
        (["hello", "--speaker", "-1"], ["--speaker -1"]),
        (["hello", "--speaker", "Ada"], ["--speaker Ada", "--context"]),
        (["hello", "--temperature", "nan"], ["temperature nan"]),
        (["hello", "--temperature", "-0.1"], ["temperature -0.1"]),
        (["hello", "--temperature", "inf"], ["temperature inf"]),
        (["hello", "--topk", "0"], ["topk 0"]),
        (["hello", "--seed", "-1"], ["seed -1"]),
        (["hello", "--seed", str(2**64)], ["seed"]),
        (["hello", "--max-seconds", "nan"], ["--max-seconds nan"]),
        (["hello", "--max-seconds", "0"], ["--max-seconds 0"]),
        (["hello", "--max-seconds", "1e9"], ["--max-seconds"]),
        (["hello", "--device", "abacus"], ["'abacus'"]),
        (["hello", "-o", "nowhere/x.wav"], ["nowhere"]),
        (["hello", "-o", "/proc/x.wav"], ["/proc/x.wav"]),
        (["hello", "-o", "."], ["suffix"]),
        (["hello", "-o", "x"], ["suffix"]),
        (["hello", "-o", "x.docx"], ["suffix"]),
        (["hello", "--context", "missing.txt"], ["missing.txt does not exist"]),
        (["hello", "--context", "."], ["folder"]),
    ],
)
def test_bad_input(run: Run, tiny: Path, arguments: list[str], words: list[str]) -> None:
    assert_refused(run("speak", *arguments, "-m", tiny), *words)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["empty"]),
        (b"caf\xe9", ["standard input", "0xe9", "offset 3"]),
        (b"a" * (5 << 20), ["4 MiB"]),
    ],
    ids=["empty", "latin-1", "huge"],
)
def test_bad_standard_input(run: Run, tiny: Path, data: bytes, words: list[str]) -> None:
    assert_refused(run("speak", "-", "-m", tiny, input=data), *words)


def test_one_standard_input_is_not_enough_for_two(run: Run) -> None:
    assert_refused(run("speak", "-", "--context", "-", input="A: Hi."), "one standard input")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (b"A: hello\nno speaker here\n", ["talk.txt", "line 2"]),
        (b"", ["talk.txt", "empty"]),
        (b"\xff\xfe", ["talk.txt", "UTF-8"]),
        (b"turns:\n- {speaker: A, text: hello, audio: gone.wav}\n", ["talk.txt, line 2", "gone.wav"]),
        (b"turns:\n- {speaker: A, text: hello, audio: silence.wav}\n", ["talk.txt, line 2", "silent"]),
        (b'[{"speaker": "A", "text": "hello", "audio": [0.1, 0.2]}]', ["talk.txt, turn 1", "list of samples"]),
        (b"voices: {A: {audio: gone.wav, text: hm}}\nturns: [{speaker: A, text: hi}]\n", ["voice of A", "gone.wav"]),
        (b"voices: {A: {audio: silence.wav, text: hm}}\nturns: [{speaker: A, text: hi}]\n", ["voice of A", "silent"]),
        (b"voices: {A: nobody}\nturns: [{speaker: A, text: hi}]\n", ["'nobody'"]),
    ],
)
def test_bad_context(run: Run, tiny: Path, tmp_path: Path, script: bytes, words: list[str]) -> None:
    write_audio(tmp_path / "silence.wav", torch.zeros(RATE), RATE)
    (tmp_path / "talk.txt").write_bytes(script)
    assert_refused(run("speak", "hello", "-m", tiny, "--context", tmp_path / "talk.txt"), *words)


def test_a_full_disk(run: Run, tiny: Path, tmp_path: Path) -> None:
    full = tmp_path / "full.wav"
    os.symlink("/dev/full", full)
    result = run("speak", "hello", "-m", tiny, *CAP, "-o", full)
    assert_refused(result, "full.wav", "No space left")


def test_a_full_disk_behind_standard_output(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    output = terminal.StandardOutput.__new__(terminal.StandardOutput)
    output._file = io.BufferedWriter(FullDisk())
    monkeypatch.setattr(terminal, "StandardOutput", lambda: output)
    assert_refused(run("speak", "Hello.", "-o", "-", "-m", tiny, *CAP), "standard output", "No space left")
    output._file = io.BytesIO()  # or the buffer would try again when it is collected


def test_a_file_stays_as_it_was_when_speaking_fails(run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from duologue.codec.mimi import Mimi

    Path("speech.wav").write_text("precious")
    calls = 0
    decode = Mimi.decode_latent

    def fail(self: Mimi, *arguments: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return decode(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Mimi, "decode_latent", fail)
    result = run("speak", "hello", "-m", tiny, *CAP)
    assert result.exit_code == 130 and calls == 3
    assert_nothing_left(Path(), ["speech.wav"])
    assert Path("speech.wav").read_text() == "precious"


def test_a_model_that_is_not_there(run: Run) -> None:
    assert_refused(run("speak", "hello", "-m", "no/such/model"), "no/such/model")
    assert_refused(run("speak", "hello", "-m", "someone/something", "--offline"), "someone/something")


def break_checkpoint(folder: Path, how: str) -> None:
    from safetensors.torch import load_file, save_file

    model = folder / "model.safetensors"
    tensors = load_file(model)
    if how == "truncated":
        model.write_bytes(model.read_bytes()[:-100])
    elif how == "pickle":
        model.unlink()
        torch.save(tensors, folder / "model.pt")
    elif how == "config":
        config = json.loads((folder / "config.json").read_text())
        config["surprise"] = 1
        (folder / "config.json").write_text(json.dumps(config))
    else:
        name = sorted(tensors)[0]
        if how == "missing":
            del tensors[name]
        elif how == "extra":
            tensors["surprise"] = torch.zeros(1)
        else:
            tensors[name] = torch.zeros(3)
        save_file(tensors, model)


@pytest.mark.parametrize("how", ["truncated", "pickle", "config", "missing", "extra", "misshapen"])
def test_a_broken_checkpoint(run: Run, tiny: Path, tmp_path: Path, how: str) -> None:
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(tiny, folder)
    break_checkpoint(folder, how)
    assert_refused(run("speak", "hello", "-m", folder), str(folder))
