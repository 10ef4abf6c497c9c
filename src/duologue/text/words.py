"""Abbreviations, initials, Roman numerals, capitals and signs as they are said.

Abbreviations and Roman numerals come before `numbers.speak_numbers` (they look at digits beside them), capitals and
signs after it.
"""

import re
from typing import Final

from duologue.text.numbers import SENTENCE_END, speak_cardinal, speak_ordinal


def _words(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


# --- abbreviations ---------------------------------------------------------------------------------------------------

_TITLES: Final = {
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Dr": "Doctor", "Prof": "Professor", "Rev": "Reverend",
    "Gen": "General", "Col": "Colonel", "Capt": "Captain", "Lt": "Lieutenant", "Sgt": "Sergeant", "Cmdr": "Commander",
    "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Pres": "President", "Hon": "Honorable",
    "Fr": "Father", "Mt": "Mount", "Ft": "Fort", "Messrs": "Messieurs",
}  # fmt: skip
_PLAIN_TITLES: Final = "Mr|Mrs|Ms|Dr|Prof"  # before a name also without a full stop, with one anywhere
_ABBREVIATIONS: Final = {
    "vs": "versus", "e.g": "for example", "i.e": "that is", "etc": "et cetera", "approx": "approximately",
    "dept": "department", "inc": "incorporated", "ltd": "limited", "corp": "corporation", "ave": "avenue",
    "blvd": "boulevard", "rd": "road", "hwy": "highway", "apt": "apartment", "jr": "junior", "sr": "senior",
    "misc": "miscellaneous", "avg": "average", "tel": "telephone", "govt": "government", "assoc": "associates",
    "cf": "compare", "a.k.a": "also known as", "ca": "circa", "bros": "brothers", "vol": "volume", "fig": "figure",
    "figs": "figures", "eq": "equation", "ext": "extension", "est": "established", "max": "maximum", "min": "minimum",
    "incl": "including", "excl": "excluding", "univ": "university", "intl": "international", "natl": "national",
    "mfg": "manufacturing", "temp": "temperature", "p.s": "postscript", "r.s.v.p": "RSVP", "ch": "chapter",
    "jan": "January", "feb": "February", "mar": "March", "apr": "April", "jun": "June", "jul": "July", "aug": "August",
    "sep": "September", "sept": "September", "oct": "October", "nov": "November", "dec": "December",
}  # fmt: skip
_WEEKDAYS: Final = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Weds": "Wednesday", "Thu": "Thursday",
    "Thur": "Thursday", "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
# Also names or words of their own: expanded only in the middle of a sentence, before a small letter or a number.
_AMBIGUOUS: Final = _words("max min est ext vol fig figs eq ch temp ca rd apt")
# Also names, at the end of a sentence: "in Jan." but not "I met Jan."
_NAMES: Final = _words("jan mar jun")
_AFTER_TIME: Final = re.compile(r"(?i)(?:\b(?:in|since|until|till|last|next|this|early|mid|late|by|before|after)|\d) $")
# Oftener the last word of a sentence than an abbreviation before another word.
_SENTENCE_ENDS: Final = _words("etc inc ltd corp mar jun jr sr")
_CAPITALIZED: Final = _words("jan feb mar apr jun jul aug sep sept oct nov dec")

_TITLE: Final = re.compile(rf"(?<![\w.])(?:({_PLAIN_TITLES})(?:\.(?!\w)|(?= [A-Z]))|({'|'.join(_TITLES)})\.(?= [A-Z]))")
_SAINT: Final = re.compile(r"(?:(?<![\w.])([A-Z][a-z]{1,30}) )?(?<![\w.])St\b(\.?)(?=( [A-Z]|)?)")
_DRIVE: Final = re.compile(r"(?<=[a-z] )Dr\.(?! ?[A-Z])")
_ABBREVIATION: Final = re.compile(
    r"(?<![\w.])(?!(?<=\d )min)("
    + "|".join(re.escape(key) for key in sorted(_ABBREVIATIONS, key=len, reverse=True))
    + r")\.",
    re.IGNORECASE,
)
_DAY: Final = "|".join(sorted(_WEEKDAYS, key=len, reverse=True))
_DAY_RANGE: Final = re.compile(rf"(?<![\w-])({_DAY})\.?\s?[-–—]\s?({_DAY})(?![\w-])(\.?)")
_DAY_LIST: Final = re.compile(
    rf"(?<![\w-])(?:{_DAY})(?:\.?(?:, and |, | and | or | & |\s?/\s?)(?:{_DAY})(?!\w)){{1,6}}\.?"
)
_SHORT_MONTH: Final = r"(?:Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sept?|Oct|Nov|Dec)(?:[a-z]{3,6})?"
# "Sat", "Sun" and "Wed" are words, too: a day where a number, a month or a full stop follows.
_DAY_ALONE: Final = re.compile(
    r"(?<![\w'-])(?<![Tt]he )(?<!\b[Oo]ur )(?:(Tues?|Weds|Thu(?:rs?)?)(?![\w'-])\.?"
    rf"|(Mon|Wed|Fri|Sat|Sun)(?:\.(?![\w-])|(?=,? (?:at )?\d)|(?=,? {_SHORT_MONTH}\.? \d)))"
)
_SHORTHAND: Final = (
    (re.compile(r"(?<!\w)vs(?![\w.])"), "versus"),
    (re.compile(r"(?<!\w)etc(?![\w.])"), "et cetera"),
    (re.compile(r"(?<!\w)w/o(?!\w)"), "without"),
    (re.compile(r"(?<!\w)w/ ?(?=[\w\"'])"), "with "),
    (re.compile(r"(?<!\w)b/c(?!\w)"), "because"),
    (re.compile(r"(?<!\w)[Aa]nd/or(?!\w)"), "and or"),
    (re.compile(r"(?<!\w)[Nn]/[Aa](?!\w)"), "not applicable"),
    (re.compile(r"(?<!\w)([Hh]e|[Ss]he|[Hh]is|[Hh]im|[Yy]es|[Ee]ither)/(?=(?:she|he|her|his|no|or)(?!\w))"), r"\1 or "),
    (re.compile(r"(?<!\w)Ph\.D\b\.?"), "PhD"),
    (re.compile(r"(?<!\w)et al\."), "et al"),
)
_INITIALS: Final = re.compile(r"(?<![\w.])((?:[A-Z]\.){1,12}[A-Z])(\.)?(?![\w])|(?<![\w.])(?<!\d )([ap]\.m)(\.)")
_MIDDLE_INITIAL: Final = re.compile(r"(?<![\w.])([A-HJ-Z])\.(?= [A-Z][a-z])")
_CONTINUES: Final = re.compile(r" [a-z0-9(]")
_INITIAL_STOP: Final = re.compile(r"\. [A-Z]")
_SMALL_LETTER: Final = re.compile(r" [a-z]")
_MORE_TEXT: Final = re.compile(r"\s*\S")
_NOT_STREETS: Final = _words("In The At From To Of On By Near And Visit Around Outside Through Since For Old")


def _street_or_saint(found: re.Match[str]) -> str:
    before, has_stop, is_name_next = found[1], found[2], found[3]
    if is_name_next and (before is None or before in _NOT_STREETS):
        return f"{before} Saint" if before else "Saint"
    if before and before not in _NOT_STREETS:
        return f"{before} Street" + ("." if has_stop and SENTENCE_END.match(found.string, found.end()) else "")
    return found[0]


def _abbreviation(found: re.Match[str]) -> str:
    written = found[1]
    key = written.lower()
    ends_sentence = SENTENCE_END.match(found.string, found.end()) is not None
    if key in _AMBIGUOUS and (ends_sentence or not _CONTINUES.match(found.string, found.end())):
        return found[0]
    if key in _CAPITALIZED and not written[0].isupper():
        return found[0]
    if key in _NAMES and ends_sentence and not _AFTER_TIME.search(found.string, 0, found.start()):
        return found[0]
    words = _ABBREVIATIONS[key]
    if (written[0].isupper() and key not in ("e.g", "i.e")) or key in _CAPITALIZED:
        words = words[0].upper() + words[1:]
    return words + ("." if ends_sentence and key not in ("vs", "e.g", "i.e", "cf", "a.k.a") else "")


def _initials(found: re.Match[str]) -> str:
    letters, stop = (found[1], found[2]) if found[1] else (found[3].upper(), found[4])
    at_end = stop and not _MORE_TEXT.match(found.string, found.end())
    return letters.replace(".", "") + ("." if at_end else "")


def _stop_after(found: re.Match[str]) -> str:
    """The full stop of an abbreviation stays where a sentence ends."""
    return "." if found[0].endswith(".") and SENTENCE_END.match(found.string, found.end()) else ""


def _day_range(found: re.Match[str]) -> str:
    return f"{_WEEKDAYS[found[1]]} to {_WEEKDAYS[found[2]]}{_stop_after(found)}"


def _day_list(found: re.Match[str]) -> str:
    days = re.sub(r"\s?/\s?", ", ", found[0].replace(".", ""))
    return re.sub(_DAY, lambda day: _WEEKDAYS[day[0]], days) + _stop_after(found)


def _day_alone(found: re.Match[str]) -> str:
    return _WEEKDAYS[found[1] or found[2]] + _stop_after(found)


def is_abbreviation(word: str) -> bool:
    """Whether a full stop after `word` (itself without) is part of it, as in "Dr." or "e.g."."""
    return word in _TITLES or word in _WEEKDAYS or word.lower() in _ABBREVIATIONS.keys() - _AMBIGUOUS - _SENTENCE_ENDS


def expand_abbreviations(text: str) -> str:
    """`"Dr. Smith, e.g., lives on Main St."` -> "Doctor Smith, for example, lives on Main Street."."""
    for pattern, words in _SHORTHAND:
        text = pattern.sub(words, text)
    text = _DAY_ALONE.sub(_day_alone, _DAY_LIST.sub(_day_list, _DAY_RANGE.sub(_day_range, text)))
    if "St" in text:
        text = _SAINT.sub(_street_or_saint, text)
    text = _DRIVE.sub("Drive", text)
    text = _TITLE.sub(lambda found: _TITLES[found[1] or found[2]], text)
    if "." not in text:
        return text
    text = _ABBREVIATION.sub(_abbreviation, text)
    return _MIDDLE_INITIAL.sub(r"\1", _INITIALS.sub(_initials, text))


# --- Roman numerals --------------------------------------------------------------------------------------------------

_MONARCHS: Final = (
    "Henry|Louis|Elizabeth|George|Edward|Richard|Charles|James|William|Philip|Peter|Catherine|Alexander|Nicholas|Ivan"
    "|Frederick|Napoleon|Francis|Leo|Paul|John|Pius|Benedict|Gregory|Innocent|Clement|Urban|Boniface|Ramesses|Ramses"
    "|Ptolemy|Cleopatra|Darius|Xerxes|Otto|Gustav|Christian|Haakon|Harald|Carl|Karl|Albert|Leopold|Ferdinand|Alfonso"
    "|Wilhelm|Margaret|Mary|Juan Carlos|Felipe|Julius|Sixtus|Adrian|Mehmed|Murad|Robert|Malcolm"
)
_PARTS: Final = (
    "Chapter|Part|Book|Act|Scene|Volume|Section|Article|Phase|Type|Level|Stage|Grade|Class|Episode|Season|World War"
    "|Super Bowl|Title|Appendix|Figure|Table|Mark|Schedule|Tier|Group|Unit|Round"
)
_NOT_NUMBERED: Final = _words("The An A This That My Your His Her Our Their An In On At By")
_MONARCH: Final = re.compile(rf"(?<!\w)({_MONARCHS}) ([IVX]{{1,7}})(?!\w|'(?:m|ll|ve|d)(?!\w))")
_PART: Final = re.compile(rf"(?<!\w)({_PARTS}|CHAPTER|PART|ACT|SCENE|BOOK) ([IVXLC]{{1,9}})(?!\w|')")
_SEQUEL: Final = re.compile(r"(?<!\w)([A-Z][a-z]{1,30}) ([IVX]{2,5})(?![\w'])")
_ROMAN: Final = re.compile(r"(?:C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_ROMAN_VALUES: Final = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


def _roman_value(numeral: str) -> int:
    """0 for what is not a well-formed numeral."""
    if not _ROMAN.fullmatch(numeral):
        return 0
    values = [_ROMAN_VALUES[letter] for letter in numeral]
    return sum(
        -value if value < next_value else value for value, next_value in zip(values, [*values[1:], 0], strict=True)
    )


def _monarch(found: re.Match[str]) -> str:
    value = _roman_value(found[2])
    is_pronoun = found[2] == "I" and _SMALL_LETTER.match(found.string, found.end())
    is_initial = len(found[2]) == 1 and _INITIAL_STOP.match(found.string, found.end())
    return found[0] if not value or is_pronoun or is_initial else f"{found[1]} the {speak_ordinal(str(value))}"


def _numbered_part(found: re.Match[str]) -> str:
    value = _roman_value(found[2])
    is_letter = len(found[2]) == 1 and _SMALL_LETTER.match(found.string, found.end()) and "War" not in found[1]
    return f"{found[1]} {speak_cardinal(str(value))}" if value and not is_letter else found[0]


def _sequel(found: re.Match[str]) -> str:
    value = _roman_value(found[2])
    return f"{found[1]} {speak_cardinal(str(value))}" if value and found[1] not in _NOT_NUMBERED else found[0]


def expand_roman_numerals(text: str) -> str:
    """`"Henry VIII"` -> "Henry the eighth", `"Chapter IV"` -> "Chapter four"; only behind a name that takes them."""
    return _SEQUEL.sub(_sequel, _MONARCH.sub(_monarch, _PART.sub(_numbered_part, text)))


# --- capitals --------------------------------------------------------------------------------------------------------

_KEPT_CAPITALS: Final = _words(
    "NASA FBI CIA USA UK EU UN NATO AI TV DVD CD PC USB NBA NFL NHL MLB CEO CFO CTO ATM DNA RNA GPS HIV AIDS "
    "LGBT LGBTQ NYPD LAPD MIT UCLA NYC LA DC SUV VIP DIY FAQ PDF HTML CSS HTTP HTTPS URL API GPU CPU RAM ROM "
    "LED LCD HD PM RSVP BBC CNN NBC CBS ABC HBO ESPN MTV IBM KFC BMW SAT GPA IQ ID OK UFO UFC WWE JFK MLK FDR "
    "UNESCO UNICEF ASCII IEEE OPEC NAFTA LASER OMG USAID NAACP ASCAP"
)
_SHOUTED: Final = _words(
    "ALL AND ANY ARE BAD BEEN BEST BIG BUT CAN COME COOL DID DO DOES DON'T DONE EVEN EVER FOR FROM FUN GET GO "
    "GOD GOING GOOD GOT HAD HAS HATE HAVE HE HER HERE HEY HIM HIS HOLY HOW I'LL I'M I'VE IF INTO IS ISN'T IT'S "
    "JUST KNOW LIKE LOL LOOK LOT LOVE MADE MAKE MAN MANY ME MORE MOST MUCH MUST MY NEED NEW NICE NO NOT NOW OF "
    "OFF OH OLD ONE ONLY OUR OUT OVER PLS REAL SAY SEE SHE SO SOME STOP SUCH SURE TAKE THAN THAT THE THEM "
    "THEN THEY THIS TIME TOO TRUE TRY TWO UP VERY WAIT WANT WAS WAY WE WELL WENT WERE WHAT WHEN WHY WILL "
    "WITH WOW YEAH YES YET YOU YOUR"
)
_SENTENCE: Final = re.compile(r"[^.!?]+[.!?]*")
_WORD: Final = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_CAPITALS: Final = re.compile(r"(?<![\w'-])[A-Z]+(?:'[A-Z]+)?(?![\w])")
_LONG_CLUSTER: Final = re.compile(r"[BCDFGHJKLMNPQRSTVWXZ]{5}")


def _lower_shouting(sentence: str) -> str:
    capitals = [found[0] for found in _CAPITALS.finditer(sentence) if len(found[0]) > 1]
    if not capitals:
        return sentence
    num_words = sum(1 for found in _WORD.finditer(sentence) if len(found[0]) > 1)
    is_shouted = len(capitals) >= 2 and len(capitals) >= 0.6 * num_words

    start = len(sentence) - len(sentence.lstrip(" \"'("))

    def lower(found: re.Match[str]) -> str:
        word = found[0]
        has_vowel = any(letter in "AEIOU" for letter in word)
        if len(word) < 2 or word in _KEPT_CAPITALS:
            return word
        looks_like_a_word = len(word) >= 5 and has_vowel and not _LONG_CLUSTER.search(word)
        if not (word in _SHOUTED or looks_like_a_word or (is_shouted and has_vowel)):
            return word
        return word.capitalize() if found.start() == start or word.startswith("I'") else word.lower()

    return _CAPITALS.sub(lower, sentence)


def calm_capitals(text: str) -> str:
    """`"I AM SO HAPPY"` -> "I am so happy"; "NASA", "TV" and other initialisms keep their capitals."""
    if not _CAPITALS.search(text):
        return text
    return _SENTENCE.sub(lambda found: _lower_shouting(found[0]), text)


# --- signs -----------------------------------------------------------------------------------------------------------

_SIGNS: Final = (
    (re.compile(r"(?<!\w)([CFGDA])#(?!\w)"), r"\1 sharp"),
    (re.compile(r"(?<!\w)C\+\+"), "C plus plus"),
    (re.compile(r"(?<=\w)\+(?![\w])"), " plus"),
    (re.compile(r"(?:<-+>|-+>|=+>|→|⇒|➔)"), " to "),
    (re.compile(r"<-+|<=(?= )|≤"), " is at most "),
    (re.compile(r">=|≥"), " is at least "),
    (re.compile(r"!=|≠"), " is not "),
    (re.compile(r"(?<= )<(?= )"), " less than "),
    (re.compile(r"(?<= )>(?= )"), " greater than "),
    (re.compile(r"(?<=\w)\s?/\s?(?=\w)"), " slash "),
    (re.compile(r"#(?=[^\W\d_])"), "hashtag "),
    (re.compile(r"={2,}|(?<!\S)(?:\+|&|@|=)(?=\s*$)"), " "),
)
_SIGN_WORDS: Final = {
    "&": "and", "@": "at", "+": "plus", "=": "equals", "%": "percent", "×": "times", "÷": "divided by",
    "±": "plus or minus", "≈": "about", "√": "square root of", "∞": "infinity", "§": "section", "°": "degrees",
}  # fmt: skip
_SIGN: Final = re.compile("[" + "".join(map(re.escape, _SIGN_WORDS)) + "]")


def speak_signs(text: str) -> str:
    """`"AT&T + C# -> yes"` -> "AT and T plus C sharp to yes"."""
    for pattern, words in _SIGNS:
        text = pattern.sub(words, text)
    return _SIGN.sub(lambda found: f" {_SIGN_WORDS[found[0]]} ", text)
