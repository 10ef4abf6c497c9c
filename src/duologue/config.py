"""Configurations as frozen dataclasses, their presets, and strict JSON in and out.

Sources: Sesame, `csm/models.py` (flavours `llama-1B` and `llama-100M`) and "Crossing the uncanny valley of
conversational voice" (2025) for the sizes; Kyutai, `moshi/models/loaders.py` for Mimi; Llama 3.2 for the RoPE scaling.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, Self

from duologue.errors import ConfigError

MAX_GUIDANCE = 10.0
_ESPEAK = "espeak:"


class JsonConfig:
    """Strict conversion between a frozen dataclass and plain JSON values: an unknown or missing field is an error."""

    def to_dict(self) -> dict[str, Any]:
        """All fields, nested configurations as dicts and tuples as lists."""
        return typing.cast(dict[str, Any], _plain(self))

    def to_json(self) -> str:
        """The configuration as indented JSON text that ends in a newline."""
        return json.dumps(self.to_dict(), indent=2) + "\n"

    @classmethod
    def from_dict(cls, values: Any, where: str | None = None) -> Self:
        """Builds the configuration; raises `ConfigError` for unknown, missing or mistyped fields, naming them."""
        where = where or cls.__name__
        if not isinstance(values, dict):
            raise ConfigError(f"{where}: expected an object with fields, found {type(values).__name__}")
        fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ConfigError(f"{where}: unknown field(s) {', '.join(unknown)}; known are {', '.join(fields)}")
        required = {
            name
            for name, field in fields.items()
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        }
        missing = sorted(required - set(values))
        if missing:
            raise ConfigError(f"{where}: missing field(s) {', '.join(missing)}")
        hints = typing.get_type_hints(cls)
        return cls(**{name: _typed(value, hints[name], f"{where}.{name}") for name, value in values.items()})

    @classmethod
    def from_json(cls, text: str, where: str | None = None) -> Self:
        """Reads what `to_json` wrote; raises `ConfigError` for text that is not JSON or not this configuration."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{where or cls.__name__}: not valid JSON ({error})") from error
        return cls.from_dict(values, where)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` checked against (and where JSON lost it, restored to) the type that the field declares."""
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in typing.get_args(hint):
            return None
        inner = [item for item in typing.get_args(hint) if item is not type(None)]
        return _typed(value, inner[0], where)
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where}: {value!r} is not one of {', '.join(map(repr, typing.get_args(hint)))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, found {value!r}")
        return tuple(_typed(item, typing.get_args(hint)[0], where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected an object, found {value!r}")
        return dict(value)
    if isinstance(hint, type) and issubclass(hint, JsonConfig):
        return value if isinstance(value, hint) else hint.from_dict(value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise ConfigError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


@dataclass(frozen=True)
class RopeScaling(JsonConfig):
    """Llama-3 frequency scaling; `original_max_positions` is in positions."""

    factor: float = 32.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True)
class TransformerConfig(JsonConfig):
    """One causal transformer. Llama style by default; Mimi's sets `norm`, `mlp`, `layer_scale` and `window`."""

    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    ffn_dim: int
    max_positions: int
    head_dim: int | None = None
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-5
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    final_norm: bool = True
    layer_scale: bool = False
    window: int | None = None
    rope_theta: float = 500_000.0
    rope_scaling: RopeScaling | None = None

    def __post_init__(self) -> None:
        for name in ("dim", "num_layers", "num_heads", "num_kv_heads", "ffn_dim", "max_positions"):
            _require(getattr(self, name) > 0, f"TransformerConfig.{name} must be positive, not {getattr(self, name)}")
        _require(
            self.num_heads % self.num_kv_heads == 0,
            f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}",
        )
        _require(
            self.head_dim is not None or self.dim % self.num_heads == 0,
            f"dim {self.dim} is not a multiple of num_heads {self.num_heads}: give head_dim",
        )
        _require(self.head_size % 2 == 0, f"head_dim {self.head_size} must be even for rotary positions")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.head_dim if self.head_dim is not None else self.dim // self.num_heads


@dataclass(frozen=True)
class TextConfig(JsonConfig):
    """How text becomes rows: the template and special tokens belong to the checkpoint, not to the code.

    `alphabet` is "text", or "espeak:" and one of eSpeak's voices, whose phonemes are then read in place of letters.
    """

    template: str = "[{speaker}]{text}"
    bos: str = "<|begin_of_text|>"
    eos: str = "<|end_of_text|>"
    alphabet: str = "text"
    normalize: bool = True

    def __post_init__(self) -> None:
        _require(
            self.alphabet == "text" or bool(self.espeak_voice),
            f"text alphabet {self.alphabet!r}; expected 'text' or 'espeak:' and a voice, such as 'espeak:en-us'",
        )

    @property
    def espeak_voice(self) -> str | None:
        """Whose phonemes are read; None for letters."""
        return self.alphabet.removeprefix(_ESPEAK) if self.alphabet.startswith(_ESPEAK) else None


@dataclass(frozen=True)
class CSMConfig(JsonConfig):
    """The speech model: a backbone over rows and a depth decoder over the codebooks of one frame.

    `audio_vocab_size` counts the codec's `codebook_size` codes and the reserved ids after them. `guidance` is how
    strongly generation holds to the text unless it is told otherwise; 1 is plain sampling, as for a model that was
    never trained without text.
    """

    backbone: TransformerConfig
    depth: TransformerConfig
    text_vocab_size: int
    audio_vocab_size: int
    num_codebooks: int
    codebook_size: int
    text: TextConfig = TextConfig()
    guidance: float = 1.0

    def __post_init__(self) -> None:
        _require(self.num_codebooks >= 2, f"num_codebooks must be at least 2, not {self.num_codebooks}")
        _require(
            0 <= self.guidance <= MAX_GUIDANCE, f"guidance must be from 0 to {MAX_GUIDANCE:g}, not {self.guidance}"
        )
        _require(
            0 < self.codebook_size <= self.audio_vocab_size,
            f"codebook_size {self.codebook_size} does not fit audio_vocab_size {self.audio_vocab_size}",
        )
        _require(self.text_vocab_size > 0, f"text_vocab_size must be positive, not {self.text_vocab_size}")


@dataclass(frozen=True)
class HarmonicConfig(JsonConfig):
    """A decoder of harmonics plus noise (see `duologue.codec.harmonic`).

    `ratios` lead from the rate of the transformers to that of the controls, halving `num_channels` each; `num_bands`
    are the places of an envelope, `num_pitches` the bins from `lowest_hz` to `highest_hz`; `fft_size` bounds the
    filters.
    """

    num_channels: int = 512
    ratios: tuple[int, ...] = (2, 4)
    num_bands: int = 80
    num_pitches: int = 96
    lowest_hz: float = 50.0
    highest_hz: float = 550.0
    fft_size: int = 1024


@dataclass(frozen=True)
class MimiConfig(JsonConfig):
    """Mimi: SEANet encoder and decoder, a transformer on either side, and a split residual vector quantizer.

    `ratios` are the decoder's upsampling factors, coarse to fine; the encoder uses them in reverse. `transformer`
    runs at `sample_rate / prod(ratios)`; one more factor of `resample_stride` leads to the frame rate. With `harmonic`
    another encoder and decoder stand in SEANet's place.
    """

    transformer: TransformerConfig
    sample_rate: int = 24_000
    num_filters: int = 64
    dim: int = 512
    ratios: tuple[int, ...] = (8, 6, 5, 4)
    resample_stride: int = 2
    kernel_size: int = 7
    residual_kernel_size: int = 3
    last_kernel_size: int = 3
    compress: int = 2
    num_codebooks: int = 32
    codebook_size: int = 2048
    codebook_dim: int = 256
    harmonic: HarmonicConfig | None = None

    def __post_init__(self) -> None:
        _require(self.num_codebooks >= 2, f"num_codebooks must be at least 2, not {self.num_codebooks}")
        _require(
            self.transformer.dim == self.dim,
            f"MimiConfig.dim {self.dim} differs from its transformer's dim {self.transformer.dim}",
        )
        if self.harmonic is not None:
            _require(
                self.hop % math.prod(self.harmonic.ratios) == 0,
                f"HarmonicConfig.ratios {self.harmonic.ratios} do not divide the hop of {self.hop} samples",
            )

    @property
    def hop(self) -> int:
        """Samples per step of the transformers."""
        size = 1
        for ratio in self.ratios:
            size *= ratio
        return size

    @property
    def frame_size(self) -> int:
        """Samples per frame of codes."""
        return self.hop * self.resample_stride

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.frame_size


_LLAMA3 = RopeScaling()
_CSM_POSITIONS = 2048
_MIMI_CODEBOOKS = 32
_MIMI_CODEBOOK_SIZE = 2048
_RESERVED_AUDIO_IDS = 3


def _llama(dim: int, num_layers: int, num_heads: int, num_kv_heads: int, ffn_dim: int) -> TransformerConfig:
    return TransformerConfig(
        dim=dim,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        ffn_dim=ffn_dim,
        max_positions=_CSM_POSITIONS,
        rope_scaling=_LLAMA3,
    )


def _csm(backbone: TransformerConfig, depth: TransformerConfig, text: TextConfig | None = None) -> CSMConfig:
    return CSMConfig(
        backbone=backbone,
        depth=depth,
        text_vocab_size=128_256,
        audio_vocab_size=_MIMI_CODEBOOK_SIZE + _RESERVED_AUDIO_IDS,
        num_codebooks=_MIMI_CODEBOOKS,
        codebook_size=_MIMI_CODEBOOK_SIZE,
        text=text or TextConfig(),
    )


_LLAMA_100M = _llama(1024, 4, 8, 2, 8192)

CSM_PRESETS: dict[str, CSMConfig] = {
    # Sesame's Tiny (the published weights), Small and Medium: backbones of Llama 3.2 1B, 3B and Llama 3.1 8B shape.
    # The decoder of csm-8b is that of MisoTTS, the one published model of this size (MisoLabsAI/MisoTTS, `models.py`).
    "csm-1b": _csm(_llama(2048, 16, 32, 8, 8192), _LLAMA_100M),
    "csm-3b": _csm(_llama(3072, 28, 24, 8, 8192), _llama(1024, 8, 8, 2, 8192)),
    "csm-8b": _csm(_llama(4096, 32, 32, 8, 14_336), _llama(1536, 8, 24, 6, 6912)),
    "tiny": CSMConfig(
        backbone=TransformerConfig(
            dim=64, num_layers=2, num_heads=4, num_kv_heads=2, ffn_dim=128, max_positions=512, rope_scaling=_LLAMA3
        ),
        depth=TransformerConfig(
            dim=32, num_layers=2, num_heads=2, num_kv_heads=1, ffn_dim=64, max_positions=16, rope_scaling=_LLAMA3
        ),
        text_vocab_size=300,
        audio_vocab_size=64 + _RESERVED_AUDIO_IDS,
        num_codebooks=4,
        codebook_size=64,
    ),
}


def mimi_transformer(dim: int, num_layers: int, num_heads: int, ffn_dim: int, window: int) -> TransformerConfig:
    """A transformer as Mimi has them on both sides, of any size; `window` is in steps of 40 ms."""
    return TransformerConfig(
        dim=dim,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_heads,
        ffn_dim=ffn_dim,
        max_positions=8000,
        norm="layer",
        mlp="gelu",
        final_norm=False,
        layer_scale=True,
        window=window,
        rope_theta=10_000.0,
    )


MIMI_PRESETS: dict[str, MimiConfig] = {
    "mimi": MimiConfig(transformer=mimi_transformer(512, 8, 8, 2048, 250)),
    "tiny": MimiConfig(
        transformer=mimi_transformer(32, 2, 2, 64, 12),
        num_filters=4,
        dim=32,
        num_codebooks=4,
        codebook_size=64,
        codebook_dim=16,
    ),
}
