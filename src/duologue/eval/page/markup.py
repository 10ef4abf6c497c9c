"""HTML and SVG elements from Python values: a plain string is text and is escaped, only `Html` is markup.

Source: the HTML standard, "Serializing HTML fragments" (escaping) and "Character references" (which are errors).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_VOID: Final = frozenset(("br", "col", "hr", "img", "input", "link", "meta", "wbr"))
# Characters that no HTML document may hold: control characters, lone surrogates and noncharacters of the first plane.
_UNFIT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


@dataclass(frozen=True)
class Html:
    """A piece of finished markup."""

    markup: str


Child = Html | str | int | float | None
"""What an element holds: markup, or a value that is written as text; None is nothing."""


def text(value: object) -> str:
    """`value` escaped for element content and for attributes in double quotes; unfit characters become U+FFFD."""
    return html.escape(_UNFIT.sub("\ufffd", str(value)))


def element(name: str, *children: Child | Iterable[Child], **attributes: str | float | bool | None) -> Html:
    """One element. Of an attribute's name a final underscore is cut and the others become hyphens.

    An attribute that is None or False is left out, one that is True stands without a value.
    """
    parts = []
    for key, value in attributes.items():
        label = key.removesuffix("_").replace("_", "-")
        if value is True:
            parts.append(f" {label}")
        elif value is not None and value is not False:
            parts.append(f' {label}="{text(_plain(value))}"')
    opening = f"<{name}{''.join(parts)}>"
    if name in _VOID:
        assert not children, f"{name} holds nothing"
        return Html(opening)
    return Html(f"{opening}{join(*children).markup}</{name}>")


def join(*children: Child | Iterable[Child], between: str = "") -> Html:
    """The children one after another, with the text `between` them."""
    return Html(text(between).join(_written(child) for child in _flat(children) if child is not None))


def _flat(children: Iterable[Child | Iterable[Child]]) -> Iterable[Child]:
    for child in children:
        if child is None or isinstance(child, Html | str | int | float):
            yield child
        else:
            yield from child


def _written(child: Child) -> str:
    return child.markup if isinstance(child, Html) else text(_plain(child))


def _plain(value: object) -> str:
    """A coordinate with at most two digits after the point; anything else as it is."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
