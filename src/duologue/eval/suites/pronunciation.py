"""Suites of pronunciation: whether a word is said as its sense wants it, and whether one way of saying it is kept.

The words are those of Sesame, "Crossing the uncanny valley of conversational voice" (2025). Only words are asked for
whose pronunciations the instrument can tell apart on references with a known answer; `phones` has how well.
"""

from __future__ import annotations

from collections.abc import Sequence

from duologue.eval.clips import ContextTurn, Request, System
from duologue.eval.lines import Line, load_lines
from duologue.eval.measure import Heard
from duologue.eval.phones import PairAccuracy, pair_accuracy
from duologue.eval.suites.suite import default_voices, request_seed


def homograph_requests(system: System, *, limit: int | None, seed: int) -> list[Request]:
    """Every line with a word that the instrument can judge."""
    return [
        Request(
            line.id,
            line.word,
            line.text,
            request_seed(seed, line.text),
            facts={"word": line.word, "variants": (line.phones, line.other_phones)},
        )
        for line in load_lines("homographs").limited(limit)
        if pair_accuracy()[line.word].separable
    ]


def consistency_requests(system: System, *, limit: int | None, seed: int) -> list[Request]:
    """A turn with each word by the other side, then the answer after it, and the answer by itself as a control."""
    lines = [line for line in load_lines("pronunciation").limited(limit) if pair_accuracy()[line.word].separable]
    voices = default_voices(system)
    before = {_name(line): line for line in lines if line.role == "context"}
    answers = {_name(line): line for line in lines if line.role == "answer"}
    made = [_word_request(line, "before", seed, speaker=1, voice=voices[1]) for line in before.values()]
    for group in ("with", "without") if system.takes_context else ("without",):
        for name, line in answers.items():
            turn = ContextTurn(1, before[name].text, clip=f"before/{name}")
            made.append(
                _word_request(
                    line,
                    group,
                    seed,
                    speaker=0,
                    voice=voices[0],
                    context=(turn,) if group == "with" else (),
                )
            )
    return made


def _name(line: Line) -> str:
    return f"{line.word}-{line.id.partition('/')[2]}"


def _word_request(
    line: Line,
    group: str,
    seed: int,
    *,
    speaker: int,
    voice: str | None,
    context: tuple[ContextTurn, ...] = (),
) -> Request:
    facts = {"word": line.word, "variants": line.variants}
    if group != "before":
        facts["word_before"] = f"before/{_name(line)}"
    return Request(
        f"{group}/{_name(line)}",
        group,
        line.text,
        request_seed(seed, line.text),
        speaker=speaker,
        voice=voice,
        context=context,
        facts=facts,
    )


def intended(heard: Heard) -> dict[str, float]:
    """`word_found`, and if it was, `intended`: whether the first of the variants is the nearer one."""
    said = variant(heard)
    return {"word_found": said["word_found"]} | ({"intended": 1.0 - said["variant"]} if "variant" in said else {})


def variant(heard: Heard) -> dict[str, float]:
    """`word_found`, and if it was, `variant`: the number of the pronunciation that is nearest."""
    facts, sound = heard.request.facts, heard.clip.sound
    said = heard.instruments.pronunciation_judge(
        sound.pcm, sound.sample_rate, heard.request.text, facts["word"], facts["variants"]
    )
    return {"word_found": 0.0} if said is None else {"word_found": 1.0, "variant": float(said.index)}


def homograph_notes() -> tuple[str, ...]:
    """How far the instrument can be trusted with these words, and which were left out."""
    return _notes({line.word for line in load_lines("homographs")})


def consistency_notes() -> tuple[str, ...]:
    """How far the instrument can be trusted with these words, and which were left out."""
    return _notes({line.word for line in load_lines("pronunciation")})


def _notes(words: set[str]) -> tuple[str, ...]:
    pairs = [pair_accuracy()[word] for word in sorted(words)]
    kept, left_out = ([pair for pair in pairs if pair.separable is wanted] for wanted in (True, False))
    notes = [f"The instrument's own accuracy on rendered references: {_accuracies(kept)}."]
    if left_out:
        notes.append(f"Left out, since the instrument cannot tell their pronunciations apart: {_accuracies(left_out)}.")
    return tuple(notes)


def _accuracies(pairs: Sequence[PairAccuracy]) -> str:
    return ", ".join(f"{pair.word} {100 * pair.accuracy:.0f} % (n = {pair.count})" for pair in pairs)
