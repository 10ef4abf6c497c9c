"""Voices on disk and in folders: round trips, order, names, and every way to be refused."""

import dataclasses
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from duologue.codec.mimi import Mimi
from duologue.engine.voices import (
    Voice,
    VoiceLibrary,
    VoiceSegment,
    check_name,
    codec_fingerprint,
    load_voice,
    make_voice,
    save_voice,
)
from duologue.errors import AudioError, DuologueWarning, TextError, VoiceError
from tests.engine.builders import fill_codebooks, tiny_mimi, tone

BAD_NAMES = [
    "",
    "../x",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "A",
    "é",
    "a b",
    "a.b",
    "-a",
    "a\0",
    "a\n",
    "a" * 41,
    "none",
    None,
    3,
]


@pytest.fixture
def own(codec, tmp_path) -> VoiceLibrary:
    return VoiceLibrary(codec, None, tmp_path / "own")


def metadata(path) -> dict:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["duologue_voice"])


class TestFingerprint:
    def test_it_is_that_of_the_codebooks(self, codec):
        fingerprint = codec_fingerprint(codec)
        assert len(fingerprint) == 16 and int(fingerprint, 16) >= 0
        assert codec_fingerprint(tiny_mimi()) == fingerprint
        assert codec_fingerprint(fill_codebooks(tiny_mimi(), seed=1)) != fingerprint
        retrained = tiny_mimi()
        retrained.decoder.output_conv.conv.weight.data.add_(1.0)
        assert codec_fingerprint(retrained) == fingerprint

    def test_one_vector_is_enough_to_differ(self, codec):
        other = tiny_mimi()
        next(iter(other.quantizer.semantic)).embedding_sum[3, 2] += 0.5
        assert codec_fingerprint(other) != codec_fingerprint(codec)

    def test_loading_fewer_codebooks_does_not_change_it(self, codec, tmp_path):
        fewer = Mimi(dataclasses.replace(codec.config, num_codebooks=2))
        fewer.load_state_dict(codec.state_dict(), strict=False)
        assert codec_fingerprint(fewer) == codec_fingerprint(codec)
        voice = make_voice(codec, "x", tone(1.5), "hello")
        save_voice(voice, tmp_path / "x.safetensors")
        assert torch.equal(load_voice(tmp_path / "x.safetensors", fewer).segments[0].codes, voice.segments[0].codes[:2])


class TestFiles:
    def test_round_trip(self, codec, tmp_path):
        segments = (
            VoiceSegment("hello", torch.randint(0, 64, (4, 7))),
            VoiceSegment("“Grüße!”", torch.randint(0, 64, (4, 2))),
        )
        voice = Voice("bea", "warm, low", segments, codec_fingerprint(codec))
        save_voice(voice, tmp_path / "bea.safetensors")
        again = load_voice(tmp_path / "bea.safetensors", codec)
        assert (again.name, again.description, again.codec) == (voice.name, voice.description, voice.codec)
        assert [item.text for item in again.segments] == ["hello", "“Grüße!”"] and again.num_frames == 9
        for ours, theirs in zip(again.segments, segments, strict=True):
            assert ours.codes.dtype == torch.int64 and torch.equal(ours.codes, theirs.codes)
        assert load_file(tmp_path / "bea.safetensors")["codes.0"].dtype == torch.int16
        assert os.listdir(tmp_path) == ["bea.safetensors"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"version": 2}, "format 2"),
            ({"codec": "0" * 16}, "another codec"),
            ({"texts": ["a", "b"]}, "one for each text"),
            ({"texts": []}, "one for each text"),
            ({"texts": "a"}, "one for each text"),
            ({"texts": [""]}, "transcript"),
            ({"texts": [None]}, "transcript"),
        ],
    )
    def test_malformed_metadata(self, codec, tmp_path, change, message):
        content = {"version": 1, "name": "x", "description": "", "texts": ["hello"], "codec": codec_fingerprint(codec)}
        content |= change
        path = tmp_path / "x.safetensors"
        save_file({"codes.0": torch.zeros(4, 3, dtype=torch.int16)}, path, {"duologue_voice": json.dumps(content)})
        with pytest.raises(VoiceError, match=message) as caught:
            load_voice(path, codec)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "codes",
        [
            torch.zeros(4, 3),
            torch.zeros(4, dtype=torch.int16),
            torch.zeros(0, 3, dtype=torch.int16),
            torch.zeros(4, 0, dtype=torch.int16),
            torch.zeros(4, 400, dtype=torch.int16),
            torch.full((4, 3), -1, dtype=torch.int16),
            torch.full((4, 3), 64, dtype=torch.int16),
        ],
    )
    def test_malformed_codes(self, codec, tmp_path, codes):
        content = {"version": 1, "name": "x", "description": "", "texts": ["hello"], "codec": codec_fingerprint(codec)}
        path = tmp_path / "x.safetensors"
        save_file({"codes.0": codes}, path, {"duologue_voice": json.dumps(content)})
        with pytest.raises(VoiceError, match="codes"):
            load_voice(path, codec)

    @pytest.mark.parametrize("content", [b"", b"not a voice", b"\x10\0\0\0\0\0\0\0{}", b"\xff" * 100])
    def test_files_that_are_no_voices(self, codec, tmp_path, content):
        path = tmp_path / "x.safetensors"
        path.write_bytes(content)
        with pytest.raises(VoiceError, match="not a voice") as caught:
            load_voice(path, codec)
        assert "\n" not in str(caught.value)

    def test_safetensors_of_another_kind(self, codec, tmp_path):
        for number, given in enumerate((None, {"format": "pt"}, {"duologue_voice": "[]"}, {"duologue_voice": "{"})):
            path = tmp_path / f"x{number}.safetensors"
            save_file({"weight": torch.zeros(2)}, path, given)
            with pytest.raises(VoiceError, match="not a voice"):
                load_voice(path, codec)

    def test_missing_truncated_and_huge(self, codec, own, tmp_path, monkeypatch):
        with pytest.raises(VoiceError, match="cannot read"):
            load_voice(tmp_path / "x.safetensors", codec)
        own.add("x", tone(1.5), "hello")
        path = tmp_path / "own" / "x.safetensors"
        path.write_bytes(path.read_bytes()[:-5])
        with pytest.raises(VoiceError, match="not a voice"):
            load_voice(path, codec)
        monkeypatch.setattr("duologue.engine.voices._MAX_FILE_BYTES", 10)
        with pytest.raises(VoiceError, match="more than 10 bytes"):
            load_voice(path, codec)

    def test_a_failed_write_leaves_nothing(self, codec, own, tmp_path, monkeypatch):
        def full(*_args, **_kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("duologue.engine.voices.save_file", full)
        with pytest.raises(VoiceError, match=r"cannot write the voice x .*No space left"):
            own.add("x", tone(1.5), "hello")
        assert os.listdir(tmp_path / "own") == [] and own.names == ()


class TestLibrary:
    def test_shipped_voices_come_first_in_their_order(self, library):
        assert library.shipped_names == ("zoe", "adam", "bea")
        library.add("amy", tone(1.5), "I am amy", "mine")
        library.add("aaron", tone(1.5), "I am aaron")
        assert library.names == ("zoe", "adam", "bea", "aaron", "amy")
        assert [voice.name for voice in library.list()] == list(library.names)
        assert library.get("amy").description == "mine" and library.get("zoe").segments[0].text == "I am zoe"

    def test_without_an_order_they_come_by_name(self, codec, library, tmp_path):
        (tmp_path / "shipped" / "order.json").unlink()
        assert VoiceLibrary(codec, tmp_path / "shipped").names == ("adam", "bea", "zoe")

    @pytest.mark.parametrize("order", ["{", '"zoe"', "[1]"])
    def test_a_malformed_order(self, codec, library, tmp_path, order):
        (tmp_path / "shipped" / "order.json").write_text(order, encoding="utf-8")
        with pytest.raises(VoiceError, match="not a list of voice names"):
            _ = library.names

    def test_no_folders_no_voices(self, codec, tmp_path):
        for library in (VoiceLibrary(codec), VoiceLibrary(codec, tmp_path / "none", tmp_path / "nor")):
            assert library.names == () and library.list() == ()
            with pytest.raises(VoiceError, match="no voice 'x'; known are: none"):
                library.get("x")

    def test_add_cuts_silence_and_keeps_the_rest(self, own, codec):
        silence = torch.zeros(24_000)
        voice = own.add("x", torch.cat((silence, tone(2.0), silence)), " hello ", "d")
        frames = voice.num_frames
        assert 2.0 * 12.5 <= frames <= 2.3 * 12.5
        again = VoiceLibrary(codec, None, own._user).get("x")
        assert again.segments[0].text == "hello" and torch.equal(again.segments[0].codes, voice.segments[0].codes)

    def test_a_replaced_file_is_read_again(self, own, tmp_path):
        own.add("x", tone(1.5), "one")
        assert own.get("x") is own.get("x")
        own.remove("x")
        with pytest.raises(VoiceError, match="no voice 'x'"):
            own.get("x")
        own.add("x", tone(1.5), "two")
        os.utime(tmp_path / "own" / "x.safetensors", ns=(1, 1))
        assert own.get("x").segments[0].text == "two"

    @pytest.mark.parametrize(
        ("audio", "text", "error", "message"),
        [
            (tone(0.5), "hi", AudioError, r"0.5 s of sound; expected 1 to 30 s"),
            (tone(31.0), "hi", AudioError, r"31.0 s of sound"),
            (tone(301.0), "hi", AudioError, "at most 300.0 s fit"),
            (torch.zeros(48_000), "hi", AudioError, "silent"),
            (torch.zeros(0), "hi", AudioError, "empty"),
            (torch.full((48_000,), float("nan")), "hi", AudioError, "NaN"),
            (tone(2.0).short(), "hi", AudioError, "int16"),
            (tone(2.0), "", TextError, "transcript"),
            (tone(2.0), " ?! ", TextError, "transcript"),
            (tone(2.0), None, TextError, "transcript"),
            (tone(2.0), "a" * 5000, TextError, "at most"),
        ],
    )
    def test_unusable_recordings_and_transcripts(self, own, audio, text, error, message):
        with pytest.raises(error, match=message):
            own.add("x", audio, text)
        assert own.names == ()

    def test_names_that_are_taken(self, library):
        library.add("amy", tone(1.5), "hi")
        for name in ("amy", "zoe"):
            with pytest.raises(VoiceError, match="already"):
                library.add(name, tone(1.5), "hi")

    def test_only_the_users_voices_can_be_removed(self, library):
        library.add("amy", tone(1.5), "hi")
        library.remove("amy")
        assert library.names == ("zoe", "adam", "bea")
        with pytest.raises(VoiceError, match="ships with the model"):
            library.remove("zoe")
        with pytest.raises(VoiceError, match="no voice 'amy' of your own"):
            library.remove("amy")

    def test_no_folder_of_the_users(self, codec):
        with pytest.raises(VoiceError, match="voices_dir"):
            VoiceLibrary(codec).add("x", tone(1.5), "hi")

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_bad_names_reach_no_file(self, library, tmp_path, name):
        before = sorted(tmp_path.rglob("*"))
        for attempt in (
            lambda: check_name(name),
            lambda: library.get(name),
            lambda: library.remove(name),
            lambda: library.add(name, tone(1.5), "hi"),
        ):
            with pytest.raises(VoiceError, match="voice name"):
                attempt()
        assert sorted(tmp_path.rglob("*")) == before

    def test_links_out_of_the_users_folder_are_refused(self, own, tmp_path):
        own.add("x", tone(1.5), "hi")
        secret = tmp_path / "secret.safetensors"
        (tmp_path / "own" / "x.safetensors").rename(secret)
        (tmp_path / "own" / "y.safetensors").symlink_to(secret)
        for attempt in (lambda: own.get("y"), lambda: own.remove("y"), lambda: own.add("y", tone(1.5), "hi")):
            with pytest.raises(VoiceError, match="leads out of the folder"):
                attempt()
        assert secret.exists()

    def test_shipped_files_may_be_links_as_in_a_hub_cache(self, codec, library, tmp_path):
        blobs = tmp_path / "blobs"
        blobs.mkdir()
        (tmp_path / "shipped" / "zoe.safetensors").rename(blobs / "0123")
        (tmp_path / "shipped" / "zoe.safetensors").symlink_to(blobs / "0123")
        assert VoiceLibrary(codec, tmp_path / "shipped").get("zoe").name == "zoe"

    def test_one_bad_file_does_not_hide_the_others(self, own, tmp_path):
        own.add("good", tone(1.5), "hi")
        (tmp_path / "own" / "bad.safetensors").write_bytes(b"junk")
        (tmp_path / "own" / "Not A Name.safetensors").write_bytes(b"junk")
        (tmp_path / "own" / "notes.txt").write_text("x")
        assert own.names == ("bad", "good")
        with pytest.warns(DuologueWarning, match="not a voice file"):
            assert [voice.name for voice in own.list()] == ["good"]

    def test_an_unwritable_folder(self, codec, tmp_path):
        (tmp_path / "file").write_text("in the way")
        library = VoiceLibrary(codec, None, tmp_path / "file" / "voices")
        with pytest.raises(VoiceError, match="cannot write"):
            library.add("x", tone(1.5), "hi")

    def test_the_metadata_says_what_is_needed(self, own, tmp_path, codec):
        own.add("x", tone(1.5), "hi", "mine")
        assert metadata(tmp_path / "own" / "x.safetensors") == {
            "version": 1,
            "name": "x",
            "description": "mine",
            "texts": ["hi"],
            "codec": codec_fingerprint(codec),
        }
