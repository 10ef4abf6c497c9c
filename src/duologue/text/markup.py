"""What is written but not spoken: Unicode variants, HTML, Markdown, emoji; and addresses, which are spelled out.

Each function takes text and returns text. The time is linear: nested or unclosed markup is met by bounded patterns and
plain searches, never by backtracking over the whole text.
"""

import html
import re
import unicodedata
from typing import Final

# --- characters ------------------------------------------------------------------------------------------------------

_QUOTES_AND_DASHES: Final = {
    **dict.fromkeys("‘’‚‛′‹›＇`´", "'"),
    **dict.fromkeys("“”„‟″«»＂", '"'),
    **dict.fromkeys("‐‑⁃﹣－−", "-"),
    **dict.fromkeys("—―⸺⸻﹘", "—"),
    **dict.fromkeys("‒–", "–"),
    "⁄": "/",
    "∕": "/",
    "º": "°",
    "\t": " ",
    "\v": "\n",
    "\f": "\n",
    "\x85": "\n",
    "\u2028": "\n",
    "\u2029": "\n\n",
    "™": "",
    "℠": "",
}
_VULGAR_FRACTION: Final = re.compile("(\\d?)([¼½¾⅐-⅞↉])")
_SUPERSCRIPT_UNIT: Final = re.compile(r"(\d ?)?(?<![^\W\d])(km|m|cm|mm|ft|mi)([²³])")
_UNIT_NAMES: Final = {
    "km": "kilometer",
    "m": "meter",
    "cm": "centimeter",
    "mm": "millimeter",
    "ft": "foot",
    "mi": "mile",
}
_SUPERSCRIPT_POWER: Final = re.compile(r"(?:(?<=\d)|(?<=\b[A-Za-z]))([⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,9})")
_SUPERSCRIPT_NOTE: Final = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾]+")
_PICTURES: Final = re.compile(
    "[\U0001f000-\U0001faff\U0001fb00-\U0001fbff\u2600-\u27bf\u2b00-\u2bff\u2300-\u23ff\u25a0-\u25ff\u20e3\ufe0e\ufe0f]+"
)
_EMOTICON: Final = re.compile(
    r"(?<![^\s(])(?:[:;]['^o-]?[)(DPpOo/|*\]\[]{1,9}|=[)(DPp]{1,9}|<3{1,9}|</3|[xX]D{1,9}|\^_*\^|¯\\_\(ツ\)_/¯)(?![^\s.,!?)])"
)
_JOINER: Final = re.compile("(?<=[^\\W\\d_])[\u200c\u200d](?=[^\\W\\d_])|[\u200c\u200d]")
_SPACES: Final = re.compile(r"[^\S\n]+")


class _CharacterTable(dict[int, str]):
    """For `str.translate`: digits of any script to ASCII, control and unassigned characters to nothing."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        category = unicodedata.category(sign)
        result = sign
        if sign == "\n" or sign in "\u200c\u200d":
            pass
        elif category == "Nd":
            result = str(unicodedata.decimal(sign))
        elif sign.isdigit():
            result = f" {unicodedata.digit(sign)} "
        elif category == "No":
            result = " "
        elif category in ("Cc", "Cf", "Cs", "Co", "Cn") or sign == "\ufffd" or 0xE0100 <= code <= 0xE01EF:
            result = ""
        elif category == "Zs":
            result = " "
        self[code] = result
        return result


_CHARACTERS: Final = _CharacterTable()
_PUNCTUATION_TABLE: Final = str.maketrans(_QUOTES_AND_DASHES)


def _unit(found: re.Match[str]) -> str:
    """Behind a number, the name that the units table of `numbers` has ("5 sqm"); else words."""
    is_square = found[3] == "²"
    if found[1]:
        return found[1] + ("sq" if is_square else "cub") + found[2]
    return ("square " if is_square else "cubic ") + _UNIT_NAMES[found[2]]


def _power(found: re.Match[str]) -> str:
    exponent = unicodedata.normalize("NFKC", found[1]).replace("\u2212", "-")
    return {"2": " squared", "3": " cubed"}.get(exponent) or f" to the power of {exponent}"


def _fraction(found: re.Match[str]) -> str:
    written = unicodedata.normalize("NFKC", found[2]).replace("\u2044", "/")
    return f"{found[1]} {written}" if found[1] else written


def unify_characters(text: str) -> str:
    """One spelling for what Unicode spells in many ways; the rest of NFKC; no control characters, no odd spaces."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = _VULGAR_FRACTION.sub(_fraction, text)
        text = _SUPERSCRIPT_UNIT.sub(_unit, text)
        text = _SUPERSCRIPT_POWER.sub(_power, text)
        text = _SUPERSCRIPT_NOTE.sub("", text)
        text = text.translate(_PUNCTUATION_TABLE)
        text = unicodedata.normalize("NFKC", text)
        text = text.translate(_PUNCTUATION_TABLE)  # NFKC makes new ones, of letters with a prime for example
        text = _JOINER.sub(lambda found: found[0] if found.start() and _joins(found) else "", text)
    text = text.translate(_CHARACTERS)
    text = re.sub(r"(?<=\w)–(?=\w)", "-", text).replace("–", "—")
    return _SPACES.sub(" ", text)


def _joins(found: re.Match[str]) -> bool:
    """Joiners spell some scripts (Persian, Hindi); between Latin letters and emoji they mean nothing."""
    neighbour = found.string[found.start() - 1]
    return neighbour.isalpha() and ord(neighbour) > 0x590


def remove_emoji(text: str) -> str:
    """Emoji, dingbats and emoticons such as `:-)` go."""
    return _PICTURES.sub(" ", _EMOTICON.sub("", text))


# --- HTML ------------------------------------------------------------------------------------------------------------

_INLINE_TAGS: Final = (
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|img|input|ins|kbd|label|mark|q|ruby|rt|rp|samp|small"
    "|span|strike|strong|sub|sup|svg|time|tt|u|var|wbr|button|select|option|audio|video|source|iframe|link|meta"
    "|speak|voice|prosody|emphasis|break|phoneme|say-as|lang"
)
_BLOCK_TAGS: Final = (
    "p|br|div|h[1-6]|hr|li|ul|ol|dl|dt|dd|tr|table|tbody|thead|tfoot|blockquote|pre|section|article|header|footer|nav"
    "|aside|main|figure|figcaption|title|head|body|html|form|details|summary"
)
_TAG: Final = re.compile(rf"</?(?:(?:{_INLINE_TAGS})|({_BLOCK_TAGS})|(t[dh]))(?:\s[^<>]*|/)?>", re.IGNORECASE)
_HIDDEN_START: Final = re.compile(r"<!--|<(script|style)\b[^<>]*>", re.IGNORECASE)
_DECLARATION: Final = re.compile(r"<![A-Za-z][^<>]*>|<\?[^<>]*>")
_ENTITY: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def _remove_hidden(text: str) -> str:
    """Comments, scripts and style sheets; one that is never closed keeps its text."""
    pieces: list[str] = []
    position = 0
    missing: set[str] = set()
    while (found := _HIDDEN_START.search(text, position)) is not None:
        closing = f"</{found[1].lower()}" if found[1] else "-->"
        end = -1 if closing in missing else text.find(closing, found.end())
        pieces.append(text[position : found.start()])
        if end < 0:
            missing.add(closing)
            position = found.end()
        else:
            position = end + len(closing)
            if found[1] and (close := text.find(">", position, position + 100)) >= 0:
                position = close + 1
    return "".join([*pieces, text[position:]])


def strip_html(text: str) -> str:
    """Tags of HTML and SSML go (those of blocks leave a line end), entities become their characters."""
    if "<" in text:
        text = _DECLARATION.sub("", _remove_hidden(text))
        text = _TAG.sub(lambda found: "\n" if found[1] else " " if found[2] else "", text)
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text) if "&" in text else text


# --- addresses -------------------------------------------------------------------------------------------------------

_URL: Final = re.compile(
    r"(?<![A-Za-z])(?:https?|ftp)://[^\s<>\"'|\\^`{}]+|(?<![\w.@/])www\.[^\s<>\"'|\\^`{}]+", re.IGNORECASE
)
_EMAIL: Final = re.compile(
    r"(?<![\w.+%-])(?:mailto:)?([\w+%-]{1,64}(?:\.[\w+%-]{1,64}){0,8})@((?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24})(?![\w@-])"
)
_DOMAIN: Final = re.compile(
    r"(?<![\w.@/+%-])(?:[A-Za-z0-9][A-Za-z0-9-]{0,62}\.){1,6}(?:com|org|net|edu|gov|io|ai|dev|app|info|tv|co\.uk)"
    r"(?![\w-])(?:/[^\s<>\"'|\\^`{}]*)?"
)
_FILE_NAME: Final = re.compile(
    r"(?<=[A-Za-z0-9_])\.(?=(?:py|txt|js|ts|json|md|html|css|pdf|csv|jpe?g|png|gif|mp[34]|wav|flac|ogg|exe|zip|gz|yaml|yml"
    r"|toml|cpp|rs|sh|docx?|xlsx?|pptx?|safetensors)(?!\w))"
)
_ADDRESS_SIGNS: Final = {
    ".": " dot ", "/": " slash ", "-": " dash ", "_": " underscore ", ":": " colon ", "@": " at ", "~": " tilde ",
    "+": " plus ",
}  # fmt: skip


def _spell_address(address: str) -> str:
    words = "".join(sign if sign.isalnum() else _ADDRESS_SIGNS.get(sign, " ") for sign in address)
    return " " + " ".join(re.sub(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])", " ", words).split()) + " "


def _speak_url(found: re.Match[str]) -> str:
    address = found[0].rstrip(".,;:!?)]*_~'")
    ending = found[0][len(address) :]
    address = re.split(r"[?#]", address, maxsplit=1)[0]
    address = re.sub(r"^(?:[A-Za-z]+://)?(?:www\.)?", "", address).rstrip("/")
    address = re.sub(r":(?=\d{2,5}(?:/|$))", " port ", address, count=1)
    return _spell_address(address) + ending


def speak_addresses(text: str) -> str:
    """`https://www.example.com/a?b=c` -> "example dot com slash a"; `jo@x.org` -> "jo at x dot org"."""
    if "." not in text and "://" not in text:
        return text
    if "@" in text:
        text = _EMAIL.sub(lambda found: _spell_address(f"{found[1]}@{found[2]}"), text)
    text = _DOMAIN.sub(_speak_url, _URL.sub(_speak_url, text))
    return _FILE_NAME.sub(" dot ", text)


# --- Markdown --------------------------------------------------------------------------------------------------------

_LINK: Final = re.compile(r"!?\[([^\[\]]{0,300})\]\((?:[^()\n]|\([^()\n]{0,200}\)){0,500}\)")
_REFERENCE_LINK: Final = re.compile(r"\[([^\[\]]{1,300})\]\[[^\[\]]{0,100}\]")
# What a label stands for has to look like an address: "[Anna]: Yes." is a line of talk.
_LINK_TARGET: Final = re.compile(
    r"^ ?\[[^\[\]]{1,100}\]: ?(?:<[^<>\n]{1,500}>|[A-Za-z][A-Za-z0-9+.-]{1,20}:\S+|[/#.]\S*|\S*\w[./]\w\S*)"
    r"(?: [\"'(][^\n]{0,200})?$",
    re.MULTILINE,
)
_AUTOLINK: Final = re.compile(r"<((?:https?://|mailto:)[^<>\s]{1,500}|[^<>\s@]{1,64}@[^<>\s@]{1,200})>")
_FOOTNOTE: Final = re.compile(r"\[(?:\^[^\[\]\n]{1,50}|\d{1,3}(?: ?[,-] ?\d{1,3}){0,9})\]")
_ESCAPE: Final = re.compile(r"\\([^\w\s])")


def strip_links(text: str) -> str:
    """Links and images keep their label, footnote marks go. Comes before addresses are spelled out."""
    text = _AUTOLINK.sub(r"\1", text)
    if "[" not in text:
        return text
    text = _LINK_TARGET.sub("", text)
    for _ in range(2):  # an image inside a link
        text = _LINK.sub(r"\1", text)
    return _FOOTNOTE.sub("", _REFERENCE_LINK.sub(r"\1", text))


_FENCE: Final = re.compile(r" ?(?:`{3,}|~{3,})[^`]{0,50}$")
_HEADING: Final = re.compile(r" ?#{1,6} ")
_BULLET: Final = re.compile(r"(?: ?(?:[-*+•‣◦·▪] |>+ ?))+(?:\[[ xX]?\] )?")
_ORDERED: Final = re.compile(r" ?(\d{1,3})[.)] ")
_RULER: Final = frozenset(" |:=*_-—")
_SENTENCE_ENDS: Final = (".", "!", "?", ":", ";", ",", "—", "…", "。", "！", "？")


def strip_markdown(text: str) -> str:
    """Headings, lists, quotes, tables and emphasis as plain sentences, all on one line.

    A heading, a list item, a table row and a paragraph end with a full stop where they have no punctuation. A single
    line end inside a paragraph is a space.
    """
    blocks: list[list[str]] = []
    paragraph: list[str] = []
    is_open = was_quote = False  # whether the next plain line continues the last block
    for line in text.split("\n"):
        stripped = line.strip()
        if (len(stripped) > 2 and _RULER.issuperset(stripped)) or not stripped or _FENCE.match(stripped):
            is_open = False
            continue
        heading = _HEADING.match(line)
        bullet = _BULLET.match(line) if heading is None else None
        ordered = _ORDERED.match(line) if heading is None and bullet is None else None
        if heading is not None:
            stripped = line[heading.end() :].strip()
            stripped = re.sub(r" #+$", "", stripped)
        elif bullet is not None:
            stripped = line[bullet.end() :].strip()
        elif ordered is not None:
            stripped = f"{ordered[1]}. {line[ordered.end() :].strip()}"
        is_row = "|" in stripped
        if is_row:
            stripped = ", ".join(cell.strip() for cell in stripped.split("|") if cell.strip())
        is_quote = bullet is not None and ">" in bullet[0]
        if not stripped:
            continue
        is_plain = heading is None and ordered is None and not is_row and (bullet is None or (is_quote and was_quote))
        if is_open and is_plain:
            paragraph.append(stripped)
        else:
            paragraph = [stripped]
            blocks.append(paragraph)
        is_open, was_quote = heading is None and not is_row, is_quote
    paragraphs = [" ".join(block) for block in blocks]
    return _strip_inline(" ".join([*map(_end_sentence, paragraphs[:-1]), *paragraphs[-1:]]))


def _end_sentence(block: str) -> str:
    return block if block.rstrip("\"')]*_`~ ").endswith(_SENTENCE_ENDS) else block + "."


def _strip_inline(text: str) -> str:
    """Emphasis, code ticks and escapes."""
    if "\\" in text:
        text = _ESCAPE.sub(r"\1", text).replace("\\", " ")
    if "*" in text:
        text = re.sub(r"(?<=\d) ?\* ?(?=\d)", " times ", text).replace("*", "")
    if "_" in text:
        text = re.sub(r"(?<=[^\W_])_+(?=[^\W_])", " ", text).replace("_", "")
    if "~" in text:
        text = re.sub(r"(?<![\w~])~ ?(?=[$£€]?\d)", "about ", text).replace("~", " ")
    if "^" in text:
        text = re.sub(r"(?<=[\w)])\^(?=[\w(-])", " to the power of ", text).replace("^", "")
    return re.sub(r"-{2,}", "—", text.replace("`", ""))
