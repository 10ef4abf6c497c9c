"""Conversation scripts in every form, and every way to get one wrong."""

import json
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from duologue.errors import ScriptError
from duologue.text import Prompt, Script, Turn, assign_speakers, parse_messages, parse_script

HELLO = """\
# four lines
A: Hey, how are you doing?
B: Pretty good, pretty good. How about you?

  A :  I'm great: so happy!
B:Me too!
"""


def test_plain_text() -> None:
    assert parse_script(HELLO) == Script(
        (
            Turn("A", "Hey, how are you doing?", line=2),
            Turn("B", "Pretty good, pretty good. How about you?", line=3),
            Turn("A", "I'm great: so happy!", line=5),
            Turn("B", "Me too!", line=6),
        )
    )


def test_yaml_with_everything() -> None:
    text = """
voices:
  A: maya
  Bob Smith: {audio: bob.wav, text: What he says.}
turns:
  - {speaker: A, text: "Hey!", temperature: 0.7, topk: 40, seed: 3, max_audio_length_ms: 5000}
  - speaker: Bob Smith
    text: yes
    voice: other
    audio: said/bob.wav
  - {speaker: 0, text: 3:45}
"""
    script = parse_script(text)
    assert script.voices == {"A": "maya", "Bob Smith": Prompt("bob.wav", "What he says.")}
    options = {"temperature": 0.7, "topk": 40, "seed": 3, "max_audio_length_ms": 5000.0}
    assert script.turns == (
        Turn("A", "Hey!", options=options, line=6),
        Turn("Bob Smith", "yes", voice="other", audio="said/bob.wav", line=7),
        Turn("0", "3:45", line=11),
    )
    assert type(script.turns[0].options["topk"]) is int


@pytest.mark.parametrize(
    "text", ["- {speaker: A, text: Hi}", "turns: [{speaker: A, text: Hi}]", "---\n- speaker: A\n  text: Hi"]
)
def test_yaml_is_recognised(text: str) -> None:
    assert [(turn.speaker, turn.text) for turn in parse_script(text).turns] == [("A", "Hi")]


def test_json() -> None:
    turns: list[dict[str, Any]] = [{"speaker": "A", "text": "Hi", "temperature": 0.5}, {"speaker": 1, "text": "Ho"}]
    expected = (Turn("A", "Hi", options={"temperature": 0.5}), Turn("1", "Ho"))
    assert parse_script(json.dumps(turns)).turns == expected
    assert parse_script(json.dumps({"turns": turns, "voices": {"A": "maya"}}, indent=2)).voices == {"A": "maya"}


MESSAGES: list[dict[str, Any]] = [
    {"role": "0", "content": [{"type": "text", "text": "Hello."}, {"type": "audio", "path": "a.wav"}]},
    {"role": 1, "content": "Hi there."},
    {"role": "0", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]},
]


def test_messages() -> None:
    expected = [Turn("0", "Hello.", audio="a.wav"), Turn("1", "Hi there."), Turn("0", "One. Two.")]
    assert parse_messages(MESSAGES) == expected
    assert list(parse_script(json.dumps(MESSAGES)).turns) == expected
    assert [turn.line for turn in parse_script(yaml.safe_dump(MESSAGES), "yaml").turns] == [1, 7, 9]


@pytest.mark.parametrize("key", ["path", "audio"])
def test_message_arrays_are_kept_as_given(key: str) -> None:
    array = np.zeros(10, dtype=np.float32)
    message = {"role": "0", "content": [{"type": "text", "text": "Hi"}, {"type": "audio", key: array}]}
    assert parse_messages([message])[0].audio is array


BAD_LINES = [
    "no colon here",
    ": no speaker",
    "A:",
    "A:   ",
    f"{'x' * 41}: too long",
    "http://example.com",
    "10:30 we met",
    "A\x07B: bell",
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_malformed_line_is_named(line: str) -> None:
    with pytest.raises(ScriptError, match=r"^line 3: ") as caught:
        parse_script(f"A: Hi\n# comment\n{line}\nB: Ho")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "   \n\n", "# comment\n", "[]", "{}", "turns: []", "turns:", "---", "\ufeff"])
def test_empty_scripts(text: str) -> None:
    with pytest.raises(ScriptError, match=r"empty|no key 'turns'"):
        parse_script(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {speaker: A, text: Hi}\n- {speaker: A, txt: Hi}", r"^line 2: unknown key 'txt'"),
        ("- {speaker: A, text: Hi, temperature: hot}", "^line 1: temperature is 'hot'; expected a number"),
        ("- {speaker: A, text: Hi, temperature: nan}", "temperature is 'nan'"),
        ("- {speaker: A, text: Hi, topk: 1.5}", "topk is '1.5'; expected a whole number"),
        ("- {speaker: A}", "no 'text'"),
        ("- {text: Hi}", "no 'speaker'"),
        ("- {speaker: A, text: ''}", "the text is empty"),
        ("- {speaker: A, text: [1]}", "the text is a list"),
        ("- {speaker: '', text: Hi}", "the speaker is empty"),
        ("- {speaker: A, text: Hi, voice: [x]}", "'voice' is a list"),
        ("- {speaker: A, text: Hi, audio: 'https://x.org/a.wav'}", "download it"),
        ("- {speaker: A, text: Hi, audio: ''}", "the audio is empty"),
        ("- A", "a turn is 'A'"),
        ("turns: {a: b}", "holds a mapping; expected a list of turns"),
        ("turns: [{speaker: A, text: Hi}]\nvoice: {A: x}", "unknown key 'voice'"),
        ("voices: {B: x}\nturns: [{speaker: A, text: Hi}]", "'B', who has no turn"),
        ("voices: {A: }\nturns: [{speaker: A, text: Hi}]", "voice of 'A' is empty"),
        ("voices: [A]\nturns: [{speaker: A, text: Hi}]", "'voices' holds a list"),
        ("voices: {A: {audio: a.wav}}\nturns: [{speaker: A, text: Hi}]", "voice of 'A': the text is empty"),
        ("turns:\n  - speaker: A\n    text: Hi\n    text: Ho", "^line 4: the key 'text' is given twice"),
        ("turns:\n  - {speaker: A, text: Hi\n  - b", "^line 3: not valid YAML"),
        ("- &a [*a]", "line 1|not valid YAML|a turn is a list"),
        ("- {speaker: A, text: Hi}\n---\n- b", "not valid YAML"),
        ("- \x00", "^line 1: not valid YAML"),
        ("[" * 5_000, "nested too deeply|not valid"),
        ('[{"speaker": "A", "text": "Hi",]', "^line 1: not valid JSON"),
        ('[{"speaker": "A", "speaker": "B", "text": "Hi"}]', "'speaker' is given twice"),
        ('[{"speaker": "A", "text": "Hi", "topk": true}]', "topk is 'True'"),
        ('[{"speaker": "A", "text": "Hi", "temperature": NaN}]', "temperature is 'nan'"),
        ('[{"speaker": true, "text": "Hi"}]', "the speaker is True"),
        ('[{"speaker": -1, "text": "Hi"}]', "the speaker is -1"),
        ('[{"speaker": "A", "text": ' + "9" * 5_000 + "}]", "not valid JSON|the text is"),
    ],
)
def test_bad_yaml_and_json(text: str, message: str) -> None:
    with pytest.raises(ScriptError, match=message) as caught:
        parse_script(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ("hello", "messages are 'hello'"),
        ({"role": "0"}, "messages are a mapping"),
        ([1], "message 1 is 1"),
        ([{"role": "0"}], "message 1 has no 'content'"),
        ([{"content": "Hi"}], "message 1 has no 'role'"),
        ([{"role": "0", "content": "Hi", "name": "x"}], "unknown key 'name'"),
        ([{"role": "0", "content": "Hi"}, {"role": "0", "content": 3}], "message 2: 'content' is 3"),
        ([{"role": "0", "content": []}], "has no text"),
        ([{"role": "0", "content": [{"type": "audio", "path": "a.wav"}]}], "has no text"),
        ([{"role": "0", "content": [{"type": "image"}]}], "expected one with 'type' text or audio"),
        ([{"role": "0", "content": ["Hi"]}], "a part is 'Hi'"),
        ([{"role": "0", "content": [{"type": "audio", "url": "http://x/a.wav"}]}], "download it"),
        ([{"role": "0", "content": [{"type": "audio", "path": "http://x/a.wav"}]}], "download it"),
        ([{"role": "0", "content": [{"type": "audio"}]}], "needs either 'path' or 'audio'"),
        ([{"role": "0", "content": [{"type": "audio", "path": "a", "audio": [0.0]}]}], "needs either"),
        ([{"role": "0", "content": [{"type": "text", "text": "Hi", "x": 1}]}], "unknown key 'x'"),
        (
            [{"role": "0", "content": [{"type": "text", "text": "Hi"}, *[{"type": "audio", "path": "a"}] * 2]}],
            "2 audio parts",
        ),
    ],
)
def test_bad_messages(messages: Any, text: str) -> None:
    with pytest.raises(ScriptError, match=text):
        parse_messages(messages)


def test_unknown_format() -> None:
    with pytest.raises(ScriptError, match="unknown script format 'xml'"):
        parse_script("A: Hi", "xml")


def test_yaml_builds_no_objects() -> None:
    with pytest.raises(ScriptError):
        parse_script("- !!python/object/apply:os.system ['true']")


def test_assign_speakers() -> None:
    assert assign_speakers(["A", "1", "B", "A", "0", "07"]) == {"A": 2, "1": 1, "B": 3, "0": 0, "07": 4}
    assert assign_speakers([Turn("B", "x"), Turn("A", "y")]) == {"B": 0, "A": 1}
    assert assign_speakers([]) == {}


@given(st.lists(st.one_of(st.text(max_size=5), st.integers(0, 9).map(str))))
def test_assigned_ids_are_distinct(names: list[str]) -> None:
    ids = assign_speakers(names)
    assert list(ids) == list(dict.fromkeys(names))
    assert len(set(ids.values())) == len(ids)
    assert all(ids[name] == int(name) for name in names if name in "0123456789" and name)


@given(st.text(), st.sampled_from([None, "text", "yaml", "json"]))
@example("- !!binary 'x", None)
@example("? [a]\n: b", "yaml")
@example("turns: {? {a: b} : c}", "yaml")
@example("- {<<: [1]}", "yaml")
@example("%YAML 9.9\n---\na", None)
@example("- 2026-99-99", None)
@example("[{]", None)
@example("turns: [" + "{speaker: A, text: B}," * 3 + "]", None)
def test_only_script_errors_come_out(text: str, format: str | None) -> None:
    try:
        script = parse_script(text, format)
    except ScriptError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert script.turns and all(turn.speaker and turn.text for turn in script.turns)


keys = st.sampled_from(["turns", "voices", "speaker", "text", "role", "content", "type", "audio", "seed"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["turns", "voices", "speaker", "text", "role", "content", "type", "audio", "seed"]), inner
        )
    ),
    max_leaves=15,
)


@given(json_values)
def test_only_script_errors_come_out_of_data(data: Any) -> None:
    for parse in (lambda: parse_script(json.dumps(data), "json"), lambda: parse_messages(data)):
        try:
            parse()
        except ScriptError as error:
            assert "\n" not in str(error)


names = (
    st.text(st.characters(categories=("L", "N"), include_characters=" -_."), min_size=1, max_size=40)
    .map(lambda name: name.strip())
    .filter(lambda name: bool(name) and not name.startswith(("turns", "voices", "-")))
)
sayings = (
    st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1, max_size=60)
    .map(lambda text: text.strip())
    .filter(bool)
)


@given(st.lists(st.tuples(names, sayings), min_size=1, max_size=6))
def test_plain_text_round_trip(pairs: list[tuple[str, str]]) -> None:
    text = "\n".join(f"{name}: {saying}" for name, saying in pairs)
    script = parse_script(text, "text")
    assert [(turn.speaker, turn.text) for turn in script.turns] == pairs
    assert [turn.line for turn in script.turns] == list(range(1, len(pairs) + 1))


@given(
    st.lists(
        st.fixed_dictionaries(
            {"speaker": names, "text": sayings},
            optional={"voice": names, "temperature": st.floats(0, 2), "topk": st.integers(1, 99), "audio": names},
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["yaml", "json"]),
)
def test_structured_round_trip(turns: list[dict[str, Any]], format: str) -> None:
    data = {"turns": turns, "voices": {turns[0]["speaker"]: "maya"}}
    text = json.dumps(data) if format == "json" else yaml.safe_dump(data, allow_unicode=True)
    for hint in (format, None):
        script = parse_script(text, hint)
        assert script.voices == data["voices"]
        for given_turn, turn in zip(turns, script.turns, strict=True):
            read = {
                "speaker": turn.speaker,
                "text": turn.text,
                "voice": turn.voice,
                "audio": turn.audio,
                **turn.options,
            }
            assert {key: value for key, value in read.items() if value is not None} == given_turn
