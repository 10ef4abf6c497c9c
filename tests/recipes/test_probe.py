"""The probe on codes whose phonemes are known."""

import pytest
import torch

from duologue.errors import TrainingError
from duologue.text.phonemes import PHONEME_SYMBOLS, EspeakPhonemizer
from recipes.parlor_codec.probe import error_rate, phonemes_of, train_probe


def made_up(count: int, is_informed: bool, seed: int) -> tuple[list[torch.Tensor], list[list[int]]]:
    """Turns of 6 to 12 phonemes out of eight, two frames each; a code names its phoneme or is drawn at random."""
    random = torch.Generator().manual_seed(seed)
    codes, targets = [], []
    for _ in range(count):
        length = int(torch.randint(6, 13, (1,), generator=random))
        steps = torch.randint(1, 8, (length,), generator=random)  # never the same one twice in a row
        target = steps.cumsum(0) % 8
        informed = target.repeat_interleave(2) * 2 + torch.randint(0, 2, (2 * length,), generator=random)
        codes.append(informed if is_informed else torch.randint(0, 16, (2 * length,), generator=random))
        targets.append(target.tolist())
    return codes, targets


def test_codes_that_name_their_phonemes_are_read_and_others_are_not() -> None:
    rates = []
    for is_informed in (True, False):
        probe = train_probe(*made_up(200, is_informed, 0), 16, steps=150)
        rates.append(error_rate(probe, *made_up(40, is_informed, 1)))
    assert rates[0] < 0.1
    assert rates[1] > 0.6


def test_phonemes_are_without_stress_and_punctuation() -> None:
    found = phonemes_of("Hey, you!", EspeakPhonemizer())
    assert "".join(PHONEME_SYMBOLS[symbol] for symbol in found) == "hAju"


def test_nothing_to_learn_from() -> None:
    with pytest.raises(TrainingError, match="no turn has text and enough frames"):
        train_probe([torch.zeros(1, dtype=torch.int64)], [[1, 2, 3, 4]], 16, steps=1)
