"""Written English to what a voice says: no digits, no markup, no signs, one line.

`normalize` is a pipeline of small rules, each in the module of its kind: `markup` (Unicode, HTML, Markdown, emoji,
addresses), `words` (abbreviations, Roman numerals, capitals, signs) and `numbers` (dates, times, money, units and all
the rest with digits). Letters of other languages pass unharmed; their numbers are read in English.
"""

import re
import unicodedata
from collections.abc import Callable
from typing import Final

from duologue.text import markup, words
from duologue.text.numbers import speak_numbers

_MAX_PASSES: Final = 8

_KEPT_SYMBOL_CATEGORIES: Final = ("L", "M", "P", "Z")
_DROPPED: Final = frozenset("[]{}<>|\\/*_#@&%~^`$†‡•·¶※⁂⁎⁑")
_KEPT_JOINERS: Final = "\u200c\u200d"


class _SweepTable(dict[int, str]):
    """For `str.translate`: signs that no rule has turned into words become a space."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        category = unicodedata.category(sign)
        is_kept = (
            category[0] in _KEPT_SYMBOL_CATEGORIES and category != "Pc" and sign not in _DROPPED
        ) or category == "Nl"
        self[code] = result = sign if is_kept or sign in _KEPT_JOINERS else " "
        return result


_SWEEP: Final = _SweepTable()

_TIDY: Final[tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...]] = (
    (re.compile(r"\s+"), " "),
    (re.compile(r"\( | \)"), lambda found: found[0].strip()),
    (re.compile(r"\((?:[\s.,;:!?—-]{0,20})\)"), ""),
    (re.compile(r" (?=[.,!?;:])"), ""),
    (re.compile(r"(?:(?<=\s)|^)-(?=\s|$)"), "—"),
    (re.compile(r"(?:\s?—)+\s?"), " — "),
    (re.compile(r"\.{4,}"), "..."),
    (re.compile(r"(?<!\.)\.\.(?!\.)"), "."),
    (re.compile(r"([,;:])(?:\s?[,;:])+"), r"\1"),
    (re.compile(r"[,;:]\s?(?=[.!?])"), ""),
    (re.compile(r"[!?]{2,}"), lambda found: "".join(dict.fromkeys(found[0]))),
    (re.compile(r"(?<=[!?])\.+(?!\w)"), ""),
    (re.compile(r"(?<=[!?.]),+(?!\w)"), ""),
    (re.compile(r"'{2,}|\"{2,}"), ""),
    (re.compile(r"^[\s,;:!?—-]+(?=.*\w)"), ""),
    (re.compile(r"[\s,—-]+$"), ""),
    (re.compile(r" {2,}"), " "),
)


def _sweep(text: str) -> str:
    return text.translate(_SWEEP)


def _tidy(text: str) -> str:
    """Single spaces, none before punctuation; no repeated and no leading punctuation."""
    for pattern, replacement in _TIDY:
        text = pattern.sub(replacement, text)
    return unicodedata.normalize("NFKC", text).strip()


_PIPELINE: Final[tuple[Callable[[str], str], ...]] = (
    markup.strip_html,
    markup.unify_characters,
    markup.strip_links,
    markup.speak_addresses,
    markup.remove_emoji,
    markup.strip_markdown,
    words.expand_abbreviations,
    words.expand_roman_numerals,
    speak_numbers,
    words.speak_signs,
    _sweep,
    words.calm_capitals,
    _tidy,
)


def normalize(text: str) -> str:
    """What is said for `text`: one line without digits, or "" where nothing is left to say.

    Idempotent: the pipeline runs until nothing changes, which is nearly always the second time. Never raises; time
    grows in proportion to the text.
    """
    for _ in range(_MAX_PASSES):
        before = text
        for step in _PIPELINE:
            text = step(text)
        if text == before:
            break
    return text


def speakable(text: str) -> bool:
    """Whether `normalize(text)` leaves a letter to say; a digit becomes letters there."""
    return any(sign.isalnum() for sign in normalize(text))
