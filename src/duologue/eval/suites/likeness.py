"""How near a voice is to another recording, and whether it stays where it began."""

from __future__ import annotations

from typing import Final

from duologue.eval.instruments import similarity
from duologue.eval.measure import Heard

_LEAST_HALF_S: Final = 1.6  # what the speaker encoder takes in at a time


def reference_similarity(heard: Heard) -> dict[str, float]:
    """`reference_similarity`: how near the voice is to that of the recording it is compared with."""
    reference, encoder = heard.reference, heard.instruments.speaker_encoder
    if reference is None:
        return {}
    ours = encoder(heard.clip.sound.pcm, heard.clip.sound.sample_rate)
    theirs = encoder(reference.pcm, reference.sample_rate)
    return {} if ours is None or theirs is None else {"reference_similarity": similarity(ours, theirs)}


def halves(heard: Heard) -> dict[str, float]:
    """`drift_within`: how much nearer to the voice's prompt the second half of an utterance is than the first."""
    pcm, rate, encoder = heard.clip.sound.pcm, heard.clip.sound.sample_rate, heard.instruments.speaker_encoder
    if heard.prompt is None or heard.clip.sound.duration_s < 2 * _LEAST_HALF_S:
        return {}
    first, second = (encoder(part, rate) for part in (pcm[: len(pcm) // 2], pcm[len(pcm) // 2 :]))
    if first is None or second is None:
        return {}
    return {"drift_within": similarity(second, heard.prompt) - similarity(first, heard.prompt)}
