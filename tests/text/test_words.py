"""Abbreviations, Roman numerals, capitals and signs, one table of examples each."""

from collections.abc import Callable

import pytest

from duologue.text.words import calm_capitals, expand_abbreviations, expand_roman_numerals, speak_signs

TABLES: dict[Callable[[str], str], dict[str, str]] = {
    expand_abbreviations: {
        "Dr. Smith, Mr Jones and Mrs. Wu": "Doctor Smith, Mister Jones and Missus Wu",
        "Gen. Lee, Gen Z": "General Lee, Gen Z",
        "Alpha Rev.": "Alpha Rev.",
        "in St. Louis": "in Saint Louis",
        "In St Louis": "In Saint Louis",
        "on Main St. now": "on Main Street now",
        "on Main St.": "on Main Street.",
        "Mulholland Dr. is long": "Mulholland Drive is long",
        "e.g., this, i.e. that": "for example, this, that is that",
        "cats, dogs, etc.": "cats, dogs, et cetera.",
        "etc. Then": "et cetera. Then",
        "cats etc, no": "cats et cetera, no",
        "a vs. b vs c": "a versus b versus c",
        "approx. 5 min. at max. speed": "approximately 5 min. at maximum speed",
        "Ask Max. He": "Ask Max. He",
        "the U.S. economy of the U.S.": "the US economy of the US.",
        "at 3 p.m. in the a.m. hours": "at 3 p.m. in the AM hours",
        "J.R.R. Tolkien, John F. Kennedy": "JRR Tolkien, John F Kennedy",
        "Robert Downey Jr. is": "Robert Downey Junior is",
        "w/ fries w/o salt b/c and/or": "with fries without salt because and or",
        "he/she n/a": "he or she not applicable",
        "Ph.D. in": "PhD in",
        "Oct. was cold": "October was cold",
        "oct. was": "oct. was",
        "in Jan. 5 came, in Mar. We": "in January 5 came, in March. We",
        "I met Jan. He was apt.": "I met Jan. He was apt.",
        "Apt. 4": "Apartment 4",
        "She lives in Del Mar.": "She lives in Del Mar.",
        "We circle our Sun.": "We circle our Sun.",
        "No. Not now.": "No. Not now.",
        "Mon-Fri, Tue. – Thurs.": "Monday to Friday, Tuesday to Thursday.",
        "Mon, Wed and Fri": "Monday, Wednesday and Friday",
        "Mon/Wed/Fri. Then": "Monday, Wednesday, Friday. Then",
        "Tues at noon, Thurs. too": "Tuesday at noon, Thursday too",
        "until Sat. We": "until Saturday. We",
        "Wed at 5, Sun, May 5": "Wednesday at 5, Sunday, May 5",
        "Sat 10-4": "Saturday 10-4",
        "He Wed her. Sat down. The Sun. It": "He Wed her. Sat down. The Sun. It",
        "mon, Sunny, Mono, Fri-yay": "mon, Sunny, Mono, Fri-yay",
    },
    expand_roman_numerals: {
        "Henry VIII": "Henry the eighth",
        "Elizabeth II's": "Elizabeth the second's",
        "He was Henry VIII. Paul V. Smith": "He was Henry the eighth. Paul V. Smith",
        "Chapter IV": "Chapter four",
        "World War II": "World War two",
        "World War I was": "World War one was",
        "Rocky III": "Rocky three",
        "Part I.": "Part one.",
        "Part I like": "Part I like",
        "An IV": "An IV",
        "Section IIII": "Section IIII",
        "John I think": "John I think",
        "I and XL and CD": "I and XL and CD",
        "Super Bowl XIX": "Super Bowl nineteen",
    },
    calm_capitals: {
        "I AM SO HAPPY": "I am so happy",
        "HELLO there": "Hello there",
        "This is AMAZING": "This is amazing",
        "I'M HERE, DON'T SHOUT": "I'm here, don't shout",
        "WHAT? NO WAY!": "What? No way!",
        "NASA and the FBI on TV": "NASA and the FBI on TV",
        "the US team of IT": "the US team of IT",
        "XYZ and BMW": "XYZ and BMW",
        "I am A B C": "I am A B C",
        "no capitals": "no capitals",
    },
    speak_signs: {
        "R&B": "R and B",
        "C# and C++": "C sharp and C plus plus",
        "#blessed": "hashtag blessed",
        "a+b=c": "a plus b equals c",
        "a < b": "a less than b",
        "a -> b": "a to b",
        "this/that": "this slash that",
        "@bob": "at bob",
        "a % b × c": "a percent b times c",
    },
}


@pytest.mark.parametrize(
    ("step", "written", "spoken"),
    [
        pytest.param(step, *pair, id=f"{step.__name__}: {pair[0]!r}")
        for step, table in TABLES.items()
        for pair in table.items()
    ],
)
def test_examples(step: Callable[[str], str], written: str, spoken: str) -> None:
    assert " ".join(step(written).split()) == spoken
