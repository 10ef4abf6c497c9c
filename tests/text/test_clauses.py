"""Clauses of a text that arrives in pieces: the same however it is cut, none too early, none too long."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.text.clauses import ClauseSplitter


def clauses(text: str, size: int = 1, **options: int) -> list[str]:
    """The clauses of a text that arrives `size` characters at a time."""
    splitter, found = ClauseSplitter(**options), []
    for start in range(0, len(text), size):
        found += splitter.feed(text[start : start + size])
    return found + splitter.flush()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello there. How are you?", ["Hello there.", "How are you?"]),
        ("Wait... what?! No.", ["Wait...", "what?!", "No."]),
        ('She said "no." Then she left.', ['She said "no."', "Then she left."]),
        ("It costs 3.50 dollars. Fine.", ["It costs 3.50 dollars.", "Fine."]),
        ("Ask Dr. Smith, e.g. today. J. R. did it.", ["Ask Dr. Smith, e.g. today.", "J. R. did it."]),
        ("So do I. Then go.", ["So do I.", "Then go."]),
        ("Paper, pens, etc. Then we left.", ["Paper, pens, etc.", "Then we left."]),
        ("One line\nanother line", ["One line", "another line"]),
        ("你好。今天怎么样？很好", ["你好。", "今天怎么样？", "很好"]),
        ("Yes, of course, that is a good idea.", ["Yes, of course, that is a good idea."]),
        ("Well, if you really ask me, it is a good idea.", ["Well, if you really ask me,", "it is a good idea."]),
        ("  ...  ", []),
        ("", []),
        ("- \n* one\n", ["* one"]),
        ("no end", ["no end"]),
    ],
)
def test_clauses(text, expected):
    for size in (1, 2, 5, 1000):
        found = clauses(text, size)
        assert [" ".join(clause.split()) for clause in found] == expected, size


def test_the_first_comma_counts_soon_and_the_later_ones_late():
    text = "This is the first part, " + "this is another one, " * 5 + "and the end."
    found = clauses(text)
    assert found[0] == "This is the first part,"
    assert all(len(clause) >= 60 for clause in found[1:-1]) and len(found) == 3


def test_a_text_without_marks_is_cut_at_spaces():
    found = clauses("word " * 100, longest=50)
    assert all(len(clause) <= 50 for clause in found) and " ".join(found) == ("word " * 100).strip()
    assert [len(clause) for clause in clauses("x" * 120, longest=50)] == [50, 50, 20]


def test_nothing_ends_before_the_next_character_is_there():
    splitter = ClauseSplitter()
    assert splitter.feed("It is 3.") == []
    assert splitter.feed("5 now.") == []
    assert splitter.feed(" ") == ["It is 3.5 now."]


@given(text=st.text(alphabet='ab .,!?\n3"—。', max_size=120), size=st.integers(1, 40))
def test_no_letter_is_lost_and_the_cuts_of_the_pieces_do_not_matter(text, size):
    found = clauses(text, size)
    assert "".join(c for c in "".join(found) if c.isalnum()) == "".join(c for c in text if c.isalnum())
    assert found == clauses(text, 1)
