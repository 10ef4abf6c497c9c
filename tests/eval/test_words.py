"""Words wanted and heard: counts of errors against jiwer itself, loops, endings, and texts without words."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from duologue.eval.words import WordErrors, WordScorer

WORDS = st.lists(st.sampled_from(["red", "green", "blue", "one", "dog", "cats", "running"]), max_size=8)


@pytest.fixture(scope="module")
def scorer() -> WordScorer:
    return WordScorer()


@given(wanted=WORDS.filter(bool), heard=WORDS)
def test_errors_are_jiwers(wanted: list[str], heard: list[str]) -> None:
    scorer = WordScorer()
    text, found = scorer.normalize(" ".join(wanted)), scorer.normalize(" ".join(heard))
    errors = scorer(" ".join(wanted), " ".join(heard))
    assert errors.errors / errors.num_words == pytest.approx(jiwer.wer(text, found))
    assert errors.num_words == len(text.split())
    characters = jiwer.process_characters(text.replace(" ", ""), found.replace(" ", ""))
    assert errors.character_errors / errors.num_characters == pytest.approx(characters.cer)


def test_what_reads_alike_is_alike(scorer: WordScorer) -> None:
    for text, heard in (
        ("It's five dollars.", "it is $5"),
        ("Hmm, colour and uh grey!", "Color and gray"),
        ("Doctor Smith", "Dr. Smith"),
    ):
        assert scorer(text, heard).errors == 0


def test_other_languages_keep_their_words() -> None:
    scorer = WordScorer("es")
    assert scorer.normalize("¿Dónde está el señor, MAÑANA?") == "dónde está el señor mañana"
    assert scorer("Me llamo A. B. y vivo aquí.", "me llamo a b y vivo aqui").errors == 1


@pytest.mark.parametrize(
    ("heard", "last"),
    [
        ("we went to the park", True),
        ("we went to the", False),
        ("we went to the dark", True),  # misheard, and yet said
        ("we went to the park the park", True),
        ("", False),
    ],
)
def test_whether_the_last_word_was_heard(scorer: WordScorer, heard: str, last: bool) -> None:
    assert scorer("We went to the park.", heard).last_word_heard is last


def test_a_text_of_fillers_has_no_words(scorer: WordScorer) -> None:
    assert scorer("Mm-hmm.", "thank you") == WordErrors(0, 0, 0, 2, 0, 8, True)


@pytest.mark.parametrize(
    ("text", "heard", "loop"),
    [
        ("I like it.", "I like it I like it I like it", True),
        ("I like it.", "I like it I like it", False),
        ("No, no, no, no.", "no no no no", False),
        ("No, no, no, no.", "no no no no no no no", True),
        ("Go on.", "go on on on on", True),
        ("Go on.", "", False),
    ],
)
def test_loops(scorer: WordScorer, text: str, heard: str, loop: bool) -> None:
    assert scorer.loops(text, heard) is loop
