"""The rows in front of what is to be spoken: voice prompts, the conversation so far, and the text itself.

Source: Sesame, `csm/generator.py` (`_tokenize_segment`). A segment is its text rows, then, where it has been spoken,
its audio rows and the end frame; one without audio is its text rows alone, as in transformers' processor. When the
conversation is longer than the model, whole segments leave, oldest first; voice prompts stay.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from duologue.audio import is_silent, read_audio
from duologue.codec.mimi import Mimi
from duologue.errors import AudioError, ContextError, DuologueWarning, OptionError, TextError
from duologue.frames import Rows, Segment, audio_rows, join_rows, text_rows
from duologue.text.script import assign_speakers, parse_messages
from duologue.text.tokenizer import TextTokenizer

MAX_CHARACTERS = 4096

# Kept free for the frames to come: this share of the model's rows, or more for a text that will take longer.
_RESERVED_SHARE = 1 / 4
_SLOW_SECONDS_PER_CHARACTER = 0.1
_LEAST_SECONDS = 1.0
# Resampling and clipping overshoot a little; beyond this the samples are on another scale, such as that of PCM16.
_MAX_PEAK = 2.0
_CACHED_RECORDINGS = 256


def warn(message: str) -> None:
    """Warns with `DuologueWarning` at the line outside this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] == __name__.split(".")[0]:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, DuologueWarning, stacklevel=level)


@dataclass(frozen=True, eq=False)
class CodedSegment:
    """A segment as the model reads it: `codes [K, T]` int64 on the CPU without the end frame, or None if unspoken."""

    speaker: int
    text: str
    codes: Tensor | None = None


@dataclass(frozen=True)
class Prompt:
    """Rows for the backbone, the frames that may follow, and how many segments of the context were left out.

    The first `num_voice_rows` are those of the voice prompts.
    """

    rows: Rows
    max_frames: int
    num_evicted: int
    num_voice_rows: int


def check_speaker(speaker: object) -> int:
    """`speaker` as an int; raises `OptionError` unless it is a whole number from 0."""
    if isinstance(speaker, bool) or not isinstance(speaker, int | np.integer) or speaker < 0:
        raise OptionError(f"speaker {speaker!r}; expected a whole number from 0")
    return int(speaker)


def check_text(text: object, tokenizer: TextTokenizer, normalize: bool | None = None) -> str:
    """`text` if something in it can be spoken; raises `TextError` for what is empty, unspeakable or too long."""
    if not isinstance(text, str):
        raise TextError(f"text must be a string, not {type(text).__name__}")
    if not text.strip():
        raise TextError("the text is empty; expected something to say")
    if len(text) > MAX_CHARACTERS:
        raise TextError(f"the text has {len(text)} characters, at most {MAX_CHARACTERS} at once: split it into turns")
    if not any(character.isalnum() for character in tokenizer.prepare(text, normalize_text=normalize)):
        raise TextError(f"nothing in the text can be spoken: {_excerpt(text)}")
    return text


def _excerpt(text: str, longest: int = 60) -> str:
    return repr(text if len(text) <= longest else text[: longest - 3] + "...")


def check_audio(audio: object, sample_rate: int, max_samples: int, what: str = "the segment's audio") -> Tensor:
    """A recording as float32 `[num_samples]` on the CPU.

    Takes a tensor or numpy array of floats in [-1, 1] at `sample_rate`, of shape `[S]`, `[1, S]` or `[S, 1]`. Raises
    `AudioError` for anything else: other types and shapes, no samples, NaN, silence, or more than `max_samples`.
    """
    if isinstance(audio, np.ndarray) and audio.dtype.kind == "f":
        audio = torch.tensor(audio)
    if not isinstance(audio, Tensor) or not audio.dtype.is_floating_point:
        found = getattr(audio, "dtype", type(audio).__name__)
        raise AudioError(f"{what} is {found}; expected a float32 tensor of samples in [-1, 1] at {sample_rate} Hz")
    if audio.dim() == 2 and 1 in audio.shape:
        audio = audio.reshape(-1)
    if audio.dim() != 1:
        raise AudioError(f"{what} has shape {list(audio.shape)}; expected mono samples [num_samples]")
    if not len(audio):
        raise AudioError(f"{what} is empty (0 s); leave it out where there is none")
    if len(audio) > max_samples:
        raise AudioError(
            f"{what} lasts {len(audio) / sample_rate:.1f} s, at most {max_samples / sample_rate:.1f} s fit: "
            "cut it into shorter pieces"
        )
    samples = audio.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(samples).all()):
        raise AudioError(f"{what} holds NaN or infinite samples")
    peak = float(samples.abs().max())
    if peak > _MAX_PEAK:
        raise AudioError(f"{what} has samples up to {peak:g}; expected float32 in [-1, 1]")
    if is_silent(samples):
        raise AudioError(f"{what} is silent; expected speech")
    return samples


class RecordingCodes:
    """Codes of recordings, each encoded once: the newest are remembered by their samples. Safe to share by threads."""

    def __init__(self, codec: Mimi, num_codebooks: int, capacity: int = _CACHED_RECORDINGS) -> None:
        self.codec = codec
        self.num_codebooks = num_codebooks
        self.capacity = capacity
        self._codes: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def encode(self, samples: Tensor) -> Tensor:
        """`samples [S]` float32 on the CPU -> codes `[K, T]` int64 on the CPU, not to be written to."""
        key = hashlib.blake2b(samples.contiguous().numpy().data, digest_size=16).digest()
        with self._lock:
            if key in self._codes:
                self._codes.move_to_end(key)
                return self._codes[key]
        device = next(self.codec.parameters()).device
        codes = self.codec.encode(samples.to(device)[None, None], num_codebooks=self.num_codebooks)[0].cpu()
        with self._lock:
            self._codes[key] = codes
            while len(self._codes) > self.capacity:
                self._codes.popitem(last=False)
        return codes


def coded_segments(context: object, recordings: RecordingCodes, max_rows: int) -> list[CodedSegment]:
    """The caller's context as the model reads it: a list of `Segment`, coded segments, or messages (see text.script).

    Raises `OptionError` for other things, `ScriptError` for malformed messages, `AudioError` and `TextError` for
    segments that cannot be used.
    """
    if context is None:
        return []
    if isinstance(context, str) or not isinstance(context, Sequence):
        raise OptionError(f"context is {type(context).__name__}; expected a list of duologue.Segment")
    codec = recordings.codec
    items: Sequence[object] = context
    if any(isinstance(item, Mapping) for item in items):
        items = _from_messages(context, codec.sample_rate)
    segments = []
    for index, item in enumerate(items):
        what = f"context segment {index}"
        if isinstance(item, CodedSegment):
            segments.append(item)
            continue
        if not isinstance(item, Segment):
            raise OptionError(f"{what} is {type(item).__name__}; expected a duologue.Segment")
        if not isinstance(item.text, str) or len(item.text) > MAX_CHARACTERS:
            raise TextError(f"the text of {what} must be a string of at most {MAX_CHARACTERS} characters")
        codes = None
        if item.audio is not None:
            limit = max_rows * codec.frame_size
            codes = recordings.encode(check_audio(item.audio, codec.sample_rate, limit, f"the audio of {what}"))
        elif not item.text.strip():
            raise TextError(f"{what} has neither text nor audio; leave it out")
        segments.append(CodedSegment(check_speaker(item.speaker), item.text, codes))
    return segments


class SegmentRows:
    """Rows of segments, each made once for as long as it lives. Safe to share by threads."""

    def __init__(self, tokenizer: TextTokenizer, num_codebooks: int) -> None:
        self._tokenizer, self._num_codebooks = tokenizer, num_codebooks
        self._rows: WeakKeyDictionary[CodedSegment, dict[bool | None, Rows]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __call__(self, segment: CodedSegment, normalize: bool | None = None) -> Rows:
        """`segment_rows`, not to be written to."""
        with self._lock:
            made = self._rows.setdefault(segment, {})
        if normalize not in made:
            made[normalize] = segment_rows(segment, self._tokenizer, self._num_codebooks, normalize)
        return made[normalize]


def segment_rows(
    segment: CodedSegment, tokenizer: TextTokenizer, num_codebooks: int, normalize: bool | None = None
) -> Rows:
    """The rows of one segment; audio is followed by the end frame whoever recorded it."""
    rows = text_rows(tokenizer.encode(segment.text, segment.speaker, normalize_text=normalize), num_codebooks)
    if segment.codes is None:
        return rows
    return join_rows([rows, audio_rows(segment.codes[:num_codebooks])])


def build_prompt(
    speech: CodedSegment,
    context: Sequence[CodedSegment],
    prompts_for: Callable[[Sequence[CodedSegment]], Sequence[CodedSegment]],
    to_rows: Callable[[CodedSegment], Rows],
    *,
    max_rows: int,
    max_frames: int,
    frame_rate: float,
    spare_share: float = 0.0,
) -> Prompt:
    """Voice prompts, as much of the newest context as fits, and the text of `speech`.

    `prompts_for(kept)` gives the voice prompts that go with what is kept of the context. The rows and the frames that
    may follow take at most `max_rows`. Where segments have to leave, more of them do until `spare_share` of the rows is
    free, so that the next turns fit as well.

    Raises `TextError` where the text alone does not fit, `ContextError` where it does not fit with its voice prompts.
    """
    wanted = _SLOW_SECONDS_PER_CHARACTER * len(speech.text) * frame_rate
    reserve = min(max_frames, math.ceil(max(_RESERVED_SHARE * max_rows, wanted)))
    least = min(max_frames, math.ceil(_LEAST_SECONDS * frame_rate))
    last = to_rows(speech)
    if len(last) + least > max_rows:
        raise TextError(
            f"the text takes {len(last)} of the model's {max_rows} rows and leaves no room to speak: split the text"
        )
    spare = math.floor(spare_share * max_rows)
    made: dict[CodedSegment, Rows] = {}  # by identity

    def rows_of(segment: CodedSegment) -> Rows:
        if segment not in made:
            made[segment] = to_rows(segment)
        return made[segment]

    for num_evicted in range(len(context) + 1):
        voices, kept = prompts_for(context[num_evicted:]), context[num_evicted:]
        num_voice_rows = sum(len(rows_of(segment)) for segment in voices)
        taken = num_voice_rows + sum(len(rows_of(segment)) for segment in kept) + len(last)
        if taken + reserve + (spare if num_evicted else 0) <= max_rows:
            break
    if taken + least > max_rows:
        raise ContextError(
            f"the voice prompts and the text take {taken} of the model's {max_rows} rows and leave no room to speak: "
            "use a shorter voice or split the text"
        )
    rows = join_rows([*(rows_of(segment) for segment in (*voices, *kept)), last])
    return Prompt(rows, min(max_frames, max_rows - taken), num_evicted, num_voice_rows)


def _from_messages(messages: Sequence[Mapping[str, Any]], sample_rate: int) -> list[Segment]:
    """Turns of a message list; names that are no numbers get speaker ids in the order of their appearance."""
    turns = parse_messages(messages)
    speakers = assign_speakers(turns)
    return [
        Segment(
            speakers[turn.speaker],
            turn.text,
            read_audio(turn.audio, sample_rate)[0] if isinstance(turn.audio, str | os.PathLike) else turn.audio,
        )
        for turn in turns
    ]
