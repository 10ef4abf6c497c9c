"""Text to phonemes with eSpeak NG: a small, closed alphabet of English that spells every sound one way.

The shared library and its data come with the wheel `espeakng-loader`; the calls are those of the public C header
`espeak-ng/speak_lib.h` (eSpeak NG 1.52): `espeak_Initialize`, `espeak_SetVoiceByName`, `espeak_TextToPhonemes`. The
spelling follows Kokoro's (hexgrad/misaki, `misaki/espeak.py`): one letter for a diphthong or an affricate, no length
marks. The folding, in order:

- diphthongs `eɪ aɪ oʊ aʊ ɔɪ` are `A I O W Y` (British `əʊ` is `O` too); affricates `dʒ tʃ` are `ʤ ʧ`; eSpeak marks
  such pairs with a tie, so that the `tʃ` of "nightshirt" stays two sounds;
- every r is `ɹ`; `ɚ` is `əɹ`, a long `ɜː` without its r ("bird", which eSpeak writes `bɜːd`) is `ɜɹ`;
- a syllabic consonant gets its vowel: `n̩` is `ən`, and the l of "bottle" is `əl`;
- the weak vowel `ɐ` is `ə`; the glottal stop of "button" is `t`; the flap of "water" stays `ɾ`, the weak vowel of
  "roses" stays `ᵻ`;
- sounds of foreign words fall to the nearest English one (`x` to `k`, nasal vowels to oral ones); anything else goes.

In other languages more depends on such sounds, and they stay apart: `x` is `h`, as in "jota" and "Buch", the `ɲ` of
"mañana" `nj`, the `y` of "lune" `ju`, and a nasal vowel has an `n` after it.
"""

import ctypes
import os
import re
import tempfile
import threading
import unicodedata
from typing import Final

from duologue.errors import DuologueError, OptionError

PUNCTUATION: Final = ".,!?;:—…"
"""The marks that survive phonemization, in place."""

PHONEME_SYMBOLS: Final[tuple[str, ...]] = tuple(
    " " + PUNCTUATION + "ˈˌ" + "AIOWYʤʧ" + "bdfhijklmnpstuvwzæðŋɑɔəɛɜɡɪɹɾʃʊʌʒθᵻ"
)
"""Every symbol that `EspeakPhonemizer` can return, in a fixed order. Append only: token ids depend on it."""

_TIE: Final = "^"
_AUDIO_OUTPUT_RETRIEVAL: Final = 1
_INITIALIZE_DONT_EXIT: Final = 0x8000
_CHARS_UTF8: Final = 1
_PHONEMES_IPA_TIED: Final = 0x02 | 0x80 | (ord(_TIE) << 8)
_LONGEST_DATA_PATH: Final = 120  # eSpeak keeps paths in buffers of 160 bytes (N_PATH_HOME) and appends file names

_FOLDS: Final[tuple[tuple[str, str], ...]] = (
    ("e^ɪ", "A"),
    ("a^ɪ", "I"),
    ("o^ʊ", "O"),
    ("ə^ʊ", "O"),
    ("a^ʊ", "W"),
    ("ɔ^ɪ", "Y"),
    ("d^ʒ", "ʤ"),
    ("t^ʃ", "ʧ"),
    (_TIE, ""),
    ("ɜːɹ", "ɜɹ"),
    ("ɜː", "ɜɹ"),
    ("ɚɹ", "əɹ"),
    ("ɚ", "əɹ"),
    ("ɝ", "ɜɹ"),
    ("ʔn", "tn"),
)
_LETTER_FOLDS: Final = str.maketrans(
    {
        "r": "ɹ", "ɻ": "ɹ", "ʁ": "ɹ", "ɽ": "ɾ", "ɐ": "ə", "ʔ": "t", "g": "ɡ", "x": "k", "χ": "k", "ç": "k", "q": "k",
        "c": "k", "ɣ": "ɡ", "ɬ": "l", "ɫ": "l", "ʎ": "l", "ʍ": "w", "β": "v", "ʋ": "v", "ɸ": "f", "ɦ": "h", "ɲ": "n",
        "ɳ": "n", "ɴ": "ŋ", "ɱ": "m", "ʈ": "t", "ɖ": "d", "ʂ": "ʃ", "ɕ": "ʃ", "ʐ": "ʒ", "ʑ": "ʒ", "a": "ɑ", "ɒ": "ɑ",
        "e": "A", "o": "ɔ", "y": "i", "ʏ": "ɪ", "ɨ": "ɪ", "ʉ": "u", "ɯ": "u", "ø": "ɜ", "œ": "ɜ", "ɵ": "ə", "ɘ": "ə",
        "ɤ": "ʌ", "ʲ": "j", "ᵊ": "ə", "ɭ": "l",
    }
)  # fmt: skip
_FOREIGN_FOLDS: Final = str.maketrans(
    {"x": "h", "χ": "h", "ç": "h", "ɲ": "nj", "ʎ": "lj", "ʝ": "j", "ɟ": "j", "y": "ju", "ɥ": "w", "\u0303": "n"}
)
_SYLLABIC_MARK: Final = "\u0329"
_LANGUAGE_FLAG: Final = re.compile(r"\([a-z][a-z0-9-]*\)")
_NOT_A_SYMBOL: Final = re.compile(f"[^{re.escape(''.join(PHONEME_SYMBOLS))}]")
_SPACES: Final = re.compile(r"\s+")

_UNSPOKEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff*_~^|\\<>{}\[\]()\"“”„«»#`]+")
_NOT_LATIN: Final = re.compile(r"[^\x00-\u024f\u1e00-\u1eff\u2000-\u206f\u20a0-\u20cf]+")
_MARKS: Final = re.compile(
    r"(?<=\d)[.:,](?=\d)"  # kept: inside 3.5, 3:45, 1,200
    r"|(?<=\b\w)\.(?=\w\b)"  # kept: inside U.S
    r"|(?<=\b\w\.\w)\.(?=\s+[a-z])"  # kept: U.S. in the middle of a sentence
    rf"|(?P<mark>[{re.escape(PUNCTUATION)}][{re.escape(PUNCTUATION)}\s]*)"
)
_REPEATED_MARK: Final = re.compile(rf"([{re.escape(PUNCTUATION)}])\1+")


def _split_clauses(text: str) -> list[tuple[str, str]]:
    """`"Oh, 3.5 of U.S. cars!"` -> `[("Oh", ","), ("3.5 of U.S", "."), ("cars", "!")]`."""
    clauses: list[tuple[str, str]] = []
    start = 0
    for found in _MARKS.finditer(text):
        mark = found.group("mark")
        if mark is None:
            continue
        clauses.append((text[start : found.start()].strip(), _REPEATED_MARK.sub(r"\1", "".join(mark.split()))))
        start = found.end()
    clauses.append((text[start:].strip(), ""))
    return clauses


def fold_ipa(ipa: str, *, is_english: bool = True) -> str:
    """eSpeak's IPA, pairs tied with `^`, in the symbols of `PHONEME_SYMBOLS`; whatever does not fit is dropped."""
    ipa = _LANGUAGE_FLAG.sub("", ipa)
    if not is_english:
        ipa = ipa.translate(_FOREIGN_FOLDS)
    ipa = re.sub(rf"(\S){_SYLLABIC_MARK}", r"ə\1", ipa)
    for written, folded in _FOLDS:
        ipa = ipa.replace(written, folded)
    return _NOT_A_SYMBOL.sub("", ipa.translate(_LETTER_FOLDS))


class _Library:
    """The one eSpeak instance of this process. Its C state is global, hence the lock and the remembered voice."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._espeak: ctypes.CDLL | None = None
        self._short_path: tempfile.TemporaryDirectory[str] | None = None
        self._voice = ""

    def _load(self) -> ctypes.CDLL:
        try:
            import espeakng_loader
        except ImportError:
            raise DuologueError(
                "this model reads phonemes, for which the package espeakng-loader is missing; "
                "install it with: pip install espeakng-loader"
            ) from None
        try:
            data_path = str(espeakng_loader.get_data_path())
            library = ctypes.CDLL(espeakng_loader.get_library_path())
        except (OSError, RuntimeError) as error:
            raise DuologueError(
                f"the eSpeak NG library of espeakng-loader does not load ({error}); reinstall espeakng-loader"
            ) from None
        library.espeak_Initialize.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_int]
        library.espeak_Initialize.restype = ctypes.c_int
        library.espeak_SetVoiceByName.argtypes = [ctypes.c_char_p]
        library.espeak_SetVoiceByName.restype = ctypes.c_int
        library.espeak_TextToPhonemes.argtypes = [ctypes.POINTER(ctypes.c_char_p), ctypes.c_int, ctypes.c_int]
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        if len(os.fsencode(data_path)) > _LONGEST_DATA_PATH:
            self._short_path = tempfile.TemporaryDirectory(prefix="espeak-")
            link = os.path.join(self._short_path.name, "espeak-ng-data")
            os.symlink(data_path, link, target_is_directory=True)
            data_path = link
        status = library.espeak_Initialize(_AUDIO_OUTPUT_RETRIEVAL, 0, os.fsencode(data_path), _INITIALIZE_DONT_EXIT)
        if status < 0:
            raise DuologueError(f"eSpeak NG finds no data in {data_path}; reinstall espeakng-loader")
        return library

    def set_voice(self, voice: str) -> ctypes.CDLL:
        """Load on first use and switch to `voice`. The caller holds the lock."""
        if self._espeak is None:
            self._espeak = self._load()
        if voice != self._voice:
            if self._espeak.espeak_SetVoiceByName(voice.encode()) != 0:
                self._voice = ""
                raise OptionError(
                    f"eSpeak NG has no voice {voice!r}; give one that it has, such as 'en-us' or 'en-gb-x-rp'"
                )
            self._voice = voice
        return self._espeak


_LIBRARY: Final = _Library()


class EspeakPhonemizer:
    """Text to phonemes in one of eSpeak's voices.

    Deterministic and thread-safe; the library loads at the first call. The alphabet is English: of other languages'
    sounds those that it lacks are written with the nearest that it has.
    """

    def __init__(self, voice: str = "en-us") -> None:
        self.voice = voice

    def __call__(self, text: str) -> str:
        """Phonemes of `text`, made of `PHONEME_SYMBOLS` only: `"Hey, you!"` -> `"hˈA, jˈu!"`.

        Text should be normalised first; the punctuation `. , ! ? ; : — …` stays in place, followed by one space,
        and a repeated mark is given once. Raises `DuologueError` without espeakng-loader, `OptionError` for an
        unknown voice.
        """
        text = unicodedata.normalize("NFC", text).replace("...", "…").replace("--", "—").replace("’", "'")
        text = re.sub(r"(?<=\s)[-–](?=\s)", "—", text)
        text = _UNSPOKEN.sub(" ", text)
        is_english = self.voice.startswith("en")
        if is_english:
            text = _NOT_LATIN.sub(" ", text)  # eSpeak would say "Chinese letter"
        pieces: list[str] = []
        with _LIBRARY.lock:
            espeak = _LIBRARY.set_voice(self.voice)
            for clause, mark in _split_clauses(text):
                ipa = _clause_to_ipa(espeak, clause) if clause else ""
                phonemes = _SPACES.sub(" ", fold_ipa(ipa, is_english=is_english)).strip()
                if phonemes or mark:
                    pieces.append(phonemes + mark)
        return " ".join(pieces)


def _clause_to_ipa(espeak: ctypes.CDLL, clause: str) -> str:
    """One clause without punctuation marks; eSpeak cuts a very long one, hence the loop over its pointer."""
    pointer = ctypes.c_char_p(clause.encode("utf-8", "ignore"))
    parts: list[str] = []
    while pointer.value is not None:
        phonemes = espeak.espeak_TextToPhonemes(ctypes.byref(pointer), _CHARS_UTF8, _PHONEMES_IPA_TIED)
        if phonemes:
            parts.append(phonemes.decode("utf-8", "ignore"))
    return " ".join(parts)
