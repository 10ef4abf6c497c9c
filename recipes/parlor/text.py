"""Parlor's text alphabet: eSpeak's phonemes, each vowel together with its stress."""

from __future__ import annotations

from pathlib import Path

from duologue.config import TextConfig
from duologue.text.phonemes import PHONEME_SYMBOLS
from duologue.text.tokenizer import TextTokenizer, build_symbol_tokenizer

_STRESS = "ˈˌ"
_VOWELS = "AIOWYiuæɑɔəɛɜɪʊʌᵻ"

TEXT = TextConfig(template="[{speaker}]{text}", alphabet="espeak:en-us")


def symbols() -> list[str]:
    """Every symbol of the vocabulary after the special tokens: single phonemes, then stressed vowels."""
    return [*PHONEME_SYMBOLS, *(mark + vowel for mark in _STRESS for vowel in _VOWELS)]


def build_tokenizer(folder: Path) -> TextTokenizer:
    """Writes `tokenizer.json` into `folder` and opens it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    build_symbol_tokenizer(symbols()).save(str(path))
    return TextTokenizer.from_file(path, TEXT)
