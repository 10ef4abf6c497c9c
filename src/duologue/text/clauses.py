"""Text that is still being written, cut into clauses that can be spoken while the rest arrives.

A clause ends with a sentence, at a line's end, or, once it is long enough to sound like one, at a comma or a dash. What
follows a mark decides whether it is one ("3.5", "e.g. this"), so that nothing ends before the next character is there.
"""

from __future__ import annotations

import re
from typing import Final

from duologue.text.words import is_abbreviation

# Characters after which a comma ends a clause: the first should come soon, the others should sound whole.
FIRST_CLAUSE, NEXT_CLAUSES = 20, 60
# Without any mark a clause ends at the last space before this.
LONGEST_CLAUSE = 240

_CLOSING: Final = "\"'”’)\\]"
_WIDE_STOP, _WIDE_CLOSING, _WIDE_COMMA = "。！？", "」』”’）", "，；：、"
_MARK: Final = re.compile(
    rf"(?P<sentence>[.!?…]+[{_CLOSING}]*(?=\s)|[{_WIDE_STOP}]+[{_WIDE_CLOSING}]*(?=[^{_WIDE_STOP}{_WIDE_CLOSING}])|\n)"
    rf"|(?P<clause>[,;:][{_CLOSING}]*(?=\s)|[—–]+(?=[^—–])|[{_WIDE_COMMA}]+(?=[^{_WIDE_COMMA}]))"
)
_LAST_WORD: Final = re.compile(r"[\w.]+$")


class ClauseSplitter:
    """Pieces of a text in, whole clauses out; what they are joined to is the text but for space between clauses."""

    def __init__(self, first: int = FIRST_CLAUSE, following: int = NEXT_CLAUSES, longest: int = LONGEST_CLAUSE) -> None:
        """`first` and `following` are the characters after which a comma may end the first clause and the others."""
        self._least, self._following, self._longest = first, following, longest
        self._text = ""

    def feed(self, piece: str) -> list[str]:
        """The clauses that are whole now."""
        self._text += piece
        clauses = []
        while (end := self._end()) is not None:
            clauses += self._take(end)
        return clauses

    def flush(self) -> list[str]:
        """The text is over: its last clause, if there is one."""
        return self._take(len(self._text))

    def _take(self, end: int) -> list[str]:
        clause, self._text = self._text[:end].strip(), self._text[end:]
        if not any(character.isalnum() for character in clause):
            # Marks alone are not spoken; they go with what follows, or are nothing.
            return []
        self._least = self._following
        return [clause]

    def _end(self) -> int | None:
        """Where the first clause ends, or None while that is not known."""
        for found in _MARK.finditer(self._text):
            before = self._text[: found.start()].strip()
            if found.end() > self._longest or not before:
                continue
            if found.group("sentence"):
                if not (found.group() == "." and _abbreviates(before)):
                    return found.end()
            elif len(before) >= self._least:
                return found.end()
        if len(self._text) <= self._longest:
            return None
        space = self._text.rfind(" ", 0, self._longest)
        return space if space > 0 else self._longest


def _abbreviates(before: str) -> bool:
    """Whether a full stop after `before` belongs to its last word: an abbreviation, or an initial."""
    found = _LAST_WORD.search(before)
    if found is None:
        return False
    word = found.group()
    return is_abbreviation(word) or (len(word) == 1 and word.isupper() and word != "I")
