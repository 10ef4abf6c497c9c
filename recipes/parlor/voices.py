"""The voices that parlor ships: reference turns of training voices, and the real voice of a volunteer."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from duologue.codec.mimi import Mimi
from duologue.data.shards import CodedTurn, TurnStore
from duologue.engine.voices import Voice, VoiceSegment, codec_fingerprint, save_voice
from duologue.errors import TrainingError

# Name, the corpus' voice, what it is.
SHIPPED = (
    ("joe", "joe", "synthetic, low, made from recordings in the public domain (Piper joe)"),
    ("kathleen", "kathleen", "a volunteer's real voice, CC0 (rhasspy/dataset-voice-kathleen)"),
    ("theo", "ko-k", "synthetic (Kokoro kumo)"),
    ("anna", "ko-a", "synthetic (Kokoro alpha)"),
    ("max", "joe-121", "synthetic, young (Piper joe, pitch and formants raised)"),
    ("sam", "joe-84", "synthetic, deep (Piper joe, pitch and formants lowered)"),
)
_PROMPT_FRAMES = (32, 62)


def choose_prompt(turns: TurnStore, voice: str) -> CodedTurn:
    """The reference turn of a voice: 2.5 to 5 s, a whole sentence, as near to the middle of that as there is."""
    low, high = _PROMPT_FRAMES
    candidates = [
        turn
        for conversation in turns.conversations
        for turn in conversation
        if turn.voice == voice and low <= turn.codes.shape[1] <= high and turn.text[-1] in ".?!"
    ]
    if not candidates:
        raise TrainingError(f"the voice {voice} has no turn of {low} to {high} frames to serve as its prompt")
    return min(candidates, key=lambda turn: (abs(turn.codes.shape[1] - (low + high) / 2), turn.text))


def write_voices(folder: Path, turns: TurnStore, codec: Mimi) -> None:
    """Writes one file a voice, and their order; voices that the corpus lacks are left out."""
    known = {turn.voice for conversation in turns.conversations for turn in conversation}
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for name, source, description in SHIPPED:
        if source not in known:
            continue
        prompt = choose_prompt(turns, source)
        codes = torch.from_numpy(prompt.codes.astype("int64"))
        voice = Voice(name, description, (VoiceSegment(prompt.text, codes),), codec_fingerprint(codec))
        save_voice(voice, folder / f"{name}.safetensors")
        names.append(name)
    (folder / "order.json").write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")
