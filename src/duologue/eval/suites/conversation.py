"""Suites of conversation: what a system makes of the turns before, and whether its voices keep over many.

Context. Every answer is spoken without history, after two turns that the system itself has spoken, after the two turns
of another answer ("swapped", the control), and after its own two turns altered: slower and faster, lower and higher,
softer and louder. The texts are neutral, so that only the sound of the history can tell how to go on. Carry-over is how
far the answer follows: 0 where it does not care, 1 where it changes as much as the history did.
"""

from __future__ import annotations

from duologue.eval.changes import change_speed, gain, shift_pitch
from duologue.eval.clips import Change, ContextTurn, Request, Sound, System
from duologue.eval.lines import Line, load_lines
from duologue.eval.suites.suite import default_voices, line_request, request_seed

PACE_FACTOR = 1.25
SEMITONES = 2.0
GAIN_DB = 5.0
CHANGES = {
    "slower": Change(pace=1 / PACE_FACTOR),
    "faster": Change(pace=PACE_FACTOR),
    "lower": Change(semitones=-SEMITONES),
    "higher": Change(semitones=SEMITONES),
    "softer": Change(gain_db=-GAIN_DB),
    "louder": Change(gain_db=GAIN_DB),
}
CONDITIONS = ("without", "with", "swapped", *CHANGES)


def alter(sound: Sound, change: Change) -> Sound:
    """The recording with the change made to it; raises `EvaluationError` where the extra `eval` is not installed."""
    pcm, rate = sound.pcm, sound.sample_rate
    if change.pace != 1:
        pcm = change_speed(pcm, rate, factor=change.pace)
    if change.semitones:
        pcm = shift_pitch(pcm, rate, semitones=change.semitones)
    if change.gain_db:
        pcm = gain(pcm, rate, by_db=change.gain_db)
    return Sound(pcm, rate)


def context_requests(system: System, *, limit: int | None, seed: int) -> list[Request]:
    """The turns of the histories first, then every answer in every condition that the system can be put in."""
    answers = [line for line in load_lines("context").limited(limit) if line.group == "carry"]
    turns = load_lines("context").groups["history"]
    voices = default_voices(system)
    used = sorted({index for number in range(len(answers) + 1) for index in _turns_before(number, len(turns))})
    made = [_history_request(turns[index], index % 2, seed, voices) for index in used]
    conditions = CONDITIONS if system.takes_context else ("without",)
    for condition in conditions:
        for number, line in enumerate(answers):
            own, other = (turns[index] for index in _turns_before(number, len(turns)))
            swapped = (turns[index] for index in _turns_before(number + 1, len(turns)))
            before = {"without": (), "swapped": tuple(swapped)}.get(condition, (own, other))
            made.append(_answer(line, condition, own, before, seed, voices[0]))
    return made


def _turns_before(number: int, count: int) -> tuple[int, int]:
    """Of the answer's own side, which has the even turns, and of the other."""
    return 2 * number % count, (2 * number + 1) % count


def _history_request(line: Line, speaker: int, seed: int, voices: tuple[str | None, str | None]) -> Request:
    return Request(line.id, "turn", line.text, request_seed(seed, line.text), speaker=speaker, voice=voices[speaker])


def _answer(line: Line, condition: str, own: Line, before: tuple[Line, ...], seed: int, voice: str | None) -> Request:
    change = CHANGES.get(condition, Change())
    return Request(
        f"{condition}/{line.id.partition('/')[2]}",
        condition,
        line.text,
        request_seed(seed, line.text),
        voice=voice,
        context=tuple(
            ContextTurn(speaker, turn.text, clip=turn.id, change=change) for speaker, turn in enumerate(before)
        ),
        reference=own.id,
        facts={"own_turn": own.id},
    )


def drift_requests(system: System, *, limit: int | None, seed: int) -> list[Request]:
    """Conversations of ten turns, each turn after all the ones before, the voices of the system two by two."""
    voices = system.voices()
    made: list[Request] = []
    history: list[ContextTurn] = []
    for line in load_lines("similarity").limited(limit):
        if line.group != "drift":
            continue
        conversation, turn = (int(part) for part in line.id.partition("/")[2].split("."))
        if turn == 1:
            history = []
        voice = voices[(2 * (conversation - 1) + line.speaker) % len(voices)] if voices else None
        asked = line_request(line, seed, voice=voice)
        made.append(
            Request(
                asked.id,
                asked.group,
                asked.text,
                asked.seed,
                speaker=line.speaker,
                voice=voice,
                context=tuple(history) if system.takes_context else (),
                facts={**asked.facts, "turn": turn},
            )
        )
        history.append(ContextTurn(line.speaker, line.text, clip=line.id))
    return made
