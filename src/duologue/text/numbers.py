"""Numbers as they are said: dates, times, money, units, phone numbers, versions, years, ordinals, cardinals.

`speak_numbers` takes text whose digits are ASCII and leaves none. Its rules run in order, from the most specific
shape to the bare digit; each is a pattern and a small function of its match. American readings. The words of cardinals
and ordinals are those of the library num2words, without commas.

Every pattern is tried at the start of a number only, or is bounded, so that the time stays linear in the text.
"""

import itertools
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from num2words import num2words

from duologue.text.units import CURRENCIES, MAGNITUDES, PER, UNITS

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]

SENTENCE_END: Final = re.compile(r"[\"')]?(?:\s*\Z|\s+[\"'(]?[A-Z])")
"""Matches behind a full stop that may end a sentence: at the end of the text, or before a capital letter."""

_LONGEST_CARDINAL: Final = 15  # digits; above that a number is read digit by digit
_DIGIT_WORDS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June", "July",
    "August", "September", "October", "November", "December",
)  # fmt: skip
_MONTH: Final = (
    r"(Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?"
    r"|Oct(?:ober)?|Nov(?:ember)?|Dec(?:ember)?)\b\.?"
)
_NUMBER: Final = r"(?:\d{1,3}(?:,\d{3}){1,5}|\d{1,18})(?:\.\d{1,18})?"
_START: Final = r"(?<![\w.,])"
_WEEKDAYS: Final = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
# Nouns that a number with a letter names one of: exit 42B has nothing to do with billions, room 12L not with liters.
_LABELLED: Final = (
    "exit|gate|room|apartment|suite|unit|seat|row|flight|platform|building|section|route|highway|terminal|bus|line"
    "|track|floor|block|box|form|appendix|figure|table|chapter|question|exercise|part|page|step|locker|lot|phase|class"
    "|grade|title|article|rule|level|hall|bay|dock|pier|zone|schedule|paragraph"
)
_FRACTION_FOLLOWS: Final = (
    r" ?(?:of|an?|the|inch|in|cup|acre|mile|hour|teaspoon|tablespoon|tsp|tbsp|pound|lb|ounce|oz|full|done|complete"
    r"|majority|share|stake|scale)(?:e?s)?(?!\w)"
)

_SET_PHRASES: Final = {
    "24/7": "twenty-four seven",
    "9/11": "nine eleven",
    "50/50": "fifty-fifty",
    "20/20": "twenty-twenty",
}


# --- words of one number ---------------------------------------------------------------------------------------------


@lru_cache(maxsize=8192)
def _num2words(number: int, kind: str) -> str:
    return str(num2words(number, to=kind)).replace(",", "")


def speak_digits(digits: str) -> str:
    """`"407"` -> "four zero seven"; anything between the digits is dropped."""
    return " ".join(_DIGIT_WORDS[int(digit)] for digit in digits if digit.isdigit())


def speak_cardinal(number: str) -> str:
    """`"1,234.50"` -> "one thousand two hundred and thirty-four point five zero". Long numbers go digit by digit."""
    whole, _, decimals = number.replace(",", "").partition(".")
    if len(whole) > _LONGEST_CARDINAL or (len(whole) > 1 and whole.startswith("0")):
        words = speak_digits(whole)
    else:
        words = _num2words(int(whole), "cardinal") if whole else ""
    return f"{words} point {speak_digits(decimals)}".strip() if decimals else words


def speak_ordinal(number: str) -> str:
    """`"21"` -> "twenty-first"."""
    whole = number.replace(",", "")
    return _num2words(int(whole), "ordinal") if len(whole) <= _LONGEST_CARDINAL else speak_digits(whole)


def speak_year(year: str) -> str:
    """`"1905"` -> "nineteen oh five", `"2026"` -> "twenty twenty-six", `"2005"` -> "two thousand five"."""
    number = int(year)
    if not 1100 <= number <= 2099 or 2000 <= number <= 2009:
        return speak_cardinal(year).replace(" and ", " ")
    return _num2words(number, "year").replace("oh-", "oh ")


def _plural(words: str) -> str:
    return words[:-1] + "ies" if words.endswith("y") else words + "es" if words.endswith("x") else words + "s"


def _is_one(number: str) -> bool:
    return number == "1"


def _spell(token: str) -> str:
    """`"a3f"` -> "A three F"."""
    return " ".join(_DIGIT_WORDS[int(sign)] if sign.isdigit() else sign.upper() for sign in token if sign.isalnum())


# --- rules -----------------------------------------------------------------------------------------------------------


def _date(year: str, month: int, day: int) -> str:
    if len(year) == 2:
        year = ("20" if int(year) < 70 else "19") + year
    return f"{_MONTHS[month - 1]} {speak_ordinal(str(day))}, {speak_year(year)}"


def _is_date(month: int, day: int) -> bool:
    return 1 <= month <= 12 and 1 <= day <= 31


def _iso_date(found: re.Match[str]) -> str:
    month, day = int(found[2]), int(found[3])
    if not _is_date(month, day):
        return f"{speak_year(found[1])} {speak_cardinal(found[2])} {speak_cardinal(found[3])}"
    return _date(found[1], month, day) + (" at " if found[4] else "")


def _slash_date(found: re.Match[str]) -> str:
    month, day = int(found[1]), int(found[3])
    if month > 12 >= day:  # 22/11/2026, 22.11.2026
        month, day = day, month
    if not _is_date(month, day):
        return found[0]
    return _date(found[4], month, day)


def _short_date(found: re.Match[str]) -> str:
    """`on 11/2`, `by 3/14`, `Monday, 6/1`: the month and day that the word before announces, not a fraction."""
    before, month, day = found[1], int(found[2]), int(found[3])
    is_share = month < day and day in (2, 3, 4, 5, 8, 10)  # by 3/4, after 1/2: more likely a part of something
    announced = before.strip(", ").lower() not in ("by", "before", "after", "since", "until", "till")
    if found[0].endswith(tuple(_SET_PHRASES)) or not _is_date(month, day) or (is_share and not announced):
        return found[0]
    return f"{before}{_MONTHS[month - 1]} {speak_ordinal(str(day))}"


def _month_name(written: str) -> str:
    return next(month for month in _MONTHS if month.startswith(written[:3]))


def _month_day(found: re.Match[str]) -> str:
    if not 1 <= int(found[2]) <= 31:
        return found[0]
    year = f", {speak_year(found[3])}" if found[3] else ""
    return f"{_month_name(found[1])} {speak_ordinal(found[2])}{year}"


def _day_month(found: re.Match[str]) -> str:
    if not 1 <= int(found[2]) <= 31:
        return found[0]
    year = f", {speak_year(found[4])}" if found[4] else ""
    return f"{found[1] or 'the '}{speak_ordinal(found[2])} of {_month_name(found[3])}{year}"


def _full_stop(found: re.Match[str]) -> str:
    """The stop of an abbreviation such as "p.m." counts as a full stop too where a sentence ends."""
    return "." if found[0].endswith(".") and SENTENCE_END.match(found.string, found.end()) else ""


def _time(found: re.Match[str]) -> str:
    hour, minute, second = int(found[1]), int(found[2]), found[3]
    half = f" {found[4].upper()}M" if found[4] else ""
    full_stop = _full_stop(found) if half else ""
    if hour > 24 or minute > 59:
        return f"{speak_cardinal(found[1])} to {speak_cardinal(found[2])}{half}{full_stop}"
    words = speak_cardinal(str(hour))
    if minute:
        words += f" oh {_DIGIT_WORDS[minute]}" if minute < 10 else f" {speak_cardinal(str(minute))}"
    elif hour == 0 and not second:
        words = "midnight"
    elif not half and not second:
        words += " hundred" if hour > 12 else " o'clock"
    if second and int(second):
        words += f" and {speak_cardinal(str(int(second)))} second" + ("" if int(second) == 1 else "s")
    return words + half + full_stop


def _hour(found: re.Match[str]) -> str:
    full_stop = _full_stop(found)
    return f"{speak_cardinal(str(int(found[1])))} {found[2].upper()}M{full_stop}"


def _digit_groups(found: re.Match[str]) -> str:
    plus = "plus " if found[0].startswith("+") else ""
    return plus + ", ".join(speak_digits(group) for group in re.findall(r"\d+", found[0]))


def _version(found: re.Match[str]) -> str:
    parts = found[2].split(".")
    prefix = "version " if found[1] else ""
    if len(parts) == 4 and any(len(part) == 3 for part in parts) and all(int(part) < 256 for part in parts):
        return prefix + " dot ".join(speak_digits(part) for part in parts)
    return prefix + " point ".join(speak_cardinal(part) for part in parts)


def _hexadecimal(found: re.Match[str]) -> str:
    token = found[0]
    if token.isdigit() or not any(sign.isdigit() for sign in token):
        return token
    return _spell(token)


def _identifier(found: re.Match[str]) -> str:
    token = found[0]
    num_switches = sum(left.isdigit() != right.isdigit() for left, right in itertools.pairwise(token))
    return _spell(token) if num_switches >= 3 else token


def _money(amount: str, magnitude: str | None, currency: str) -> str:
    one, many, one_cent, many_cents = CURRENCIES[currency]
    if magnitude:
        return f"{speak_cardinal(amount)} {MAGNITUDES[magnitude]} {many}"
    whole, _, cents = amount.partition(".")
    if len(cents) != 2 or not one_cent:
        return f"{speak_cardinal(amount)} {one if _is_one(amount) else many}"
    words = []
    if whole.strip("0,") or not cents.strip("0"):
        words.append(f"{speak_cardinal(whole)} {one if _is_one(whole) else many}")
    if cents.strip("0"):
        words.append(f"{speak_cardinal(str(int(cents)))} {one_cent if int(cents) == 1 else many_cents}")
    return " and ".join(words)


def _unit(found: re.Match[str]) -> str:
    number, hyphen, unit, per = found[1], found[2], found[3], found[4]
    one, many = UNITS[unit]
    joint = "-" if hyphen else " "
    words = f"{speak_cardinal(number)}{joint}{one if hyphen or _is_one(number) else many}"
    return words + (f" per {PER[per]}" if per else "")


def _fraction_words(numerator: str, denominator: str) -> str:
    over, under = int(numerator), int(denominator)
    if under in (10, 100) and over > 1:
        return f"{speak_cardinal(numerator)} out of {speak_cardinal(denominator)}"
    if not 0 < over < under <= 100 and not (under == 2 and over):
        return f"{speak_cardinal(numerator)} over {speak_cardinal(denominator)}"
    part = {2: "half", 4: "quarter"}.get(under) or speak_ordinal(str(under))
    parts = part if over == 1 else {"half": "halves"}.get(part, part + "s")
    return f"{speak_cardinal(str(over))} {parts}"


def _fraction(found: re.Match[str]) -> str:
    if found[0] in _SET_PHRASES:
        return _SET_PHRASES[found[0]]
    whole = f"{speak_cardinal(found[1])} and " if found[1] else ""
    return whole + _fraction_words(found[2], found[3])


def _decade(found: re.Match[str]) -> str:
    number = found[1]
    return _plural(speak_year(number) if len(number) == 4 else speak_cardinal(number))


def _plain(found: re.Match[str]) -> str:
    """What is left: a cardinal, or digit by digit when it looks like an id or a phone number."""
    number = found[0]
    if number.isdigit() and len(number) >= 10 and not number.endswith("000"):
        return speak_digits(number)
    return speak_cardinal(number)


def _rule(pattern: str, replace: Callable[[re.Match[str]], str] | str) -> Rule:
    if isinstance(replace, str):
        return re.compile(pattern), lambda found: found.expand(replace)
    return re.compile(pattern), replace


_ANY_MAGNITUDE: Final = r"(?: ?(thousand|million|billion|trillion|hundred|mil|mn|bn|tn)(?!\w)|([kKmMbBT])(?!\w))?"
_SYMBOLS: Final = r"[$£€¥₹₩₽]"
_CODES: Final = "USD|EUR|GBP|JPY|CHF|CAD|AUD|INR|CNY"
_UNIT_PATTERN: Final = "|".join(re.escape(unit) for unit in sorted(UNITS, key=len, reverse=True))
_PER_PATTERN: Final = "|".join(sorted(PER, key=len, reverse=True))

_RULES: Final[tuple[Rule, ...]] = (
    _rule(r"\d{19,}", lambda found: f" {speak_digits(found[0])} "),
    # Dates.
    _rule(r"(?<![\w-])(\d{4})-(\d{1,2})-(\d{1,2})(?:([T ])(?=\d{1,2}:\d{2})|(?![\w-]))", _iso_date),
    _rule(r"(?<![\w/.-])(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?![\w/-]|\.\d)", _slash_date),
    _rule(
        rf"(?<!\w)((?:[Oo]n|[Dd]ue|[Dd]ated|[Bb]y|[Bb]efore|[Aa]fter|[Ss]ince|[Uu]ntil|[Tt]ill|{_WEEKDAYS}),? )"
        rf"(\d{{1,2}})/(\d{{1,2}})(?![\w/-]|[.,]\d|{_FRACTION_FOLLOWS})",
        _short_date,
    ),
    _rule(rf"\b{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?(?:,? (\d{{4}}))?(?![\w:/%]|[.,]\d)", _month_day),
    _rule(
        rf"(?<![\w.,/:-])([Tt]he )?(\d{{1,2}})(?:st|nd|rd|th)? (?:of )?{_MONTH}(?:,? (\d{{4}})(?![\w:]|[.,]\d))?",
        _day_month,
    ),
    _rule(rf"\b{_MONTH} (?=\d{{4}}(?!\w))", lambda found: _month_name(found[1]) + " "),
    # Phone numbers and other groups of digits, addresses, versions, identifiers.
    _rule(r"(?<![\w.,+-])(?:\+?1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])", _digit_groups),
    _rule(r"(?<![\w.,+-])\+\d{1,3}(?:[ -]?\d{2,4}){2,5}(?![\w-])", _digit_groups),
    _rule(r"(?<![\w.,+-])\d{3}-\d{4}(?![\w-])", _digit_groups),
    _rule(r"(?<![\w-])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![\w-])", lambda found: _spell(found[0])),
    _rule(r"(?<![\w.,+-])\d{1,7}(?:-\d{1,7}){2,9}(?![\w-])", _digit_groups),
    _rule(r"(?<![\w.])([vV])?(\d{1,6}(?:\.\d{1,6}){2,9})(?!\w)", _version),
    _rule(r"(?<!\w)[vV](?=\d{1,6}(?:\.\d{1,6})?(?![\w]))", "version "),
    _rule(r"(?<!\w)0x([0-9a-fA-F]{1,32})(?!\w)", lambda found: f"zero X {_spell(found[1])}"),
    _rule(r"(?<!\w)[0-9a-fA-F]{7,64}(?!\w)", _hexadecimal),
    _rule(r"(?<!\w)[A-Za-z0-9]{6,64}(?!\w)", _identifier),
    _rule(
        rf"(?<!\w)((?i:{_LABELLED})) (?:# ?)?(\d{{1,4}})-?([A-Z]|[a-f])(?!\w)",
        lambda found: f"{found[1]} {speak_cardinal(found[2])} {found[3].upper()}",
    ),
    _rule(r"(?<=localhost):(?=\d{2,5}(?![\w:]|\.\d))", " port "),
    _rule(r"(?<![^\s(]):(?=\d{3,5}(?![\w:]|\.\d))", "port "),
    _rule(r"(?<!\w)([Pp]ort) (\d{2,5})(?![\w,:]|\.\d)", lambda found: f"{found[1]} {speak_digits(found[2])}"),
    # Signs and ranges. The hyphens of dates, phone numbers and identifiers are gone by here.
    _rule(rf"({_SYMBOLS})({_NUMBER})\s?-\s?{_SYMBOLS}?(?={_NUMBER})", r"\2 to \1"),
    _rule(r"(?:(?<=[\d%°])|(?<=\d[ap]m)|(?<=\d [ap]m)|(?<=\d[AP]M)|(?<=\d [AP]M))-(?=\d)", " to "),
    _rule(rf"(?:(?<=\s)|(?<=\()|^)-(?={_SYMBOLS}?\.?\d)", "minus "),
    _rule(rf"(?<=\d) - (?={_SYMBOLS}?\d)", " minus "),
    # Times.
    _rule(
        r"(?<![\w:.])(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d{1,9})?Z?)?"
        r"(?: ?([AaPp])(?:\.[Mm]\.|[Mm](?!\w)))?(?![\w:]|\.\d)",
        _time,
    ),
    _rule(r"(?<![\w:.,])(\d{1,2}) ?([AaPp])(?:\.[Mm]\.|[Mm](?!\w))", _hour),
    _rule(r"(?<=\d):(?=\d)", " to "),
    # Money.
    _rule(
        rf"(?<![A-Za-z])(?:US|A|CA|NZ|HK)?({_SYMBOLS}) ?({_NUMBER}){_ANY_MAGNITUDE}",
        lambda found: _money(found[2], found[3] or found[4], found[1]) + " ",
    ),
    _rule(
        rf"{_START}({_NUMBER}){_ANY_MAGNITUDE} ?([€£¥₹₩₽¢]|(?:{_CODES})(?!\w))",
        lambda found: _money(found[1], found[2] or found[3], found[4]),
    ),
    # Numbers that a word before or behind explains.
    _rule(r"(?<![\w.])[Nn]os?\. ?(?=\d)", "number "),
    _rule(r"(?<!\w)# ?(?=\d)", "number "),
    _rule(r"(?<!\w)pp?\. ?(?=\d)", "page "),
    _rule(r"(?<!\w)'?(1[1-9]\d0|20\d0|[2-9]0)'?s(?!\w)", _decade),
    _rule(r"(?<!\w)'(?=\d\d(?!\w))", ""),
    _rule(r"(?<![\w.])(\d{1,2})' ?(\d{1,2})(?:\"|'')", r"\1 foot \2"),
    _rule(r"(?<=\d) ?[x×] ?(?=\d)", " by "),
    _rule(r"(?<=\d)x(?!\w)", " times"),
    _rule(r"(?<!\w)([48])K(?!\w)", r"\1 K"),
    _rule(r"(?<!\w)401 ?\(?k\)?(?!\w)", "four oh one K"),
    _rule(rf"{_START}({_NUMBER})(-)?(?: )?({_UNIT_PATTERN})(?:/({_PER_PATTERN}))?(?!\w)(?:\.(?= [a-z]))?", _unit),
    _rule(
        rf"{_START}({_NUMBER})([kKM]|B(?! [A-Z])|bn|mn|tn)(?!\w)",
        lambda found: f"{speak_cardinal(found[1])} {MAGNITUDES[found[2]]}",
    ),
    _rule(r"(?<![\w.,/])(?:(\d{1,4}) )?(\d{1,4})/(\d{1,4})(?![\w/]|[.,]\d)", _fraction),
    _rule(
        r"(?<![\d.,])(\d{1,3}(?:,\d{3}){1,5}|\d{1,18})(?:st|nd|rd|th|ST|ND|RD|TH)(?!\w)",
        lambda found: speak_ordinal(found[1]),
    ),
    # Bare numbers.
    _rule(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " "),
    _rule(rf"{_START}(1[1-9]\d\d|20\d\d)(?!\w|[.,]\d)", lambda found: speak_year(found[1])),
    _rule(r"(?<![\w.])\.(?=\d)", "point "),
    _rule(rf"(?<!\d){_NUMBER}(?![\d])", _plain),
    _rule(r"\d+", lambda found: f" {speak_digits(found[0])} "),
    _rule(r"(?<= )/ ?(?=(?:month|year|day|hour|week|night|person|mo|yr|hr)(?!\w))", "per "),
)  # fmt: skip


def speak_numbers(text: str) -> str:
    """`"It cost $3.50 on 2026-11-22."` -> "It cost three dollars and fifty cents on November twenty-second, ...".

    Digits are expected in ASCII; none is left. Never raises.
    """
    if not any(sign.isdigit() for sign in text):
        return text
    for pattern, replace in _RULES:
        text = pattern.sub(replace, text)
    return text
