"""Conversation scripts: who says what, in order, from plain text, YAML, JSON or a list of chat messages.

Plain text has one turn a line, `A: Hey, how are you doing?`; blank lines and lines that start with `#` are skipped.
YAML and JSON hold a list of turns, or a mapping with `turns` and `voices`:

    voices:
      A: maya                                  # the name of a voice
      B: {audio: bob.wav, text: What he says.} # or a prompt: a recording and its transcript
    turns:
      - {speaker: A, text: "Hey!", temperature: 0.7}
      - {speaker: B, text: "Hi."}

The message list is the one of transformers' CSM processor (`apply_chat_template`): `role` is the speaker, `content` is
text or a list of parts of the types `text` and `audio`. Nothing is fetched: an address instead of a path is refused.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from duologue.errors import ScriptError

MAX_SPEAKER_LENGTH: Final = 40
FORMATS: Final = ("text", "yaml", "json")
EXAMPLE: Final = "A: Hey, how are you doing?"

_OPTION_TYPES: Final[dict[str, type[int] | type[float]]] = {
    "temperature": float,
    "topk": int,
    "guidance": float,
    "seed": int,
    "max_audio_length_ms": float,
}
_TURN_KEYS: Final = ("speaker", "text", "voice", "audio", *_OPTION_TYPES)
_LINE: Final = re.compile(r"([^:]{1,200}?) ?:(?: +|(?![\s\d/]))(.*)")
_NOT_IN_NAMES: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_URL: Final = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]{1,20}://")
_YAML_START: Final = re.compile(r"---(?:\s|$)|%YAML|(?:turns|voices)\s*:\s*(?:$|#|[\[{])|-\s")


@dataclass(frozen=True)
class Prompt:
    """A voice given by a reference: the path of a recording and what is said in it."""

    audio: str
    text: str


@dataclass(frozen=True)
class Turn:
    """One turn: what `speaker`, a name, says.

    `audio` is what the script gives for a turn that has been spoken: a path, or an array as it came. `options` are
    per-turn arguments of `generate`. `line` is the line of the script, from 1, where there is one.
    """

    speaker: str
    text: str
    voice: str | None = None
    options: Mapping[str, int | float] = field(default_factory=dict)
    audio: Any = None
    line: int | None = None


@dataclass(frozen=True)
class Script:
    """A conversation: its turns in order, and the voices of its speakers by name."""

    turns: tuple[Turn, ...]
    voices: Mapping[str, str | Prompt] = field(default_factory=dict)


def parse_script(text: str, format: str | None = None) -> Script:
    """Read a script. `format` is one of "text", "yaml", "json"; None tells them apart by how the text begins.

    Raises:
        ScriptError: empty or malformed; the message names the line, or the turn where JSON has no lines.
    """
    if format is not None and format not in FORMATS:
        raise ScriptError(f"unknown script format {format!r}; expected one of {', '.join(FORMATS)}")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if format is None:
        format = _detect_format(text)
    if format == "text":
        return Script(_parse_lines(text))
    data, lines = _load_json(text) if format == "json" else _load_yaml(text)
    return _parse_data(data, lines)


def assign_speakers(turns: Iterable[Turn | str]) -> dict[str, int]:
    """A speaker id for each name: a name that is a whole number keeps it, others get the lowest free one in order."""
    names = list(dict.fromkeys(turn if isinstance(turn, str) else turn.speaker for turn in turns))
    ids = {name: int(name) for name in names if re.fullmatch(r"0|[1-9][0-9]{0,8}", name)}
    taken = set(ids.values())
    next_id = 0
    for name in names:
        if name not in ids:
            while next_id in taken:
                next_id += 1
            ids[name] = next_id
            taken.add(next_id)
    return {name: ids[name] for name in names}


# --- plain text ------------------------------------------------------------------------------------------------------


def _detect_format(text: str) -> str:
    for line in text.split("\n"):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line.lstrip()[0] in "[{":
            return "json" if _is_json(text) else "yaml"
        return "yaml" if _YAML_START.match(line) else "text"
    return "text"


def _is_json(text: str) -> bool:
    """By its first sign behind the bracket: a quote, a bracket, or its end. `{turns: ...}` is YAML."""
    return re.match(r"\s*[\[{]\s*[\"\[{\]}]", text) is not None and not re.match(r"\s*\[\s*\{\s*[^\"\s}]", text)


def _parse_lines(text: str) -> tuple[Turn, ...]:
    turns = []
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line)
        if found is None:
            raise ScriptError(
                f"line {number}: {_shorten(line)!r} is not a turn; expected a speaker and a text: {EXAMPLE}"
            )
        speaker = _check_speaker(found[1].strip(), f"line {number}")
        turns.append(Turn(speaker=speaker, text=_check_text(found[2], f"line {number}"), line=number))
    if not turns:
        raise ScriptError(f"the script is empty; expected one turn a line: {EXAMPLE}")
    return tuple(turns)


# --- YAML and JSON ---------------------------------------------------------------------------------------------------

_Lines = dict[int, int]  # turn index -> line


def _load_yaml(text: str) -> tuple[Any, _Lines]:
    """Plain data, every scalar a string: YAML's own rules would make a boolean of "yes" and a number of "3:45".

    `BaseLoader` builds nothing but strings, lists and dicts, less even than `yaml.safe_load`.
    """
    loader = None
    try:
        loader = yaml.BaseLoader(text)
        node = loader.get_single_node()
        _refuse_repeated_keys(node, depth=0)
        return (None, {}) if node is None else (loader.construct_document(node), _turn_lines(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}" if mark is not None else "the script"
        raise ScriptError(f"{where}: not valid YAML ({error.problem or error.context})") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        position = getattr(error, "position", None)
        where = f"line {text.count(chr(10), 0, position) + 1}" if isinstance(position, int) else "the script"
        raise ScriptError(f"{where}: not valid YAML ({_shorten(reason, 100)})") from None
    except RecursionError:
        raise ScriptError("the script is nested too deeply; expected a list of turns") from None
    finally:
        if loader is not None:
            loader.dispose()


def _refuse_repeated_keys(node: Any, depth: int) -> None:
    """At every level that a script has (top, turns, a turn)."""
    if depth > 3 or not isinstance(node, yaml.CollectionNode):
        return
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeated_keys(child, depth + 1)
        return
    seen = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise ScriptError(f"line {key.start_mark.line + 1}: the key {_shorten(key.value)!r} is given twice")
            seen.add(key.value)
        _refuse_repeated_keys(value, depth + 1)


def _turn_lines(node: Any) -> _Lines:
    if isinstance(node, yaml.MappingNode):
        turns = [value for key, value in node.value if key.value == "turns"]
        node = turns[0] if turns else None
    if not isinstance(node, yaml.SequenceNode):
        return {}
    return {index: child.start_mark.line + 1 for index, child in enumerate(node.value)}


def _load_json(text: str) -> tuple[Any, _Lines]:
    def refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) < len(pairs):
            keys = [key for key, _ in pairs]
            repeated = next(key for key in keys if keys.count(key) > 1)
            raise ScriptError(f"the key {_shorten(repeated)!r} is given twice in one mapping of the script")
        return data

    try:
        return json.loads(text, object_pairs_hook=refuse_repeated), {}
    except json.JSONDecodeError as error:
        raise ScriptError(f"line {error.lineno}: not valid JSON ({error.msg})") from None
    except RecursionError:
        raise ScriptError("the script is nested too deeply; expected a list of turns") from None
    except ValueError as error:  # a number of thousands of digits
        raise ScriptError(f"the script is not valid JSON ({_shorten(str(error), 100)})") from None


def _parse_data(data: Any, lines: _Lines) -> Script:
    voices: dict[str, str | Prompt] = {}
    if isinstance(data, dict):
        _refuse_unknown_keys(data, ("voices", "turns"), "the script")
        if "turns" not in data:
            raise ScriptError("the script has no key 'turns'; expected a list of turns under it")
        voices = _parse_voices(data.get("voices") or {})
        data = data["turns"]
    if data in (None, "", []):
        raise ScriptError("the script is empty; expected a list of turns, each with 'speaker' and 'text'")
    if not isinstance(data, list):
        raise ScriptError(f"the script holds {_kind(data)}; expected a list of turns, each with 'speaker' and 'text'")
    if isinstance(data[0], dict) and "role" in data[0]:
        turns = parse_messages(data)
        turns = [
            Turn(turn.speaker, turn.text, audio=turn.audio, line=lines.get(index)) for index, turn in enumerate(turns)
        ]
    else:
        turns = [_parse_turn(item, _place(index, lines), lines.get(index)) for index, item in enumerate(data)]
    unused = [name for name in voices if name not in {turn.speaker for turn in turns}]
    if unused:
        raise ScriptError(f"a voice is given for {_shorten(unused[0])!r}, who has no turn; check the speaker's name")
    return Script(tuple(turns), voices)


def _place(index: int, lines: _Lines) -> str:
    return f"line {lines[index]}" if index in lines else f"turn {index + 1}"


def _parse_voices(data: Any) -> dict[str, str | Prompt]:
    if not isinstance(data, dict):
        raise ScriptError(f"'voices' holds {_kind(data)}; expected a mapping of speaker to voice, such as {{A: maya}}")
    voices: dict[str, str | Prompt] = {}
    for name, voice in data.items():
        place = f"voice of {_shorten(str(name))!r}"
        speaker = _check_speaker(name, place)
        if isinstance(voice, dict):
            _refuse_unknown_keys(voice, ("audio", "text"), place)
            audio = _check_audio(voice.get("audio"), place)
            if not isinstance(audio, str):
                raise ScriptError(f"{place}: a prompt holds {_kind(audio)} as audio; expected the path of a recording")
            voices[speaker] = Prompt(audio, _check_text(voice.get("text"), place))
        elif isinstance(voice, str) and voice.strip():
            voices[speaker] = voice.strip()
        else:
            raise ScriptError(f"{place} is {_kind(voice)}; expected a voice's name, or a mapping with audio and text")
    return voices


def _parse_turn(item: Any, place: str, line: int | None) -> Turn:
    if not isinstance(item, dict):
        raise ScriptError(f"{place}: a turn is {_kind(item)}; expected a mapping such as {{speaker: A, text: Hey!}}")
    _refuse_unknown_keys(item, _TURN_KEYS, place)
    for key in ("speaker", "text"):
        if key not in item:
            raise ScriptError(f"{place}: the turn has no {key!r}; expected {{speaker: A, text: Hey!}}")
    voice = item.get("voice")
    if voice is not None and not (isinstance(voice, str) and voice.strip()):
        raise ScriptError(f"{place}: 'voice' is {_kind(voice)}; expected a voice's name")
    return Turn(
        speaker=_check_speaker(item["speaker"], place),
        text=_check_text(item["text"], place),
        voice=voice.strip() if voice is not None else None,
        options={key: _parse_option(key, item[key], place) for key in _OPTION_TYPES if key in item},
        audio=_check_audio(item["audio"], place) if "audio" in item else None,
        line=line,
    )


def _parse_option(key: str, value: Any, place: str) -> int | float:
    """A number of the option's type; its range is for the generator to judge."""
    kind = _OPTION_TYPES[key]
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        number = kind(value)
        if not math.isfinite(number) or (kind is int and isinstance(value, float) and value != number):
            raise ValueError
    except (ValueError, OverflowError):
        expected = "a whole number" if kind is int else "a number"
        raise ScriptError(f"{place}: {key} is {_shorten(str(value))!r}; expected {expected}") from None
    return number


# --- messages --------------------------------------------------------------------------------------------------------


def parse_messages(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """The message list of transformers' CSM processor as turns; audio arrays are kept as given.

    Raises:
        ScriptError: anything else than messages of `role` and `content`; the text says which message, from 1.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ScriptError(f"messages are {_kind(messages)}; expected a list of mappings with 'role' and 'content'")
    return [_parse_message(message, f"message {number}") for number, message in enumerate(messages, start=1)]


def _parse_message(message: Any, place: str) -> Turn:
    if not isinstance(message, Mapping):
        raise ScriptError(f"{place} is {_kind(message)}; expected a mapping with 'role' and 'content'")
    _refuse_unknown_keys(message, ("role", "content"), place)
    for key in ("role", "content"):
        if key not in message:
            raise ScriptError(f"{place} has no {key!r}; expected {{'role': '0', 'content': [...]}}")
    content = message["content"]
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)):
        raise ScriptError(f"{place}: 'content' is {_kind(content)}; expected a text or a list of parts")
    texts, audios = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text":
            _refuse_unknown_keys(part, ("type", "text"), place)
            texts.append(_check_text(part.get("text"), place))
        elif kind == "audio":
            _refuse_unknown_keys(part, ("type", "path", "audio", "url"), place)
            given = [key for key in ("path", "audio", "url") if part.get(key) is not None]
            if "url" in given:
                raise ScriptError(f"{place}: audio is given as a url; download it and give its path")
            if len(given) != 1:
                raise ScriptError(f"{place}: an audio part needs either 'path' or 'audio'")
            audios.append(_check_audio(part[given[0]], place))
        else:
            raise ScriptError(f"{place}: a part is {_kind(part)}; expected one with 'type' text or audio")
    if len(audios) > 1:
        raise ScriptError(f"{place} has {len(audios)} audio parts; expected at most one")
    if not texts:
        raise ScriptError(f"{place} has no text; expected what is said, also where audio is given")
    return Turn(
        speaker=_check_speaker(message["role"], place), text=" ".join(texts), audio=audios[0] if audios else None
    )


# --- checks ----------------------------------------------------------------------------------------------------------


def _check_speaker(given: Any, place: str) -> str:
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < 10**9:
        given = str(given)
    if not isinstance(given, str) or not given.strip():
        raise ScriptError(f"{place}: the speaker is {_kind(given)}; expected a name, such as A, or a number from 0")
    name: str = given.strip()
    if len(name) > MAX_SPEAKER_LENGTH:
        raise ScriptError(
            f"{place}: the speaker's name {_shorten(name)!r} has {len(name)} characters; expected at most "
            f"{MAX_SPEAKER_LENGTH}, and a colon behind it: {EXAMPLE}"
        )
    if _NOT_IN_NAMES.search(name):
        raise ScriptError(f"{place}: the speaker's name {_shorten(name)!r} has control characters; expected letters")
    return name


def _check_text(text: Any, place: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise ScriptError(f"{place}: the text is {_kind(text)}; expected what is said: {EXAMPLE}")
    stripped: str = text.strip()
    return stripped


def _check_audio(audio: Any, place: str) -> Any:
    """A path is a non-empty text; an array is whatever else it is."""
    if isinstance(audio, str) and _URL.match(audio):
        raise ScriptError(f"{place}: audio is the address {_shorten(audio)!r}; download it and give its path")
    if audio is None or (isinstance(audio, str) and (not audio.strip() or "\0" in audio)):
        raise ScriptError(f"{place}: the audio is {_kind(audio)}; expected the path of a recording")
    return audio


def _refuse_unknown_keys(data: Mapping[Any, Any], known: Sequence[str], place: str) -> None:
    unknown = [key for key in data if key not in known]
    if unknown:
        names = ", ".join(repr(_shorten(str(key))) for key in unknown[:5])
        raise ScriptError(f"{place}: unknown key {names}; expected {', '.join(known)}")


def _kind(value: Any) -> str:
    """What a value is, in a word; never its content, which may be huge."""
    if value is None or value == "":
        return "empty"
    if isinstance(value, str):
        return f"{_shorten(value)!r}"
    if isinstance(value, (bool, int, float)):
        return _shorten(repr(value))
    if isinstance(value, Mapping):
        return "a mapping"
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"


def _shorten(text: str, length: int = 40) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
