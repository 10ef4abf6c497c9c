"""Voices out of coded turns: which turn introduces a voice, and the files that a checkpoint carries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from duologue.data.shards import CodedTurn
from duologue.engine.voices import Voice, VoiceSegment, save_voice
from duologue.errors import DataError

# Frames of a reference turn: 2.5 to 5 s.
_PROMPT_FRAMES = (32, 62)


class Named(NamedTuple):
    """A voice as it is to be called, as the turns call it, and what it is."""

    name: str
    source: str
    description: str = ""


def choose_prompt(conversations: Iterable[Sequence[CodedTurn]], voice: str) -> CodedTurn:
    """The reference turn of a voice: a whole sentence of 2.5 to 5 s, as near to the middle of that as there is.

    Where there is none, a turn as near as can be had; raises `DataError` where the voice has no turn at all.
    """
    turns = [turn for conversation in conversations for turn in conversation if turn.voice == voice]
    if not turns:
        raise DataError(f"no turn is of the voice {voice}")
    return ranked_prompts(turns)[0]


def ranked_prompts(turns: Iterable[CodedTurn]) -> list[CodedTurn]:
    """Turns of one voice, those first that introduce it well by `choose_prompt`'s rule."""
    low, high = _PROMPT_FRAMES

    def distance(turn: CodedTurn) -> tuple[bool, float, str]:
        length = turn.codes.shape[1]
        is_good = low <= length <= high and turn.text.rstrip()[-1:] in ".?!"
        return not is_good, abs(length - (low + high) / 2), turn.text

    return sorted(turns, key=distance)


def write_voices(
    folder: Path, conversations: Sequence[Sequence[CodedTurn]], voices: Sequence[Named], *, fingerprint: str
) -> list[str]:
    """Writes one file for each of the voices that the turns have, and their order; gives the names of those written.

    `fingerprint` is that of the codec which made the codes.
    """
    known = {turn.voice for conversation in conversations for turn in conversation}
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, source, description in voices:
        if source in known:
            prompt = choose_prompt(conversations, source)
            codes = torch.from_numpy(prompt.codes.astype("int64"))
            voice = Voice(name, description, (VoiceSegment(prompt.text, codes),), fingerprint)
            save_voice(voice, folder / f"{name}.safetensors")
            names.append(name)
    write_order(folder, names)
    return names


def write_order(folder: Path, names: Sequence[str]) -> None:
    """Says in which order the voices of a folder come."""
    (folder / "order.json").write_text(json.dumps(list(names), indent=2) + "\n", encoding="utf-8")
