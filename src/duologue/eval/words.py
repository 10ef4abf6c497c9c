"""Words said against words heard: errors per utterance, repetition loops, cut endings.

Sources: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022), appendix C, for the
normalisers (package `whisper-normalizer`); the alignment is that of `jiwer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from duologue.errors import EvaluationError

MISUNDERSTOOD = 0.5  # a word error rate above this counts as an utterance that was not understood
_LOOP_TURNS = 3
_LOOP_WORDS = 6


@dataclass(frozen=True)
class WordErrors:
    """One utterance: words of the text, errors by kind, and whether the last word was heard."""

    num_words: int
    substitutions: int
    deletions: int
    insertions: int
    num_characters: int
    character_errors: int
    last_word_heard: bool

    @property
    def errors(self) -> int:
        """Errors of all kinds."""
        return self.substitutions + self.deletions + self.insertions


class WordScorer:
    """Compares what was heard with what should have been said, both after Whisper's normaliser for the language."""

    def __init__(self, language: str = "en") -> None:
        """Raises `EvaluationError` where the extra `eval` is not installed."""
        try:
            import jiwer
            from whisper_normalizer.basic import BasicTextNormalizer
            from whisper_normalizer.english import EnglishTextNormalizer
        except ImportError as error:
            raise EvaluationError(f"{error.name} is not installed: pip install 'duologue[eval]'") from error
        self._jiwer: Any = jiwer
        self._normalize: Any = EnglishTextNormalizer() if language == "en" else BasicTextNormalizer()

    def normalize(self, text: str) -> str:
        """`"Hmm, it's $5."` -> `"it is $5"`: lower case, no punctuation or fillers, one spelling of each word.

        Of other languages than English lower case without punctuation.
        """
        return str(self._normalize(text)).strip()

    def __call__(self, text: str, heard: str) -> WordErrors:
        """Aligns the two. A text that the normaliser leaves empty has no words: all that was heard is insertions."""
        wanted, found = self.normalize(text), self.normalize(heard)
        characters = wanted.replace(" ", "")
        if not wanted:
            return WordErrors(0, 0, 0, len(found.split()), 0, len(found.replace(" ", "")), last_word_heard=True)
        words = self._jiwer.process_words(wanted, found)
        letters = self._jiwer.process_characters(characters, found.replace(" ", ""))
        last = (
            words.alignments[0][-1]
            if not found
            else next(chunk for chunk in reversed(words.alignments[0]) if chunk.type != "insert")
        )
        return WordErrors(
            num_words=len(wanted.split()),
            substitutions=words.substitutions,
            deletions=words.deletions,
            insertions=words.insertions,
            num_characters=len(characters),
            character_errors=letters.substitutions + letters.deletions + letters.insertions,
            last_word_heard=last.type != "delete",
        )

    def loops(self, text: str, heard: str) -> bool:
        """Whether some words are heard three times or more in a row that the text does not repeat as often."""
        wanted, found = self.normalize(text).split(), self.normalize(heard).split()
        return any(
            _longest_loop(found, length) >= max(_LOOP_TURNS, _longest_loop(wanted, length) + 1)
            for length in range(1, _LOOP_WORDS + 1)
        )


def _longest_loop(words: list[str], length: int) -> int:
    """How often the most repeated run of `length` words comes in a row."""
    best = 0
    for start in range(len(words) - length + 1):
        run, turns, at = words[start : start + length], 1, start + length
        while words[at : at + length] == run:
            turns, at = turns + 1, at + length
        best = max(best, turns)
    return best
