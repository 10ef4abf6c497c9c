"""Text on its way to the model: normalisation, phonemes, tokens, and the conversation script."""

from duologue.text.normalize import normalize, speakable
from duologue.text.phonemes import PHONEME_SYMBOLS, EspeakPhonemizer
from duologue.text.script import Prompt, Script, Turn, assign_speakers, parse_messages, parse_script
from duologue.text.tokenizer import TextTokenizer, build_symbol_tokenizer

__all__ = [
    "PHONEME_SYMBOLS",
    "EspeakPhonemizer",
    "Prompt",
    "Script",
    "TextTokenizer",
    "Turn",
    "assign_speakers",
    "build_symbol_tokenizer",
    "normalize",
    "parse_messages",
    "parse_script",
    "speakable",
]
