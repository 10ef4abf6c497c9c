"""Voices: named prompts, stored as codes with their transcript, and the folders that hold them.

A voice file is `NAME.safetensors`: tensors `codes.0`, `codes.1`, ... (`[K, T]`, int16 or int32) and one metadata entry,
`duologue_voice`, with JSON: version, name, description, texts, and the fingerprint of the codec whose codes these are.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from duologue.audio import trim_silence
from duologue.codec.mimi import Mimi
from duologue.engine.context import MAX_CHARACTERS, CodedSegment, check_audio, warn
from duologue.errors import AudioError, TextError, VoiceError

NO_VOICE = "none"
MIN_VOICE_SECONDS = 1.0
MAX_VOICE_SECONDS = 30.0

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_SUFFIX = ".safetensors"
_ORDER_FILE = "order.json"
_METADATA = "duologue_voice"
_VERSION = 1
_MAX_FILE_BYTES = 16_000_000


class VoiceSegment(NamedTuple):
    """What was said in a reference recording, and the recording as codes `[K, T]` int64 on the CPU."""

    text: str
    codes: Tensor


@dataclass(frozen=True, eq=False)
class Voice:
    """A named prompt; `codec` is the fingerprint of the codec that made the codes."""

    name: str
    description: str
    segments: tuple[VoiceSegment, ...]
    codec: str

    @property
    def num_frames(self) -> int:
        """Frames of all reference segments."""
        return sum(segment.codes.shape[1] for segment in self.segments)

    def spoken_by(self, speaker: int) -> list[CodedSegment]:
        """The prompt as segments of `speaker`."""
        return [CodedSegment(speaker, segment.text, segment.codes) for segment in self.segments]


def codec_fingerprint(codec: Mimi) -> str:
    """16 hex digits of the SHA-256 over the semantic and the first acoustic codebook.

    The same for every format that a codec is stored in, and however many of its codebooks are loaded.
    """
    digest = hashlib.sha256()
    for codebook in (*codec.quantizer.semantic, next(iter(codec.quantizer.acoustic))):
        for table in (codebook.embedding_sum, codebook.cluster_usage):
            digest.update(table.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_name(name: object) -> str:
    """`name` if a voice may be called so; raises `VoiceError` otherwise. A name is never a path."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == NO_VOICE:
        raise VoiceError(
            f"voice name {name!r}; expected 1 to 40 of a-z, 0-9, _ and -, beginning with a letter or digit, "
            f"and not {NO_VOICE!r}"
        )
    return name


def make_voice(codec: Mimi, name: str, audio: Tensor, text: str, description: str = "") -> Voice:
    """A voice from a recording and what is said in it, in memory only.

    `audio` is float32 `[num_samples]` at the codec's rate; silence at its ends is cut, and 1 to 30 s must be left.
    Raises `VoiceError` for a bad name, `AudioError` for an unusable recording, `TextError` for an unusable transcript.
    """
    check_name(name)
    if not isinstance(text, str) or not any(character.isalnum() for character in text):
        raise TextError("a voice needs the transcript of its recording: the text is empty")
    if len(text) > MAX_CHARACTERS:
        raise TextError(f"the transcript has {len(text)} characters, at most {MAX_CHARACTERS}")
    rate = codec.sample_rate
    longest = round(10 * MAX_VOICE_SECONDS * rate)  # before silence is cut
    samples = trim_silence(check_audio(audio, rate, longest, "the voice's recording"), rate)
    seconds = len(samples) / rate
    if not MIN_VOICE_SECONDS <= seconds <= MAX_VOICE_SECONDS:
        raise AudioError(
            f"the voice's recording has {seconds:.1f} s of sound; "
            f"expected {MIN_VOICE_SECONDS:g} to {MAX_VOICE_SECONDS:g} s"
        )
    device = next(codec.parameters()).device
    codes = codec.encode(samples.to(device)[None, None])[0].cpu()
    return Voice(name, description, (VoiceSegment(text.strip(), codes),), codec_fingerprint(codec))


def save_voice(voice: Voice, path: Path) -> None:
    """Writes the file, whole or not at all. Raises `VoiceError` where that is impossible."""
    check_name(voice.name)
    kind = (
        torch.int16 if all(int(s.codes.max()) <= torch.iinfo(torch.int16).max for s in voice.segments) else torch.int32
    )
    tensors = {f"codes.{index}": s.codes.to(kind).contiguous() for index, s in enumerate(voice.segments)}
    content = {
        "version": _VERSION,
        "name": voice.name,
        "description": voice.description,
        "texts": [segment.text for segment in voice.segments],
        "codec": voice.codec,
    }
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{voice.name}-", suffix=".part", dir=path.parent)
        os.close(handle)
        save_file(tensors, temporary, metadata={_METADATA: json.dumps(content)})
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise VoiceError(f"cannot write the voice {voice.name} to {path}: {error}") from None
    finally:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)


def load_voice(path: Path, codec: Mimi, fingerprint: str | None = None) -> Voice:
    """Reads a voice made with `codec`; its name is the file's.

    Raises `VoiceError` for a file that is missing, malformed, or made with another codec (whose `fingerprint` differs).
    """
    name = check_name(path.name.removesuffix(_SUFFIX))
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise VoiceError(f"{path} has more than {_MAX_FILE_BYTES} bytes: not a voice")
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_METADATA])
            tensors = [file.get_tensor(f"codes.{index}") for index in range(len(file.keys()))]
        version, texts = content["version"], content["texts"]
        description, made_with = str(content["description"]), str(content["codec"])
    except OSError as error:
        raise VoiceError(f"cannot read the voice {path}: {error.strerror or error}") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise VoiceError(f"{path} is not a voice file ({type(error).__name__}: {error})") from None
    if version != _VERSION:
        raise VoiceError(f"{path} has voice format {version!r}; this release reads {_VERSION}")
    if made_with != (fingerprint or codec_fingerprint(codec)):
        raise VoiceError(
            f"the voice {name} was made for another codec than this model's; add it again from its recording"
        )
    if not isinstance(texts, list) or not texts or len(texts) != len(tensors):
        raise VoiceError(f"{path} has {len(tensors)} code tensors; expected one for each text")
    segments = [_segment(path, text, codes, codec) for text, codes in zip(texts, tensors, strict=True)]
    return Voice(name, description, tuple(segments), made_with)


def _segment(path: Path, text: object, codes: Tensor, codec: Mimi) -> VoiceSegment:
    most = round(MAX_VOICE_SECONDS * codec.frame_rate) + 1
    if not isinstance(text, str) or not text.strip() or len(text) > MAX_CHARACTERS:
        raise VoiceError(f"{path} has a transcript that is no text of 1 to {MAX_CHARACTERS} characters")
    if codes.dtype not in (torch.int16, torch.int32) or codes.dim() != 2:
        raise VoiceError(f"{path} has codes of type {codes.dtype} and shape {list(codes.shape)}; expected int16 [K, T]")
    if not codes.shape[0] or not 1 <= codes.shape[1] <= most:
        raise VoiceError(f"{path} has codes of shape {list(codes.shape)}; expected [K, 1..{most}]")
    if int(codes.min()) < 0 or int(codes.max()) >= codec.config.codebook_size:
        raise VoiceError(f"{path} has codes outside 0..{codec.config.codebook_size - 1}")
    return VoiceSegment(text, codes[: codec.num_codebooks].to(torch.int64))


class VoiceLibrary:
    """The voices at hand: those that ship with a checkpoint, read-only and in its order, and the user's own.

    `shipped` is the checkpoint's folder `voices/`, ordered by its `order.json` (a list of names; others follow by
    name); `user` a folder of the user's, which `add` creates. Either may be None or not exist.
    """

    def __init__(
        self, codec: Mimi, shipped: str | os.PathLike[str] | None = None, user: str | os.PathLike[str] | None = None
    ) -> None:
        self.codec = codec
        self.fingerprint = codec_fingerprint(codec)
        self._shipped = None if shipped is None else Path(shipped)
        self._user = None if user is None else Path(user)
        self._loaded: dict[Path, tuple[int, Voice]] = {}

    @property
    def shipped_names(self) -> tuple[str, ...]:
        """Names of the voices that ship with the checkpoint, in its order."""
        names = _names_in(self._shipped)
        if self._shipped is None or not names:
            return names
        order = _order_in(self._shipped)
        return (*(name for name in order if name in names), *(name for name in names if name not in order))

    @property
    def names(self) -> tuple[str, ...]:
        """All names: the shipped ones in their order, then the user's by name."""
        shipped = self.shipped_names
        return (*shipped, *(name for name in _names_in(self._user) if name not in shipped))

    def list(self) -> tuple[Voice, ...]:
        """All voices in the order of `names`; one that cannot be read is left out with a warning."""
        voices = []
        for name in self.names:
            try:
                voices.append(self.get(name))
            except VoiceError as error:
                warn(str(error))
        return tuple(voices)

    def get(self, name: str) -> Voice:
        """The voice of that name. Raises `VoiceError` for a bad or unknown name (listing the known) or a bad file."""
        check_name(name)
        if name in self.shipped_names:
            assert self._shipped is not None
            # No check where links lead: a hub cache holds its files as links into another folder.
            return self._read(self._shipped / (name + _SUFFIX))
        path = self._user_path(name)
        if path is None or not path.is_file():
            known = ", ".join(self.names) or "none"
            raise VoiceError(f"no voice {name!r}; known are: {known}")
        return self._read(path)

    def add(self, name: str, audio: Tensor, text: str, description: str = "") -> Voice:
        """Makes a voice of the user's from a recording and what is said in it.

        Raises what `make_voice` does, and `VoiceError` for a name that is taken or a folder that is missing or not
        writable.
        """
        path = self._user_path(check_name(name))
        if path is None:
            raise VoiceError("there is no folder for voices of your own; give one as voices_dir")
        if name in self.shipped_names or path.exists():
            raise VoiceError(f"there is a voice {name!r} already; remove it first, or choose another name")
        voice = make_voice(self.codec, name, audio, text, description)
        save_voice(voice, path)
        return voice

    def remove(self, name: str) -> None:
        """Deletes a voice of the user's. Raises `VoiceError` for one that ships with the model or is unknown."""
        check_name(name)
        if name in self.shipped_names:
            raise VoiceError(f"the voice {name!r} ships with the model and cannot be removed")
        path = self._user_path(name)
        if path is None or not path.is_file():
            raise VoiceError(f"no voice {name!r} of your own; yours are: {', '.join(_names_in(self._user)) or 'none'}")
        try:
            path.unlink()
        except OSError as error:
            raise VoiceError(f"cannot remove the voice {name}: {error.strerror or error}") from None

    def _user_path(self, name: str) -> Path | None:
        """Where a voice of the user's lies or would lie; raises `VoiceError` for a link out of the folder."""
        if self._user is None:
            return None
        path = self._user / (name + _SUFFIX)
        if path.is_symlink() and path.resolve().parent != self._user.resolve():
            raise VoiceError(f"{path} is a link that leads out of the folder; remove it")
        return path

    def _read(self, path: Path) -> Voice:
        try:
            changed = path.stat().st_mtime_ns
        except OSError as error:
            raise VoiceError(f"cannot read the voice {path}: {error.strerror or error}") from None
        if path not in self._loaded or self._loaded[path][0] != changed:
            self._loaded[path] = changed, load_voice(path, self.codec, self.fingerprint)
        return self._loaded[path][1]


def _names_in(folder: Path | None) -> tuple[str, ...]:
    """Names of the voice files in a folder, sorted; files whose names are no voice names are not looked at."""
    if folder is None or not folder.is_dir():
        return ()
    stems = (path.name.removesuffix(_SUFFIX) for path in folder.iterdir() if path.name.endswith(_SUFFIX))
    return tuple(sorted(stem for stem in stems if _NAME.fullmatch(stem) and stem != NO_VOICE))


def _order_in(folder: Path) -> Sequence[str]:
    path = folder / _ORDER_FILE
    if not path.is_file():
        return []
    try:
        order = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VoiceError(f"{path} is not a list of voice names ({error})") from None
    if not isinstance(order, list) or not all(isinstance(name, str) for name in order):
        raise VoiceError(f"{path} is not a list of voice names")
    return list(dict.fromkeys(order))
