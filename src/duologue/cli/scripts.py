"""Conversation scripts and message lists from files: read, with the recordings that they name."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from duologue.cli import files
from duologue.errors import AudioError, DuologueError, OptionError, ScriptError

if TYPE_CHECKING:
    from torch import Tensor

    from duologue.engine.generator import Generator
    from duologue.engine.voices import Voice
    from duologue.text import Prompt, Script, Turn

_FORMATS: Final = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}
_PROMPT_NAME: Final = "prompt"


def read_script(path: str) -> "Script":
    """A script from a file, its format by the suffix, or from stdin for `-`. Raises `TextError`, `ScriptError`."""
    text = files.read_text_file(path)

    from duologue.text import parse_script

    try:
        return parse_script(text, _FORMATS.get(Path(path).suffix.lower()))
    except ScriptError as error:
        raise ScriptError(f"{files.name_of_input(path)}, {error}") from None


def place_of(path: str, number: int, turn: "Turn") -> str:
    """Where a turn stands, for messages: the line where the script has lines, else the number of the turn."""
    return f"{files.name_of_input(path)}, " + (f"line {turn.line}" if turn.line is not None else f"turn {number}")


def read_recordings(path: str, script: "Script") -> "dict[int, tuple[Tensor, int]]":
    """The recordings of the turns that have one, by the index of the turn: `[num_samples]` and the rate in Hz.

    Paths are relative to the script's folder. Raises `AudioError`, naming the turn.
    """
    recordings = {}
    for index, turn in enumerate(script.turns):
        if turn.audio is not None:
            place = place_of(path, index + 1, turn)
            if not isinstance(turn.audio, str):
                raise AudioError(f"{place}: the audio is a list of samples; give the path of a recording")
            recordings[index] = _read(path, turn.audio, place)
    return recordings


def read_prompts(path: str, voices: "Mapping[str, str | Prompt]") -> "dict[str, tuple[Tensor, int]]":
    """The recordings of the voices that are given by one, by speaker. Raises `AudioError`, naming the speaker."""
    return {
        name: _read(path, voice.audio, f"{files.name_of_input(path)}, the voice of {name}")
        for name, voice in voices.items()
        if not isinstance(voice, str)
    }


@contextlib.contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Say where in the script an error lies."""
    try:
        yield
    except DuologueError as error:
        raise type(error)(f"{place}: {error}") from None


def _read(path: str, audio: str, place: str) -> "tuple[Tensor, int]":
    from duologue.audio import read_audio

    folder = Path() if path == "-" else Path(path).parent
    with named_errors(place):
        return read_audio(folder / audio)


def prompt_voice(generator: "Generator", recording: "tuple[Tensor, int]", text: str) -> "Voice":
    """A voice for this run only. Raises `AudioError`, `TextError`."""
    from duologue.audio import resample
    from duologue.engine.voices import VoiceLibrary

    pcm = resample(*recording, generator.sample_rate).clamp(-1.0, 1.0)  # [S]
    # The library checks, trims and encodes; it keeps voices in a folder, which need not outlive this call.
    with tempfile.TemporaryDirectory(prefix="duologue-") as folder:
        return VoiceLibrary(generator.codec, user=folder).add(_PROMPT_NAME, pcm, text)


def speaker_voices(
    generator: "Generator",
    script: "Script",
    prompts: "Mapping[str, tuple[Tensor, int]]",
    chosen: Mapping[str, str],
) -> "dict[str, str | Voice]":
    """Who speaks in which voice: the script's, and over them those `chosen` on the command line."""
    voices: dict[str, str | Voice] = {}
    for name, voice in script.voices.items():
        if name in chosen:
            continue
        if isinstance(voice, str):
            voices[name] = voice
        else:
            with named_errors(f"the voice of {name}"):
                voices[name] = prompt_voice(generator, prompts[name], voice.text)
    return voices | dict(chosen)


def parse_voice_options(values: list[str], names: list[str]) -> dict[str, str]:
    """`A=maya` as `{"A": "maya"}`. Raises `OptionError` for another form, or a speaker that the script lacks."""
    chosen: dict[str, str] = {}
    for value in values:
        name, separator, voice = value.partition("=")
        name, voice = name.strip(), voice.strip()
        if not (separator and name and voice):
            raise OptionError(f"--voice {value}; expected a speaker and a voice, such as {names[0]}=NAME")
        if name not in names:
            raise OptionError(f"--voice {value}: no {name} in the script; its speakers are {', '.join(names)}")
        if chosen.get(name, voice) != voice:
            raise OptionError(f"--voice gives {name} two voices, {chosen[name]} and {voice}; give one")
        chosen[name] = voice
    return chosen
