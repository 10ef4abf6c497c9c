"""The suites, and how they are found by name."""

from __future__ import annotations

from collections.abc import Sequence

from duologue.errors import EvaluationError
from duologue.eval.suites.conversation import context_requests, drift_requests
from duologue.eval.suites.fidelity import codec_requests, fidelity
from duologue.eval.suites.likeness import halves, reference_similarity
from duologue.eval.suites.pronunciation import (
    consistency_notes,
    consistency_requests,
    homograph_notes,
    homograph_requests,
    intended,
    variant,
)
from duologue.eval.suites.suite import Suite, each_line, together

ALL = "all"
_WORDS = ("wer", "cer", "misunderstood", "failed")
_STOPS = ("cap", "trailing_silence", "long_silence", "cut", "loops")

_ALL = (
    Suite(
        "intelligibility",
        "Is it understood?",
        ("intelligibility",),
        (*_WORDS, "pace"),
        each_line("intelligibility"),
    ),
    Suite(
        "robustness",
        "Does it read what people write?",
        ("robustness",),
        (*_WORDS, "loops"),
        each_line("robustness"),
    ),
    Suite(
        "similarity",
        "Is it the voice that was asked for, and does it stay?",
        ("similarity",),
        ("similarity", "right_voice", "drift_within", "drift_turns", "pitch", "failed"),
        together(each_line("similarity", ("single",), in_all_voices=True), drift_requests),
        besides=(halves,),
    ),
    Suite(
        "naturalness",
        "How does it sound?",
        ("intelligibility",),
        ("overall", "signal", "background", "p808", "failed"),
        each_line("intelligibility", ("conversational", "plain")),
    ),
    Suite(
        "stopping",
        "Does it end where the text ends?",
        ("stopping",),
        ("stops_badly", *_STOPS, "wer", "failed"),
        each_line("stopping"),
    ),
    Suite(
        "context",
        "Does it go on as the conversation went?",
        ("context",),
        (
            "carry_pace",
            "carry_pitch",
            "carry_level",
            "pace_follows",
            "pace_unheard",
            "turn_similarity",
            "pace_step",
            "pitch_step",
            "level_step",
            "similarity",
            "wer",
            "failed",
        ),
        context_requests,
        kind="speech",
        besides=(reference_similarity,),
        has_conditions=True,
    ),
    Suite(
        "homographs",
        "Does it say words as their sense wants it?",
        ("homographs",),
        ("intended", "word_found", "failed"),
        homograph_requests,
        kind="speech",
        besides=(intended,),
        notes=homograph_notes,
    ),
    Suite(
        "pronunciation",
        "Does it keep to one pronunciation of a word?",
        ("pronunciation",),
        ("consistency", "variant", "word_found", "failed"),
        consistency_requests,
        kind="speech",
        besides=(variant,),
        notes=consistency_notes,
        has_conditions=True,
    ),
    Suite(
        "codec",
        "What does its codec leave of a recording?",
        ("codec",),
        (
            "added_wer",
            "original_similarity",
            "added_overall",
            "stoi",
            "mel_distance",
            "bitrate",
            "codebook_use",
            "wer",
            "overall",
            "failed",
        ),
        codec_requests,
        kind="codec",
        besides=(fidelity, reference_similarity),
        has_conditions=True,
    ),
    Suite(
        "speed",
        "How fast is it?",
        ("intelligibility",),
        ("rtf_p50", "rtf_p95", "first_audio_p50", "first_audio_p95", "underruns", "memory", "failed"),
        each_line("intelligibility", ("conversational", "long")),
        kind="speed",
        listens=False,
    ),
)

SUITES: dict[str, Suite] = {suite.name: suite for suite in _ALL}


def find_suites(names: Sequence[str]) -> list[Suite]:
    """The suites by name, each once, in the order of the table; "all" stands for every one.

    Raises `EvaluationError` for a name that is none.
    """
    unknown = [name for name in names if name not in SUITES and name != ALL]
    if unknown:
        raise EvaluationError(f"unknown suite {unknown[0]!r}; expected {ALL} or some of {', '.join(SUITES)}")
    return [suite for suite in SUITES.values() if ALL in names or suite.name in names]
