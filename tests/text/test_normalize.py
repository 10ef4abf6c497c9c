"""The normalisation as a whole: what it promises for any text, and examples of the rules working together."""

import json
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from duologue.text import normalize, speakable

EXAMPLES = [
    ("Hey, how are you doing?", "Hey, how are you doing?"),
    ("I'm great! So happy to be speaking with you today.", "I'm great! So happy to be speaking with you today."),
    (
        "Dr. Smith paid $3.50 on 2026-11-22, at 3:45pm.",
        "Doctor Smith paid three dollars and fifty cents on November twenty-second, twenty twenty-six, "
        "at three forty-five PM.",
    ),
    ("He said “hello”… then — nothing -- at all", 'He said "hello"... then — nothing — at all'),
    ("**Wow**, that's _great_ 😀🎉!", "Wow, that's great!"),
    ("It’s 50% off & more :-)", "It's fifty percent off and more"),
    ("I AM SO HAPPY!!!! NASA called.", "I am so happy! NASA called."),
    (
        "See https://www.example.com/docs?q=1 or jo@x.org.",
        "See example dot com slash docs or jo at x dot org.",
    ),
    ("<p>5 &lt; 6 &amp; done</p>", "five less than six and done"),
    ("Call 555-123-4567 ext. 12", "Call five five five, one two three, four five six seven extension twelve"),
    ("The room is 5 m² or ~54 sq ft.", "The room is five square meters or about fifty-four sq ft."),
    ("Hi,,, there   friend .", "Hi, there friend."),
    ("( ) [laughs] {x}", "laughs x"),
    ("Wait - what?", "Wait — what?"),
    ("...well", "...well"),
    (", so", "so"),
    ("# Title\n\nText", "Title. Text"),
    ("¿Qué pasa? Ça va à l'été, Straße", "¿Qué pasa? Ça va à l'été, Straße"),
    ("你好，世界。 привет, мир", "你好,世界。 привет, мир"),
    ("می‌خواهم", "می‌خواهم"),
    ("हिन्दी", "हिन्दी"),
    ("٣ ④ Ⅷ ５", "three four VIII five"),
    ("", ""),
    ("👍🏽 ™ ⁂ \x00\x07\u200b\ufeff", ""),
]


@pytest.mark.parametrize(("written", "spoken"), EXAMPLES)
def test_examples(written: str, spoken: str) -> None:
    assert normalize(written) == spoken


FRAGMENTS = """
Dr. Mr St. e.g. i.e. etc. U.S. a.m. p.m. 3 12 1999 2026 1980s 3:45 pm $ £ € 5 . , ; : ! ? - – — ... ' " ( ) [ ] { } < >
& @ # % ^ * _ ` ~ | \\ / + = ° ² ½ x k M B km km/h °C I II IV VIII Henry Chapter World War HELLO WOW NASA AM US http://
www. .com example @x.org <b> </p> <!-- --> &amp; &lt; &#65; 1. 😀 :) é 你好 01 007 1/2 11/22/2026 2026-11-22 Nov 22nd
May 555-1234 v2.0 1,000 0x1f deadbeef7 No. vs w/ and/or st nd rd th ٣ Ⅳ ① ﬁ ™ ℃ pp. Jan. Main St Dr A. B. a b The minus
zero one PM dot
"""
fragments = st.sampled_from([*FRAGMENTS.split(), "\n", "\n\n", "\u200d", "\u0301"])
texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=st.characters(codec=None), max_size=30),  # lone surrogates too
    st.text(alphabet=st.characters(max_codepoint=126, min_codepoint=10), max_size=40),
    st.lists(fragments, max_size=12).map("".join),
    st.lists(fragments, max_size=12).map(" ".join),
)


@given(texts)
@example("\ud800\udfff")
@example("&amp;amp;lt;b&gt;")
@example("''''''")
def test_any_text_ends_without_digits_or_markup_and_stays_so(text: str) -> None:
    spoken = normalize(text)
    assert normalize(spoken) == spoken
    assert not any(sign.isdigit() for sign in spoken)
    assert not set(spoken) & set("[]{}<>|\\/*_#@&%~^`$\n\t")
    assert not any(unicodedata.category(sign) in ("Cc", "Cs", "So", "Sc") for sign in spoken)
    assert "  " not in spoken and spoken == spoken.strip()


plain_words = st.from_regex(r"[A-Z]?[a-z]{2,12}", fullmatch=True).filter(lambda word: word not in ("vs", "etc"))


@given(st.lists(plain_words, min_size=1))
def test_plain_words_pass_unharmed(words: list[str]) -> None:
    assert normalize(" ".join(words)) == " ".join(words)


@pytest.mark.parametrize(
    "piece",
    [
        *("1", "1,", "1.", "1-", "1 ", "a", "A.", "[", "[a](", "<", "<!--", "<script>", "&", "http://", "a@", "a.a"),
        *("-", "$1 ", "555-", "f1", "'", "(", ")", "—", "😀", "\u200d", "\u0301", "\n", "\n- ", "|", "*", "_", "½"),
        *("HELLO ", "II ", "St. ", "3 p.m. ", "5 km", "\\", ".com/", "1/", "1:"),
    ],
)
def test_time_is_linear(piece: str) -> None:
    def seconds(num_characters: int) -> float:
        text = piece * (num_characters // len(piece))
        started = time.process_time()
        normalize(text)
        return time.process_time() - started

    small, large = seconds(1_000), seconds(6_000)
    assert large < 0.1 + 18 * small


def test_a_large_text_takes_seconds_at_most() -> None:
    text = ("The cost was $3.50 on 2026-11-22, e.g. at 3:45pm near St. Louis; see http://x.org/a_b. " * 1_200)[:100_000]
    started = time.process_time()
    normalize(text)
    assert time.process_time() - started < 5.0


@pytest.mark.parametrize("text", ["a", "7", "你"])
def test_speakable(text: str) -> None:
    assert speakable(text)


@pytest.mark.parametrize("text", ["", "?! …", "🎉 ", "<br>", "---"])
def test_unspeakable(text: str) -> None:
    assert not speakable(text)


def test_most_lines_of_the_corpus_are_spoken_text_already(corpus: Path) -> None:
    with (corpus / "text" / "self_dialogue.jsonl").open(encoding="utf-8") as file:
        dialogues = [json.loads(dialogue) for _, dialogue in zip(range(300), file, strict=False)]
    lines = [" ".join(line.split()) for dialogue in dialogues for line in dialogue]
    unchanged = sum(normalize(line) == line for line in lines)
    assert unchanged > 0.9 * len(lines)
