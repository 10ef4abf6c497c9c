"""A table of examples for every rule about digits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.text.numbers import speak_cardinal, speak_numbers, speak_ordinal, speak_year

TABLES: dict[str, dict[str, str]] = {
    "cardinals": {
        "0": "zero",
        "7 cats": "seven cats",
        "21": "twenty-one",
        "121": "one hundred and twenty-one",
        "12345": "twelve thousand three hundred and forty-five",
        "1,500": "one thousand five hundred",
        "1,234,567": "one million two hundred and thirty-four thousand five hundred and sixty-seven",
        "1000000000000": "one trillion",
        "(5)": "(five)",
        "5-year-old": "five-year-old",
    },
    "decimals": {
        "3.14": "three point one four",
        ".5": "point five",
        "0.50": "zero point five zero",
        "2,000.5": "two thousand point five",
    },
    "negative": {"-5 degrees": "minus five degrees", "(-0.5)": "(minus zero point five)", "-$5": "minus five dollars"},
    "ordinals": {"1st": "first", "2nd": "second", "3RD": "third", "21st": "twenty-first", "1,000th": "one thousandth"},
    "years": {
        "in 1999.": "in nineteen ninety-nine.",
        "1905": "nineteen oh five",
        "2000": "two thousand",
        "2005": "two thousand five",
        "2026": "twenty twenty-six",
        "1100": "eleven hundred",
    },
    "decades": {
        "the 1980s": "the nineteen eighties",
        "the '90s": "the nineties",
        "80's": "eighties",
        "2010s": "twenty tens",
    },
    "dates": {
        "2026-11-22": "November twenty-second, twenty twenty-six",
        "11/22/2026": "November twenty-second, twenty twenty-six",
        "22/11/2026": "November twenty-second, twenty twenty-six",
        "22.11.2026": "November twenty-second, twenty twenty-six",
        "7/4/76": "July fourth, nineteen seventy-six",
        "Nov. 22": "November twenty-second",
        "Nov 22nd, 2026": "November twenty-second, twenty twenty-six",
        "22 Nov 2026": "the twenty-second of November, twenty twenty-six",
        "The 1st of May": "The first of May",
        "Jan. 2026": "January twenty twenty-six",
        "May 5,000 people": "May five thousand people",
        "2026-11-22T15:30:00Z": "November twenty-second, twenty twenty-six at fifteen thirty",
        "2026-13-45": "twenty twenty-six thirteen forty-five",
    },
    "month and day after a word": {
        "on 11/2": "on November second",
        "Due 6/1.": "Due June first.",
        "Monday, 6/1": "Monday, June first",
        "by 3/14": "by March fourteenth",
        "cut by 3/4": "cut by three quarters",
        "on 1/2 acre": "on one half acre",
        "on 3/4 of it": "on three quarters of it",
        "on 9/11": "on nine eleven",
        "on 13/40": "on thirteen fortieths",
        "after 6/1/2026": "after June first, twenty twenty-six",
    },
    "a letter that belongs to the number": {
        "exit 42B": "exit forty-two B",
        "Room 12L, seat 14-C": "Room twelve L, seat fourteen C",
        "page 3a": "page three A",
        "flight 5M": "flight five M",
        "we have 42B": "we have forty-two billion",
        "a box of 12L": "a box of twelve liters",
        "unit 5kg": "unit five kilograms",
    },
    "ports": {
        "on :8080": "on port eight zero eight zero",
        "localhost:443": "localhost port four four three",
        "port 8080": "port eight zero eight zero",
        "3:100": "three to one hundred",
        "at :30": "at :thirty",
    },
    "times": {
        "3:45pm": "three forty-five PM",
        "3:45 p.m. is": "three forty-five PM is",
        "3 p.m.": "three PM.",
        "12:00": "twelve o'clock",
        "12:00 AM": "twelve AM",
        "15:30": "fifteen thirty",
        "15:00": "fifteen hundred",
        "9:05": "nine oh five",
        "00:00": "midnight",
        "12:34:56": "twelve thirty-four and fifty-six seconds",
        "25:61": "twenty-five to sixty-one",
        "9am-5pm": "nine AM to five PM",
    },
    "ranges": {
        "3-5": "three to five",
        "5-10%": "five to ten percent",
        "1999-2005": "nineteen ninety-nine to two thousand five",
        "16:9": "sixteen to nine",
        "5 - 3": "five minus three",
    },
    "money": {
        "$1": "one dollar",
        "$3.50": "three dollars and fifty cents",
        "$0.99": "ninety-nine cents",
        "$1,000.00": "one thousand dollars",
        "$1.2 million": "one point two million dollars",
        "$5k": "five thousand dollars",
        "$5-$10": "five to ten dollars",
        "$20/month": "twenty dollars per month",
        "US$5": "five dollars",
        "£1.01": "one pound and one penny",
        "€20": "twenty euros",
        "20€": "twenty euros",
        "¥100": "one hundred yen",
        "50¢": "fifty cents",
        "20 USD": "twenty US dollars",
    },
    "units": {
        "5 km": "five kilometers",
        "1 km": "one kilometer",
        "5-km run": "five-kilometer run",
        "100 km/h": "one hundred kilometers per hour",
        "10 m/s": "ten meters per second",
        "60mph": "sixty miles per hour",
        "5 ft. tall": "five feet tall",
        "5 kg": "five kilograms",
        "25°C": "twenty-five degrees Celsius",
        "70 °F": "seventy degrees Fahrenheit",
        "90°": "ninety degrees",
        "16GB": "sixteen gigabytes",
        "44.1 kHz": "forty-four point one kilohertz",
        "12.5%": "twelve point five percent",
        "90 min": "ninety minutes",
        "6'2\"": "six foot two",
        "10k": "ten thousand",
        "2.5M": "two point five million",
        "7B": "seven billion",
        "3x": "three times",
        "2x4": "two by four",
        "4K": "four K",
    },
    "fractions": {
        "1/2": "one half",
        "3/4": "three quarters",
        "2/3": "two thirds",
        "5/8": "five eighths",
        "1 1/2": "one and one half",
        "8/10": "eight out of ten",
        "22/7": "twenty-two over seven",
        "1/0": "one over zero",
        "24/7": "twenty-four seven",
    },
    "digit by digit": {
        "555-1234": "five five five, one two three four",
        "(555) 123-4567": "five five five, one two three, four five six seven",
        "+1 555 123 4567": "plus one, five five five, one two three, four five six seven",
        "+44 20 7946 0958": "plus four four, two zero, seven nine four six, zero nine five eight",
        "123-45-6789": "one two three, four five, six seven eight nine",
        "007": "zero zero seven",
        "1234567890": "one two three four five six seven eight nine zero",
    },
    "versions and addresses": {
        "2.13.0": "two point thirteen point zero",
        "v2.0": "version two point zero",
        "192.168.1.1": "one nine two dot one six eight dot one dot one",
    },
    "identifiers": {
        "a3f9c2e1": "A three F nine C two E one",
        "X7Y9Z2": "X seven Y nine Z two",
        "0xFF": "zero X F F",
        "deadbeef": "deadbeef",
        "B2B": "B two B",
        "MP3": "MP three",
        "3D": "three D",
        "COVID-19": "COVID-nineteen",
        "221B Baker": "two hundred and twenty-one B Baker",
    },
    "with a word before": {
        "No. 5": "number five",
        "#5": "number five",
        "p. 12": "page twelve",
        "pp. 3-5": "page three to five",
    },
}


@pytest.mark.parametrize(
    ("written", "spoken"),
    [pytest.param(*pair, id=f"{name}: {pair[0]}") for name, table in TABLES.items() for pair in table.items()],
)
def test_examples(written: str, spoken: str) -> None:
    assert speak_numbers(written).strip() == spoken


@given(st.text(alphabet="0123456789.,:/-+$%°'\"() ABabkmMxst", max_size=30))
def test_no_digit_is_left(text: str) -> None:
    assert not any(sign.isdigit() for sign in speak_numbers(text))


def test_a_uuid_is_spelled() -> None:
    words = speak_numbers("550e8400-e29b-41d4-a716-446655440000").split()
    assert len(words) == 32 and words[:4] == ["five", "five", "zero", "E"]


def test_a_number_of_any_length() -> None:
    assert speak_numbers("9" * 5_000).split() == ["nine"] * 5_000


def test_words_of_one_number() -> None:
    assert speak_cardinal("1,001.10") == "one thousand and one point one zero"
    assert speak_ordinal("112") == "one hundred and twelfth"
    assert speak_year("1066") == "one thousand sixty-six"
