"""From logits to codes: top-k and Gumbel-max in float32, with noise that belongs to the request.

Source: Sesame, `csm/models.py` (`sample_topk`), whose draw from an exponential race is the same distribution. The noise
of a whole frame is drawn before its first code, one row a codebook, from the request's own generator: a seed gives the
same frames whatever else is in the batch and in whichever order the codes are found.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import operator
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duologue.config import MAX_GUIDANCE
from duologue.errors import OptionError

DEFAULT_TEMPERATURE = 0.9
DEFAULT_TOPK = 50
MAX_TEMPERATURE = 100.0
MAX_SEED = 2**63 - 1
_FRESH_SEEDS = 2**32


@dataclass(frozen=True)
class SamplingOptions:
    """How codes are drawn, for codebook 0 and the depth decoder alike. Raises `OptionError` for bad values.

    `temperature` is in [0, 100], 0 being greedy; `topk` at least 1 (the codebook size or more keeps all codes); `seed`
    a whole number in [0, 2**63), or None for a fresh one (see `seeded`). `guidance`, in [0, 10], moves the logits away
    from those of the same rows without the text to be spoken, to that many times their distance: 1 leaves them alone,
    more holds closer to the text, None is what the model's config says.
    """

    temperature: float = DEFAULT_TEMPERATURE
    topk: int = DEFAULT_TOPK
    seed: int | None = None
    guidance: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "temperature", check_number("temperature", self.temperature, 0, MAX_TEMPERATURE))
        object.__setattr__(self, "topk", check_whole("topk", self.topk, 1, None))
        if self.seed is not None:
            object.__setattr__(self, "seed", check_whole("seed", self.seed, 0, MAX_SEED))
        if self.guidance is not None:
            object.__setattr__(self, "guidance", check_number("guidance", self.guidance, 0, MAX_GUIDANCE))

    def seeded(self) -> SamplingOptions:
        """These options with a seed: its own, or a fresh one of 32 bits."""
        return self if self.seed is not None else dataclasses.replace(self, seed=secrets.randbelow(_FRESH_SEEDS))

    def noise_generator(self) -> torch.Generator:
        """The request's own source of noise, on the CPU so that every device hears the same."""
        seed = self.seeded().seed
        assert seed is not None
        return torch.Generator().manual_seed(seed)


def check_number(name: str, value: object, lowest: float, highest: float) -> float:
    """`value` as a float; raises `OptionError` unless it is a finite number in the range."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, numbers.Real) else float(value)
    except OverflowError:
        number = math.inf
    if not lowest <= number <= highest or math.isinf(number):
        raise OptionError(f"{name} {value!r}; expected a number from {lowest:g} to {highest:g}")
    return number


def check_whole(name: str, value: object, lowest: int, highest: int | None = None) -> int:
    """`value` as an int; raises `OptionError` unless it is a whole number in the range."""
    expected = f"a whole number from {lowest}" + ("" if highest is None else f" to {highest}")
    if isinstance(value, bool):
        raise OptionError(f"{name} {value!r}; expected {expected}")
    try:
        whole = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise OptionError(f"{name} {value!r}; expected {expected}") from None
    if whole < lowest or (highest is not None and whole > highest):
        raise OptionError(f"{name} {whole}; expected {expected}")
    return whole


@dataclass(frozen=True)
class BatchSampling:
    """The options of a batch as tensors: `temperature [B, 1]` float32, `topk [B, 1]` int64, and the largest top-k.

    `guided [G]` int64 are the rows whose guidance, `guidance [G, 1]` float32, is not 1; `end_bias [B]` float32, where
    anybody has one, is added to the logit of the code that begins the end of speech.
    """

    temperature: Tensor
    topk: Tensor
    max_topk: int
    guided: Tensor
    guidance: Tensor
    end_bias: Tensor | None = None

    @classmethod
    def of(
        cls,
        options: Sequence[SamplingOptions],
        num_valid: int,
        device: torch.device | str,
        *,
        default_guidance: float = 1.0,
        end_bias: Sequence[float] = (),
    ) -> BatchSampling:
        """One row an entry of `options`; `num_valid` is the number of codes that may be drawn."""
        topk = [min(item.topk, num_valid) for item in options]
        guidance = [default_guidance if item.guidance is None else item.guidance for item in options]
        guided = [row for row, strength in enumerate(guidance) if strength != 1]
        return cls(
            torch.tensor([[item.temperature] for item in options], dtype=torch.float32, device=device),
            torch.tensor([[count] for count in topk], dtype=torch.int64, device=device),
            max(topk),
            torch.tensor(guided, dtype=torch.int64, device=device),
            torch.tensor([guidance[row] for row in guided], dtype=torch.float32, device=device)[:, None],
            torch.tensor(end_bias, dtype=torch.float32, device=device) if any(end_bias) else None,
        )

    def guide(self, logits: Tensor) -> Tensor:
        """Logits `[B + G, V]`, the last `G` those of the guided rows without their text `-> [B, V]`.

        Source: Ho and Salimans, "Classifier-Free Diffusion Guidance" (2022), on the logits of an autoregressive model.
        """
        count = len(logits) - len(self.guided)
        if count == len(logits):
            return logits
        with_text, without_text = logits[:count].float(), logits[count:].float()
        moved = without_text + self.guidance * (with_text[self.guided] - without_text)
        return with_text.index_copy(0, self.guided, moved)


def draw_gumbel(out: Tensor, generator: torch.Generator) -> Tensor:
    """Fills `out` (any shape, float32, on the generator's device) with finite standard Gumbel noise and returns it."""
    out.exponential_(generator=generator)
    return out.clamp_(min=torch.finfo(out.dtype).tiny).log_().neg_()


def sample(
    logits: Tensor,
    noise: Tensor,
    temperature: float | Tensor,
    topk: int | Tensor,
    num_valid: int,
    max_topk: int | None = None,
) -> Tensor:
    """One id a row: `logits [B, V]` of any float dtype and Gumbel `noise [B, V]` float32 `-> [B]` int64.

    Ids from `num_valid` on (the reserved ones) are never drawn. The `topk` largest logits compete; all that tie with
    the last of them compete too, as in Sesame's `logits < kth -> -inf`. Temperature 0 takes the largest logit. Per row,
    `temperature` is a tensor `[B, 1]` and `topk` an int64 `[B, 1]` in 1..num_valid, of which `max_topk` is the largest.
    """
    logits = logits[:, :num_valid].float()
    if isinstance(topk, int):
        topk = min(topk, num_valid)
        threshold = logits.topk(topk, dim=-1).values[:, -1:]  # [B, 1]
    else:
        threshold = logits.topk(max_topk or num_valid, dim=-1).values.gather(1, topk - 1)  # [B, 1]
    # argmax(logits / t + noise) without the division, so that t = 0 needs no case of its own.
    scores = torch.where(logits < threshold, -torch.inf, logits + temperature * noise[:, :num_valid])
    return scores.argmax(dim=-1)
