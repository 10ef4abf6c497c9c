"""Every layout that `prepare` reads, well formed and not."""

import json
from pathlib import Path

import pytest

from duologue.data.sources import Conversation, Found, Part, Utterance, find_conversations
from duologue.errors import DataError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"sound")


def utterances(found: Found) -> dict[str, tuple[Utterance, ...]]:
    return {part.name: part.utterances for conversation in found.conversations for part in conversation.parts}


def test_nothing_but_recordings_with_and_without_text(tmp_path: Path) -> None:
    touch(tmp_path, "b/two.WAV", "a/one.flac", "notes.pdf")
    (tmp_path / "a" / "one.txt").write_text("Hello\nthere. \n")
    found = find_conversations(tmp_path)
    assert found.layout == "recordings"
    assert utterances(found) == {"a/one.flac": (Utterance("a", "Hello there."),), "b/two.WAV": ()}


def test_manifests_of_ours(tmp_path: Path) -> None:
    touch(tmp_path, "train/0.opus")
    turns = [
        {"speaker": 0, "voice": "joe", "text": "Hi.", "start": 0, "end": 12_000},
        {"speaker": 1, "voice": "ann", "text": "Oh.", "start": 14_400, "end": 24_000},
    ]
    entry = {"file": "0.opus", "sample_rate": 24_000, "samples": 24_000, "turns": turns}
    missing = entry | {"file": "1.opus"}
    manifest = tmp_path / "train" / "manifest-0.jsonl"
    manifest.write_text(f"{json.dumps(entry)}\n\n{json.dumps(missing)}\n")
    for source in (tmp_path, manifest):
        found = find_conversations(source)
        assert found.layout == "manifest"
        (conversation,) = found.conversations
        expected = (Utterance("joe", "Hi.", 0.0, 0.5), Utterance("ann", "Oh.", 0.6, 1.0))
        assert conversation.parts[0].utterances == expected
        assert list(found.left_out.values()) == ["no such recording"]


def test_ljspeech(tmp_path: Path) -> None:
    touch(tmp_path, "wavs/L-1.wav", "wavs/L-2.wav", "wavs/L-9.wav")
    (tmp_path / "metadata.csv").write_text('L-1|It was 5|It was "five"\nL-2|Plain\nL-3|Gone|Gone\n', encoding="utf-8")
    found = find_conversations(tmp_path)
    assert found.layout == "LJSpeech"
    voice = tmp_path.name
    assert utterances(found) == {
        "wavs/L-1.wav": (Utterance(voice, 'It was "five"'),),
        "wavs/L-2.wav": (Utterance(voice, "Plain"),),
    }
    assert found.left_out == {"L-3": "no such recording", "wavs/L-9.wav": "not in metadata.csv"}


def test_kaldi_with_segments(tmp_path: Path) -> None:
    touch(tmp_path, "call.wav", "other.wav")
    (tmp_path / "wav.scp").write_text("c1 call.wav\nc2 other.wav\n")
    (tmp_path / "segments").write_text("u2 c1 2.5 4\nu1 c1 0.5 2\nu3 c9 0 1\nu4 c1 5 6\n")
    (tmp_path / "text").write_text("u1 good morning\nu2  yes\tplease\nu3 lost\n")
    (tmp_path / "utt2spk").write_text("u1 anna\nu2 ben\n")
    found = find_conversations(tmp_path)
    assert found.layout == "Kaldi"
    expected = (Utterance("anna", "good morning", 0.5, 2.0), Utterance("ben", "yes\tplease", 2.5, 4.0))
    assert utterances(found) == {"c1": expected}
    assert found.left_out["u4"] == "not in text"
    assert "which wav.scp does not name" in found.left_out["u3"]


def test_kaldi_without_segments_or_text(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    (tmp_path / "wav.scp").write_text("a a.wav\nb b.wav\n")
    assert utterances(find_conversations(tmp_path)) == {"a": (), "b": ()}
    (tmp_path / "text").write_text("a hello\n")
    found = find_conversations(tmp_path)
    assert utterances(found) == {"a": (Utterance(tmp_path.name, "hello"),)}
    assert found.left_out == {"b": "not in text"}


def test_identifiers_of_ljspeech_may_have_dots(tmp_path: Path) -> None:
    touch(tmp_path, "wavs/p225.001.wav", "wavs/p225.002.wav")
    (tmp_path / "metadata.csv").write_text("p225.001|One|One\np225.002.wav|Two|Two\n")
    found = find_conversations(tmp_path)
    assert not found.left_out
    assert [turns[0].text for turns in utterances(found).values()] == ["One", "Two"]


def test_all_of_a_conversation_that_lacks_a_recording_is_listed(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "c.wav", "d.wav")
    rows = ["file,text,conversation", "a.wav,One,x", "b.wav,Two,x", "c.wav,Three,x", "d.wav,Four,y"]
    (tmp_path / "list.csv").write_text("\n".join(rows))
    found = find_conversations(tmp_path)
    assert [one.name for one in found.conversations] == ["y"]
    reason = "in a conversation with b.wav: no such recording"
    assert found.left_out == {"a.wav": reason, "b.wav": "no such recording", "c.wav": reason}


def test_kaldi_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "wav.scp").write_text("a sph2pipe -f wav a.sph |\n")
    with pytest.raises(DataError, match="a is a command"):
        find_conversations(tmp_path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_by_the_names_of_their_columns(tmp_path: Path, delimiter: str) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    rows = [("path", "sentence", "client_id"), ("a.wav", "Hello there", "p1"), ("b.wav", "Bye", "p2")]
    table = tmp_path / ("list.tsv" if delimiter == "\t" else "list.csv")
    table.write_text("".join(delimiter.join(row) + "\n" for row in rows), encoding="utf-8-sig")
    expected = {"a.wav": (Utterance("p1", "Hello there"),), "b.wav": (Utterance("p2", "Bye"),)}
    for source in (tmp_path, table):
        found = find_conversations(source)
        assert (found.layout, utterances(found)) == ("table", expected)


def test_a_quoted_cell_may_hold_anything(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "list.csv").write_text('file,text\na.wav,"Well, ""yes"",\nhe said"\n')
    assert utterances(find_conversations(tmp_path))["a.wav"][0].text == 'Well, "yes",\nhe said'


def test_json_lines_make_conversations_of_files_and_turns_of_times(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav", "c.wav", "d.wav")
    rows = [
        {"audio_filepath": "b.wav", "text": "second", "speaker": "y", "conversation": 7},
        {"audio_filepath": "a.wav", "text": "first", "speaker": "x", "conversation": 7},
        {"audio_filepath": "c.wav", "text": "late", "offset": 3.0, "duration": 1.5},
        {"audio_filepath": "c.wav", "text": "early", "offset": 0.5, "duration": 1.0},
        {"audio_filepath": "d.wav"},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = find_conversations(tmp_path)
    own = tmp_path.name
    assert found.conversations == (
        Conversation(
            "7",
            (
                Part(tmp_path / "b.wav", "b.wav", (Utterance("y", "second"),)),
                Part(tmp_path / "a.wav", "a.wav", (Utterance("x", "first"),)),
            ),
        ),
        Conversation(
            "c.wav",
            (
                Part(
                    tmp_path / "c.wav",
                    "c.wav",
                    (Utterance(own, "early", 0.5, 1.5), Utterance(own, "late", 3.0, 4.5)),
                ),
            ),
        ),
        Conversation("d.wav", (Part(tmp_path / "d.wav", "d.wav"),)),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest-0.jsonl", '{"file": "a.wav", "turns": [{"speaker": 0}]}', "manifest-0.jsonl:1: not an entry"),
        ("data.jsonl", '{"file": "a.wav"}\n{"file": ', "data.jsonl:2: not JSON"),
        ("data.jsonl", '{"file": "a.wav"}\n[1]', "data.jsonl:2: expected a JSON object"),
        ("data.jsonl", '{"file": "a.wav"}\n{"text": "hm"}', "data.jsonl:2: no column of file"),
        ("list.csv", "file,start\na.wav,soon\n", "list.csv:2: not an entry"),
        ("metadata.csv", "a\n", "metadata.csv:1: expected id|text"),
    ],
)
def test_what_does_not_parse_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        find_conversations(tmp_path)
    assert message in str(caught.value)


def test_text_of_another_encoding_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "a.txt").write_bytes("schön".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.txt is not UTF-8"):
        find_conversations(tmp_path)


def test_nothing_to_be_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        find_conversations(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no recordings"):
        find_conversations(tmp_path)
    (tmp_path / "list.csv").write_text("file,text\ngone.wav,Hello\n")
    with pytest.raises(DataError, match=r"left out.*gone\.wav"):
        find_conversations(tmp_path)
