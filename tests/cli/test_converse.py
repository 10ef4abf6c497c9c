"""`duologue converse`."""

import io
import json
from pathlib import Path

import pytest
import torch

from duologue.audio import read_audio, write_audio
from duologue.cli import scripts
from duologue.engine.sampling import SamplingOptions
from duologue.errors import OptionError
from tests.cli.conftest import RATE, Asked, Run
from tests.cli.helpers import assert_nothing_left, assert_refused, json_of, lines_of
from tests.engine.builders import tone

CAP = ("--max-seconds", "0.24")
TURN = round(0.24 * RATE)
HELLO = "A: Hey, how are you?\n\n# a remark\nB: Pretty good.\nA: Great!\n"


@pytest.fixture
def hello() -> str:
    Path("hello.txt").write_text(HELLO)
    return "hello.txt"


def test_a_script_becomes_a_recording(run: Run, tiny: Path, hello: str) -> None:
    result = run("converse", hello, "-m", tiny, *CAP, "--pause", 0.5)
    assert result.exit_code == 0 and result.stdout == ""
    pcm, rate = read_audio("conversation.wav")
    assert (len(pcm), rate) == (3 * TURN + 2 * RATE // 2, RATE)
    for index in range(2):
        start = TURN + index * (TURN + RATE // 2)
        assert not pcm[start : start + RATE // 2].any()
        assert pcm[start - TURN : start].any()
    lines = [line for line in lines_of(result.stderr) if not line.startswith("note")]
    assert [line.split(" (")[0] for line in lines[:3]] == [
        "  0.24 s  A: Hey, how are you?",
        "  0.24 s  B: Pretty good.",
        "  0.24 s  A: Great!",
    ]
    assert len(lines) == 4
    for part in ("conversation.wav: 0.72 s", "1.72 s with pauses", "real-time factor", "cap in turns 1, 2, 3"):
        assert part in lines[3]
    assert_nothing_left(Path(), ["conversation.wav", hello])


def test_the_example(run: Run, tiny: Path, repository: Path) -> None:
    """What `make demo` runs, with a model that only babbles."""
    result = run("converse", repository / "examples" / "hello.txt", "-o", "conversation.wav", "-m", tiny, *CAP)
    assert result.exit_code == 0
    assert len(read_audio("conversation.wav")[0]) == 4 * TURN + 3 * RATE // 4


def test_turns_follow_from_those_before(run: Run, tiny: Path, hello: str, asked: list[Asked]) -> None:
    result = run("converse", hello, "-m", tiny, *CAP, "--seed", 4, "--topk", 9, "--no-normalize")
    assert result.exit_code == 0, result.stderr
    said = [(0, "Hey, how are you?", 3), (1, "Pretty good.", 3), (0, "Great!", 3)]
    assert [(call.speaker, call.text) for call in asked] == [(speaker, text) for speaker, text, _ in said]
    assert [call.context for call in asked] == [said[:number] for number in range(3)]
    assert [call.sampling for call in asked] == [SamplingOptions(0.9, 9, seed) for seed in (4, 5, 6)]
    assert asked[2].voices == {0: "ada", 1: "bob"} and {call.normalize for call in asked} == {False}


def test_json_and_turn_files(run: Run, tiny: Path, hello: str) -> None:
    result = run("converse", hello, "-m", tiny, *CAP, "--json", "--turns-dir", "turns", "--seed", 7)
    value = json_of(result.stdout)
    assert value["output"] == "conversation.wav" and value["sample_rate"] == RATE
    assert value["seconds"] == pytest.approx(0.72 + 2 * 0.25) and value["spoken_seconds"] == pytest.approx(0.72)
    assert value["first_audio_seconds"] > 0
    assert value["real_time_factor"] == pytest.approx(value["total_seconds"] / value["spoken_seconds"])
    turns = value["turns"]
    assert [(turn["speaker"], turn["speaker_id"], turn["voice"]) for turn in turns] == [
        ("A", 0, "ada"),
        ("B", 1, "bob"),
        ("A", 0, "ada"),
    ]
    assert [turn["seed"] for turn in turns] == [7, 8, 9]
    assert [turn["output"] for turn in turns] == ["turns/01-A.wav", "turns/02-B.wav", "turns/03-A.wav"]
    whole = read_audio("conversation.wav")[0]
    parts = [read_audio(turn["output"])[0] for turn in turns]
    silence = torch.zeros(RATE // 4)
    assert torch.equal(whole, torch.cat([parts[0], silence, parts[1], silence, parts[2]]))
    assert_nothing_left(Path("turns"), ["01-A.wav", "02-B.wav", "03-A.wav"])


def test_standard_input_and_output(run: Run, tiny: Path) -> None:
    result = run("converse", "-", "-o", "-", "-m", tiny, *CAP, "-q", input=HELLO)
    assert result.exit_code == 0
    assert len(read_audio(io.BytesIO(result.stdout_bytes))[0]) == 3 * TURN + 2 * RATE // 4
    assert all(line.startswith("note: ") for line in lines_of(result.stderr))


def voices_of(run: Run, tiny: Path, script: str, *arguments: str) -> list[str]:
    Path("script.yaml").write_text(script)
    result = run("converse", "script.yaml", "-m", tiny, *CAP, "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return [turn["voice"] for turn in json_of(result.stdout)["turns"]]


def test_who_speaks_in_which_voice(run: Run, tiny: Path, recording: Path) -> None:
    turns = "turns: [{speaker: A, text: Hi.}, {speaker: B, text: Hm.}]\n"
    assert voices_of(run, tiny, turns) == ["ada", "bob"]
    assert voices_of(run, tiny, "voices: {A: bob}\n" + turns) == ["bob", "ada"]
    assert voices_of(run, tiny, "voices: {A: bob}\n" + turns, "--voice", "A=ada", "-v", "B = ada") == ["ada", "ada"]
    assert voices_of(run, tiny, "voices: {B: {audio: %s, text: Hi.}}\n" % recording + turns) == ["ada", "prompt"]  # noqa: UP031
    own = "turns: [{speaker: A, text: Hi.}, {speaker: A, text: Hm., voice: bob}, {speaker: A, text: Oh.}]\n"
    assert voices_of(run, tiny, own) == ["ada", "bob", "ada"]
    assert voices_of(run, tiny, own, "--voice", "A=ada") == ["ada", "ada", "ada"]
    first = "turns: [{speaker: A, text: Hi., voice: bob}, {speaker: A, text: Hm.}]\n"
    assert voices_of(run, tiny, first) == ["bob", "bob"]


def test_options_of_a_turn(run: Run, tiny: Path) -> None:
    Path("script.json").write_text(
        json.dumps(
            [{"speaker": "A", "text": "Hi."}, {"speaker": "B", "text": "Ho.", "max_audio_length_ms": 160, "seed": 3}]
        )
    )
    value = json_of(run("converse", "script.json", "-m", tiny, *CAP, "--json").stdout)
    assert [turn["num_frames"] for turn in value["turns"]] == [3, 2]
    assert value["turns"][1]["seed"] == 3


def test_a_turn_with_a_recording_is_played(run: Run, tiny: Path) -> None:
    write_audio("said.wav", tone(0.5, sample_rate=16_000), 16_000)
    Path("script.yaml").write_text(
        "turns: [{speaker: A, text: Hi., audio: said.wav}, {speaker: B, text: Ho.}]", encoding="utf-8"
    )
    result = run("converse", "script.yaml", "-m", tiny, *CAP, "--pause", 0, "--turns-dir", "turns")
    assert result.exit_code == 0 and "0.50 s  A: Hi. (played)" in result.stderr
    pcm, _ = read_audio("conversation.wav")
    assert len(pcm) == RATE // 2 + TURN
    expected, _ = read_audio("said.wav", RATE)
    assert torch.allclose(pcm[: RATE // 2], expected, atol=1e-3)
    value = json_of(run("converse", "script.yaml", "-m", tiny, *CAP, "--json").stdout)
    assert [turn["played"] for turn in value["turns"]] == [True, False]
    assert value["turns"][0]["seconds"] == pytest.approx(0.5) and value["spoken_seconds"] == pytest.approx(0.24)


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("A: Hi.\nwhat\n", [], ["hello.txt, line 2"]),
        ("", [], ["hello.txt", "empty"]),
        ("# nothing\n", [], ["empty"]),
        ("A: Hi.\n\nB: ...\n", [], ["line 3", "'...'"]),
        ("A: Hi.\n", ["--voice", "B=ada"], ["no B", "A"]),
        ("A: Hi.\n", ["--voice", "ada"], ["--voice ada", "A=NAME"]),
        ("A: Hi.\n", ["--voice", "A=nobody"], ["'nobody'", "ada, bob"]),
        ("A: Hi.\n", ["--voice", "A=ada", "--voice", "A=bob"], ["two voices"]),
        ("A: Hi.\n", ["--pause", "nan"], ["--pause nan"]),
        ("A: Hi.\n", ["--pause", "-1"], ["--pause -1"]),
        ("A: Hi.\n", ["--temperature", "nan"], ["temperature"]),
        ("A: Hi.\n", ["--seed", "-1"], ["seed -1"]),
        ("A: Hi.\n", ["--turns-dir", "hello.txt/turns"], ["hello.txt/turns"]),
        ("A: Hi.\n", ["--turns-dir", "hello.txt"], ["hello.txt"]),
        ("A: Hi.\n", ["-o", "nowhere/x.wav"], ["nowhere"]),
        ("turns:\n- {speaker: A, text: Hi.}\n- {speaker: A, text: Ho., temperature: -3}\n", [], ["line 3", "-3"]),
        ("turns:\n- {speaker: A, text: Hi.}\n- {speaker: A, text: Ho., topk: 1.5}\n", [], ["line 3", "topk"]),
        ("turns:\n- {speaker: A, text: Hi.}\n- {speaker: A, text: Ho., voice: nobody}\n", [], ["'nobody'"]),
        ("turns:\n- {speaker: A, text: Hi., audio: gone.wav}\n", [], ["line 2", "gone.wav"]),
        ("turns:\n- {speaker: A, text: Hi., volume: 11}\n", [], ["line 2", "volume"]),
    ],
)
def test_bad_input(run: Run, tiny: Path, tmp_path: Path, script: str, arguments: list[str], words: list[str]) -> None:
    path = tmp_path / "hello.txt"
    path.write_text(script)
    arguments = [argument.replace("hello.txt", str(path)) for argument in arguments]
    assert_refused(run("converse", path, "-m", tiny, *arguments), *words)


def test_an_interruption_leaves_nothing(run: Run, tiny: Path, hello: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from duologue.engine.conversation import Conversation

    calls = 0
    stream_say = Conversation.stream_say

    def interrupted(self: Conversation, *arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return stream_say(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Conversation, "stream_say", interrupted)
    Path("kept").mkdir()
    for folder in ("turns", "kept"):
        calls = 0
        result = run("converse", hello, "-m", tiny, *CAP, "--turns-dir", folder)
        assert result.exit_code == 130 and lines_of(result.stderr)[-1] == "interrupted"
        assert_nothing_left(Path(), [hello, "kept"])
        assert_nothing_left(Path("kept"))


def test_voice_options() -> None:
    assert scripts.parse_voice_options(["A=x", "The Host = y=z", "A=x"], ["A", "The Host"]) == {
        "A": "x",
        "The Host": "y=z",
    }
    with pytest.raises(OptionError):
        scripts.parse_voice_options(["=x"], ["A"])


def test_file_names_of_turns(run: Run, tiny: Path) -> None:
    Path("script.yaml").write_text('turns: [{speaker: "Dr. Ü/../x", text: Hi.}]', encoding="utf-8")
    assert run("converse", "script.yaml", "-m", tiny, *CAP, "--turns-dir", "turns").exit_code == 0
    assert_nothing_left(Path("turns"), ["01-Dr__Ü____x.wav"])
