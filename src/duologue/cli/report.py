"""What is said about a recording that was made: for a person in one line, for a program as JSON values."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

from duologue.cli import terminal

if TYPE_CHECKING:
    from duologue.engine.speech import Speech

_STOPPED: Final = {
    "cap": "stopped at the cap",
    "length": "stopped for its length",
    "silence": "stopped after a long silence",
    "repetition": "stopped as it repeated itself",
}


def describe(speech: "Speech") -> dict[str, Any]:
    """A `Speech` as JSON values; times in seconds."""
    return {
        "seconds": speech.duration_s,
        "num_frames": speech.codes.shape[-1],
        "total_seconds": speech.total_s,
        "first_audio_seconds": speech.first_audio_s,
        "real_time_factor": real_time_factor(speech.total_s, speech.duration_s),
        "stop_reason": speech.stop_reason,
        "seed": speech.seed,
        "num_evicted": speech.num_evicted,
    }


def real_time_factor(compute_s: float, audio_s: float) -> float | None:
    """Compute time / audio time: below 1 is faster than real time; None where there is no audio."""
    return compute_s / audio_s if audio_s > 0 else None


def timing(audio_s: float, compute_s: float, first_audio_s: float | None) -> str:
    """`3.20 s of audio in 4.10 s (real-time factor 1.28, first audio after 0.41 s)`."""
    factor = real_time_factor(compute_s, audio_s)
    details = [f"real-time factor {factor:.2f}"] if factor is not None else []
    details += [f"first audio after {first_audio_s:.2f} s"] if first_audio_s is not None else []
    return f"{audio_s:.2f} s of audio in {compute_s:.2f} s" + (f" ({', '.join(details)})" if details else "")


def stop_remark(speech: "Speech") -> str:
    """What stopped a turn that did not end by itself; empty for one that did."""
    return _STOPPED.get(speech.stop_reason, "")


def ending(speeches: Sequence["Speech"]) -> str:
    """What is odd about how the turns ended, as the end of a sentence; empty where nothing is."""
    stopped: dict[str, list[int]] = {}
    for index, speech in enumerate(speeches, 1):
        if speech.stop_reason in _STOPPED:
            stopped.setdefault(stop_remark(speech), []).append(index)
    silent = [index for index, speech in enumerate(speeches, 1) if speech.duration_s == 0]
    parts = []
    for remark, turns in stopped.items():
        where = f" in {_turns(turns)}" if len(speeches) > 1 else ""
        parts.append(f"; {remark}{where}")
    if silent:
        where = f" for {_turns(silent)}" if len(speeches) > 1 else ""
        parts.append(f"; the model said nothing{where}: try another --seed")
    return "".join(parts)


def _turns(numbers: Sequence[int]) -> str:
    return ("turns " if len(numbers) > 1 else "turn ") + ", ".join(map(str, numbers))


def name_of(output: str) -> str:
    """How an output is called in a message."""
    return "standard output" if output == "-" else terminal.one_line(output)


def json_stream(output: str) -> TextIO | None:
    """Where the JSON object goes: stdout, or stderr when stdout carries audio or codes."""
    return sys.stderr if output == "-" else sys.stdout
