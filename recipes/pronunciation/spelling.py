"""How each variant of a word is put into a synthesizer's phonemes: eSpeak's line, with one word written by hand.

Diphthongs and affricates are tied with `^`, which `duologue.text.phonemes.fold_ipa` reads and Piper is not shown.
"""

from __future__ import annotations

import re
from typing import Final

from duologue.errors import EvaluationError
from duologue.text.phonemes import fold_ipa

SPELLINGS: Final[dict[tuple[str, str], tuple[str, ...]]] = {
    ("lead", "L EH D"): ("lˈɛd",),
    ("lead", "L IY D"): ("lˈiːd",),
    ("bass", "B EY S"): ("bˈe^ɪs",),
    ("bass", "B AE S"): ("bˈæs",),
    ("tear", "T IH R"): ("tˈɪɹ",),
    ("tear", "T EH R"): ("tˈɛɹ",),
    ("wound", "W UW N D"): ("wˈuːnd",),
    ("wound", "W AW N D"): ("wˈa^ʊnd",),
    ("row", "R OW"): ("ɹˈo^ʊ",),
    ("row", "R AW"): ("ɹˈa^ʊ",),
    ("aunt", "AE N T"): ("ˈænt",),
    ("aunt", "AA N T"): ("ˈɑːnt",),
    ("data", "D EY T AH"): ("dˈe^ɪɾə",),
    ("data", "D AE T AH"): ("dˈæɾə",),
    ("envelope", "EH N V AH L OW P"): ("ˈɛnvəlˌo^ʊp",),
    ("envelope", "AA N V AH L OW P"): ("ˈɑːnvəlˌo^ʊp",),
    ("mobile", "M OW B AH L"): ("mˈo^ʊbəl",),
    ("mobile", "M OW B AY L"): ("mˈo^ʊba^ɪl",),
    ("route", "R UW T"): ("ɹˈuːt",),
    ("route", "R AW T"): ("ɹˈa^ʊt",),
    ("vase", "V EY S"): ("vˈe^ɪs",),
    ("vase", "V AA Z"): ("vˈɑːz",),
    ("either", "IY DH ER"): ("ˈiːðɚ",),
    ("either", "AY DH ER"): ("ˈa^ɪðɚ",),
    ("adult", "AH D AH L T"): ("ɐdˈʌlt",),
    ("adult", "AE D AH L T"): ("ˈædʌlt",),
    ("often", "AO F AH N"): ("ˈɔfən",),
    ("often", "AO F T AH N"): ("ˈɔftən",),
    ("caramel", "K EH R AH M AH L"): ("kˈæɹəməl", "kˈɛɹəməl"),  # as before r in the East and in the West of the US
    ("caramel", "K AA R M AH L"): ("kˈɑːɹməl",),
}
"""By word and ARPAbet phones. Where a variant has several spellings, a voice takes them in turn."""

_LINKING_R: Final = re.compile("(?<=ɚ)ɹ$|(?<=əɹ)ɹ$")
_MARKS: Final = ".,!?;:—…"
_STRESS: Final = re.compile("[ˈˌ]")


def spell(word: str, phones: str, turn: int = 0) -> str:
    """The IPA of a variant; raises `EvaluationError` for one that nobody has written down."""
    try:
        spellings = SPELLINGS[word, phones]
    except KeyError:
        raise EvaluationError(
            f"no IPA for {word!r} as {phones}: add it to SPELLINGS in recipes/pronunciation/spelling.py"
        ) from None
    return spellings[turn % len(spellings)]


def respell(sentence: str, word: str, ipa: str, *, folded: bool) -> str:
    """A line of eSpeak's phonemes with `word` said as `ipa`; an r that eSpeak adds before a vowel stays.

    `folded` tells Duologue's alphabet from eSpeak's own. Raises `EvaluationError` unless exactly one word of the line
    is a known way of saying `word`.
    """

    def written(tied: str) -> str:
        return fold_ipa(tied) if folded else tied.replace("^", "")

    known = {_STRESS.sub("", written(tied)) for (name, _), forms in SPELLINGS.items() if name == word for tied in forms}
    pieces = sentence.split(" ")
    found = [number for number, piece in enumerate(pieces) if _bare(piece) in known]
    if len(found) != 1:
        raise EvaluationError(f"{word!r} is not said once in {sentence!r}; known are {', '.join(sorted(known))}")
    spoken = pieces[found[0]]
    letters = spoken.rstrip(_MARKS)
    linking = "ɹ" if _LINKING_R.search(letters) else ""
    pieces[found[0]] = written(ipa) + linking + spoken[len(letters) :]
    return " ".join(pieces)


def _bare(piece: str) -> str:
    return _LINKING_R.sub("", _STRESS.sub("", piece).rstrip(_MARKS))
