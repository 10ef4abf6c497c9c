"""Text to the token ids of a checkpoint: its template, its alphabet, its special tokens.

A text row of the model is `BOS template EOS`. The template ("[0]Hello" for Sesame, "[0] Hello" for MisoTTS) and the
names of the special tokens belong to the checkpoint's config; the vocabulary is its `tokenizer.json`, in the format of
the library `tokenizers`. The special tokens are added here and never by the file's post-processor, because Sesame's
adds both, the stock Llama one only BOS, and others none.
"""

import os
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Final, Self

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from duologue.config import TextConfig
from duologue.errors import CheckpointError, ConfigError, OptionError
from duologue.text.normalize import normalize
from duologue.text.phonemes import EspeakPhonemizer

PAD: Final = "<|pad|>"
BOS: Final = "<|begin_of_text|>"
EOS: Final = "<|end_of_text|>"
UNKNOWN: Final = "<|unk|>"
SPECIAL_TOKENS: Final = (PAD, BOS, EOS, UNKNOWN)

_SPEAKER_TAG_SYMBOLS: Final = " 0123456789[]"
_MOST_PREPARED: Final = 1024  # texts


class TextTokenizer:
    """The text side of a checkpoint: `encode(text, speaker)` gives the ids of one segment.

    `tokenizer` is taken over: its truncation and padding are switched off.
    """

    def __init__(self, tokenizer: Tokenizer, config: TextConfig) -> None:
        """Raises `CheckpointError` where a special token is missing, `ConfigError` for a bad template."""
        if config.template.count("{text}") != 1 or config.template.count("{speaker}") > 1:
            raise ConfigError(f"text template {config.template!r}; expected {{text}} once and {{speaker}} at most once")
        self.config = config
        self._phonemize = None if config.espeak_voice is None else EspeakPhonemizer(config.espeak_voice)
        self._tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # What a user writes is text: "<|end_of_text|>" becomes the ids of its letters, never the special token.
        tokenizer.encode_special_tokens = True
        self._prepared: dict[tuple[str, bool | None], str] = {}
        self.bos_id = self._special_id(config.bos)
        self.eos_id = self._special_id(config.eos)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], config: TextConfig) -> Self:
        """Read a `tokenizer.json`. Raises `CheckpointError` for one that is missing or malformed."""
        path = Path(path)
        if not path.is_file():
            raise CheckpointError(f"no tokenizer at {path}; the checkpoint's folder should hold a tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{path} is not a tokenizer of the tokenizers library ({reason})") from None
        return cls(tokenizer, config)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as `tokenizer.json`, which `from_file` reads back."""
        Path(path).write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that `encode` can return."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def prepare(self, text: str, *, normalize_text: bool | None = None) -> str:
        """What is spoken for `text`: normalised (`None`: as the config says), then in the checkpoint's alphabet.

        Kept for next time: a conversation's turns are asked for again at each turn, a millisecond each.
        """
        key = text, normalize_text
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepare(text, normalize_text)
            if len(self._prepared) >= _MOST_PREPARED:
                self._prepared = {}
            self._prepared[key] = prepared
        return prepared

    def _prepare(self, text: str, normalize_text: bool | None) -> str:
        text = text.encode("utf-8", "ignore").decode()  # lone surrogates
        if self.config.normalize if normalize_text is None else normalize_text:
            text = normalize(text)
        return self._phonemize(text) if self._phonemize is not None else text

    def encode(self, text: str, speaker: int, *, normalize_text: bool | None = None) -> list[int]:
        """Token ids of one segment, special tokens included: `[num_tokens]`, each in `[0, vocab_size)`.

        `speaker` is at least 0. `normalize_text` overrides the config's `normalize`. The length is for the caller to
        judge. Raises `OptionError` for a bad speaker.
        """
        return self.encode_prepared(self.prepare(text, normalize_text=normalize_text), speaker)

    def encode_prepared(self, prepared: str, speaker: int) -> list[int]:
        """`encode` for what `prepare` made of a text. Raises `OptionError` for a bad speaker."""
        if isinstance(speaker, bool) or not isinstance(speaker, int) or speaker < 0:
            raise OptionError(f"speaker {speaker!r}; expected a whole number from 0")
        before, after = self.config.template.replace("{speaker}", str(speaker)).split("{text}")
        tagged = before + prepared + after
        return [self.bos_id, *self._tokenizer.encode(tagged, add_special_tokens=False).ids, self.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without the special tokens, for a person to look at."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def _special_id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise CheckpointError(f"the tokenizer has no token {token!r}, which the checkpoint's text config names")
        return int(token_id)


def build_symbol_tokenizer(symbols: Iterable[str]) -> Tokenizer:
    """A tokenizer in which each of `symbols`, of one or more characters, is one token; the longest match comes first.

    Ids: `SPECIAL_TOKENS`, then space, digits and brackets for the speaker tag, then `symbols` in their order, each
    once. Any other character is `<|unk|>`. Where `symbols` holds no capital letter, text is lower-cased first; where
    it holds no accented one, accents are stripped first. Raises `ConfigError` for an empty symbol.
    """
    vocabulary = {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    symbols = list(symbols)
    for symbol in [*_SPEAKER_TAG_SYMBOLS, *symbols]:
        if not symbol:
            raise ConfigError("the text alphabet holds an empty symbol; expected one or more characters each")
        vocabulary.setdefault(symbol, len(vocabulary))
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token=UNKNOWN))
    steps: list[normalizers.Normalizer] = []
    if all(unicodedata.normalize("NFD", symbol) == symbol for symbol in symbols):
        steps += [normalizers.NFD(), normalizers.StripAccents()]
    else:
        steps += [normalizers.NFC()]
    if all(symbol == symbol.lower() for symbol in symbols):
        steps += [normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(steps)
    several = sorted((symbol for symbol in vocabulary if len(symbol) > 1 and symbol not in SPECIAL_TOKENS), key=len)
    pattern = "|".join([*(re.escape(symbol) for symbol in reversed(several)), r"[\s\S]"])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    # For other readers of the file, such as transformers' processor; TextTokenizer adds these itself.
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, vocabulary[BOS]), (EOS, vocabulary[EOS])]
    )
    return tokenizer
