"""Unicode, HTML, addresses, Markdown and emoji, one table of examples each."""

from collections.abc import Callable

import pytest

from duologue.text.markup import (
    remove_emoji,
    speak_addresses,
    strip_html,
    strip_links,
    strip_markdown,
    unify_characters,
)

TABLES: dict[Callable[[str], str], dict[str, str]] = {
    unify_characters: {
        "‘a’ “b” «c»": '\'a\' "b" "c"',
        "a–b — c – d": "a-b — c — d",
        "e…": "e...",
        "½ 1½ 3⁄4": "1/2 1 1/2 3/4",
        "5 m² per km³": "5 sqm per cubic kilometer",
        "x² 10⁵ word¹": "x squared 10 to the power of 5 word",
        "ﬁne ａｂ ①": "fine ab 1 ".strip(),
        "٣٤ ५": "34 5",
        "a\u200bb\u00adc\x07d": "abcd",
        "a\u00a0\u2003\tb\r\nc": "a b\nc",
        "\ud800x": "x",
        "℃ №": "°C No",
    },
    strip_html: {
        "<b>bold</b> text": "bold text",
        "<p>a</p><br/>b": "\na\n\nb",
        "a <!-- no --> b": "a  b",
        "<script>var x;</script>y": "y",
        "<script>never closed": "never closed",
        "&amp; &lt;x&gt; &#65; &nope;": "& <x> A &nope;",
        "1 < 2 and 3 > 2": "1 < 2 and 3 > 2",
        '<a href="x">link</a>': "link",
        '<speak>hi <break time="1s"/></speak>': "hi ",
        "List<int>": "List<int>",
    },
    strip_links: {
        "[label](http://a.b/c_(d)) ![image](x.png)": "label image",
        "[![badge](x.svg)](http://a.b)": "badge",
        "[label][ref]\n[ref]: http://x.y": "label\n",
        "[Anna]: How are you?\n[Ben]: Fine.": "[Anna]: How are you?\n[Ben]: Fine.",
        '[1]: <http://x.y> "Title"\n[b]: docs/a.md\n[c]: #top': "\n\n",
        "fact[1] [2, 3] [^note]": "fact  ",
        "<http://a.b>": "http://a.b",
        "[laughs]": "[laughs]",
    },
    speak_addresses: {
        "https://www.example.com/a_b/c-d?x=1#f.": " example dot com slash a underscore b slash c dash d .",
        "github.com/foo": " github dot com slash foo ",
        "jo.doe@x.org!": " jo dot doe at x dot org !",
        "main.py": "main dot py",
        "yes.no 3.5 e.g. tell.me": "yes.no 3.5 e.g. tell.me",
        "http://localhost:8000/": " localhost port 8000 ",
        "https://example.com:443/a:b": " example dot com port 443 slash a colon b ",
    },
    remove_emoji: {
        "hi 😀 there": "hi   there",
        "ok :-) :D <3": "ok   ",
        "(see: 5) at 3:00": "(see: 5) at 3:00",
        "👨‍👩‍👧": " \u200d \u200d ",
    },
    strip_markdown: {
        "# Title #\n\ntext": "Title. text",
        "one\ntwo": "one two",
        "- a\n- b\n  more\n- c!": "a. b more. c!",
        "1. a\n2) b": "1. a. 2. b",
        "- [x] done": "done",
        "> a\n> b": "a b",
        "| a | b |\n|---|:-:|\n| 1 | 2 |": "a, b. 1, 2",
        "```python\ncode\n```": "code",
        "Title\n=====\ntext": "Title. text",
        "**a** __b__ *c* `d` ~~e~~": "a b c d   e  ",
        "snake_case 2*3 2 * 3": "snake case 2 times 3 2 times 3",
        "~5 x^2 \\*a\\*": "about 5 x to the power of 2 a",
        "a -- b": "a — b",
        "": "",
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
    assert step(written) == spoken
