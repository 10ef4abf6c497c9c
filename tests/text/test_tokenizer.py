"""Template, special tokens and alphabet: the ids of a segment are the same whatever the tokenizer.json brings along."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from duologue.config import TextConfig
from duologue.errors import CheckpointError, ConfigError, OptionError
from duologue.text import PHONEME_SYMBOLS, EspeakPhonemizer, TextTokenizer, build_symbol_tokenizer
from duologue.text import tokenizer as tokenizers_of_text
from duologue.text.tokenizer import BOS, EOS, SPECIAL_TOKENS, UNKNOWN

LETTERS = "abcdefghijklmnopqrstuvwxyz.,!?;:'\"()-—…"
RAW = TextConfig(normalize=False)


def llama_like(post_processor: str = "both") -> Tokenizer:
    """A small byte-level BPE with the special tokens of Llama 3, as `tokenizer.json` files have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["hello there how are you doing", "<|end_of_text|> is text"], trainer)
    names = [BOS, EOS, "<|reserved_special_token_0|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    ids = [(name, tokenizer.token_to_id(name)) for name in names[:2]]
    if post_processor != "none":
        single = f"{BOS} $A" + (f" {EOS}" if post_processor == "both" else "")
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return tokenizer


@pytest.mark.parametrize("post_processor", ["both", "bos", "none"])
def test_special_tokens_come_exactly_once(post_processor: str) -> None:
    tokenizer = TextTokenizer(llama_like(post_processor), RAW)
    ids = tokenizer.encode("hello there", 0)
    assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id
    assert ids.count(tokenizer.bos_id) == ids.count(tokenizer.eos_id) == 1
    assert ids == llama_like("both").encode("[0]hello there").ids
    assert tokenizer.decode(ids) == "[0]hello there"


def test_the_template_belongs_to_the_checkpoint() -> None:
    tokenizer = TextTokenizer(llama_like(), TextConfig(template="[{speaker}] {text}", normalize=False))
    assert tokenizer.decode(tokenizer.encode("hello {speaker}{text}", 12)) == "[12] hello {speaker}{text}"


@pytest.mark.parametrize("build", [llama_like, lambda: build_symbol_tokenizer(LETTERS)])
@given(
    text=st.one_of(
        st.text(max_size=30), st.sampled_from([BOS, EOS, "a<|end_of_text|>b", "<|reserved_special_token_0|>"])
    )
)
def test_text_never_becomes_a_special_token(build: object, text: str) -> None:
    tokenizer = TextTokenizer(build(), RAW)  # type: ignore[operator]
    inner = tokenizer.encode(text, 0)[1:-1]
    special = {tokenizer._tokenizer.token_to_id(name) for name in (BOS, EOS, "<|reserved_special_token_0|>")} - {None}
    assert not special & set(inner)
    assert all(0 <= token < tokenizer.vocab_size for token in inner)


def test_special_tokens_in_text_are_read_as_text() -> None:
    tokenizer = TextTokenizer(llama_like(), RAW)
    assert tokenizer.decode(tokenizer.encode(f"a{EOS}b", 0)) == f"[0]a{EOS}b"


def test_normalisation_can_be_switched() -> None:
    tokenizer = TextTokenizer(llama_like(), TextConfig())
    assert tokenizer.decode(tokenizer.encode("5 km", 0)) == "[0]five kilometers"
    assert tokenizer.decode(tokenizer.encode("5 km", 0, normalize_text=False)) == "[0]5 km"
    assert TextTokenizer(llama_like(), RAW).prepare("5", normalize_text=True) == "five"
    assert tokenizer.prepare("a\ud800b", normalize_text=False) == "ab"


def test_a_text_is_prepared_once_and_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(tokenizers_of_text, "normalize", lambda text: asked.append(text) or text.upper())
    monkeypatch.setattr(tokenizers_of_text, "_MOST_PREPARED", 2)
    tokenizer = TextTokenizer(llama_like(), TextConfig())
    assert [tokenizer.prepare("one") for _ in range(3)] == ["ONE"] * 3
    assert tokenizer.prepare("one", normalize_text=False) == "one"
    assert asked == ["one"]
    assert [tokenizer.prepare(text) for text in ("two", "three", "three", "one")] == ["TWO", "THREE", "THREE", "ONE"]
    assert asked.count("one") == 2 and asked.count("three") == 1


@pytest.mark.parametrize("speaker", [-1, True, 1.0, "0", None])
def test_bad_speakers(speaker: int) -> None:
    with pytest.raises(OptionError, match="speaker"):
        TextTokenizer(llama_like(), RAW).encode("hello", speaker)


def test_files(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(llama_like(), RAW)
    tokenizer.save(tmp_path / "tokenizer.json")
    again = TextTokenizer.from_file(tmp_path / "tokenizer.json", RAW)
    assert again.encode("hello, you", 3) == tokenizer.encode("hello, you", 3)
    assert again.vocab_size == tokenizer.vocab_size == llama_like().get_vocab_size()
    with pytest.raises(CheckpointError, match="no tokenizer at"):
        TextTokenizer.from_file(tmp_path / "missing.json", RAW)
    for content in ("", "not json", "{}", json.dumps({"model": {"type": "none"}})):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(CheckpointError, match="is not a tokenizer") as caught:
            TextTokenizer.from_file(tmp_path / "bad.json", RAW)
        assert "\n" not in str(caught.value)


def test_truncation_and_padding_of_the_file_are_ignored() -> None:
    tokenizer = llama_like()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=100)
    assert TextTokenizer(tokenizer, RAW).encode("hello there how", 0) == llama_like().encode("[0]hello there how").ids


def test_missing_special_tokens_and_bad_configs() -> None:
    with pytest.raises(CheckpointError, match=r"no token '<\|x\|>'"):
        TextTokenizer(llama_like(), TextConfig(bos="<|x|>"))
    for template in ("[{speaker}]", "{text}{text}", "{speaker}{speaker}{text}"):
        with pytest.raises(ConfigError, match="template"):
            TextTokenizer(llama_like(), TextConfig(template=template))
    with pytest.raises(ConfigError, match="alphabet 'klingon'"):
        TextConfig(alphabet="klingon")
    with pytest.raises(ConfigError, match="alphabet 'espeak:'"):
        TextConfig(alphabet="espeak:")


def test_phonemes_as_the_alphabet() -> None:
    tokenizer = TextTokenizer(build_symbol_tokenizer(PHONEME_SYMBOLS), TextConfig(alphabet="espeak:en-us"))
    ids = tokenizer.encode("Dr. Who has 2 cats!", 1)
    assert tokenizer.decode(ids) == "[1]" + EspeakPhonemizer()("Doctor Who has two cats!")
    assert tokenizer._tokenizer.token_to_id(UNKNOWN) not in ids


def test_symbol_tokenizer() -> None:
    tokenizer = build_symbol_tokenizer(LETTERS)
    assert [tokenizer.id_to_token(index) for index in range(4)] == list(SPECIAL_TOKENS)
    assert tokenizer.get_vocab_size() == 4 + 13 + len(LETTERS)
    tokens = tokenizer.encode("[1]Ab é\n", add_special_tokens=False).tokens
    assert " ".join(tokens) == f"[ 1 ] a b   e {UNKNOWN}"
    upper = build_symbol_tokenizer(PHONEME_SYMBOLS)
    assert upper.encode("Aa", add_special_tokens=False).tokens == ["A", UNKNOWN]


def test_symbols_of_several_characters_are_matched_longest_first() -> None:
    tokenizer = build_symbol_tokenizer(["a", "b", "ab", "abc", "."])
    assert tokenizer.encode("abcab.a", add_special_tokens=False).tokens == ["abc", "ab", ".", "a"]
    with pytest.raises(ConfigError, match="empty symbol"):
        build_symbol_tokenizer(["a", ""])


@given(st.text(alphabet=[*PHONEME_SYMBOLS], max_size=40))
def test_symbols_round_trip(text: str) -> None:
    tokenizer = TextTokenizer(build_symbol_tokenizer(PHONEME_SYMBOLS), RAW)
    ids = tokenizer.encode(text, 7)
    assert len(ids) == len(text) + 5
    assert tokenizer.decode(ids) == f"[7]{text}"


def test_transformers_reads_a_symbol_tokenizer_alike(tmp_path: Path) -> None:
    tokenizer = TextTokenizer(build_symbol_tokenizer(LETTERS), RAW)
    tokenizer.save(tmp_path / "tokenizer.json")
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert theirs("[0]hello there")["input_ids"] == tokenizer.encode("Hello there", 0)
