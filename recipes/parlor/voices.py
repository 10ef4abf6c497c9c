"""The voices that parlor ships: reference turns of training voices, and the real voice of a volunteer."""

from __future__ import annotations

from duologue.data.prompts import Named

SHIPPED = (
    Named("joe", "joe", "synthetic, low, made from recordings in the public domain (Piper joe)"),
    Named("kathleen", "kathleen", "a volunteer's real voice, CC0 (rhasspy/dataset-voice-kathleen)"),
    Named("theo", "ko-k", "synthetic (Kokoro kumo)"),
    Named("anna", "ko-a", "synthetic (Kokoro alpha)"),
    Named("max", "joe-121", "synthetic, young (Piper joe, pitch and formants raised)"),
    Named("sam", "joe-84", "synthetic, deep (Piper joe, pitch and formants lowered)"),
)
