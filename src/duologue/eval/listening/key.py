"""The key of a listening page: which clip of which trial is whose. It stays with whoever runs the test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self

from duologue.config import JsonConfig
from duologue.errors import ConfigError, EvaluationError
from duologue.eval.files import read_text

KEY_FORMAT: Final = "duologue-listening-key"
VERSION: Final = 1

Kind = Literal["pair", "identical", "degraded"]
Condition = Literal["no context", "context"]


@dataclass(frozen=True)
class Trial(JsonConfig):
    """One question of the page. All ids but `item` are those of the page and say nothing.

    `first` and `second` are the clips: of a pair, the first and the second system's; of an identical check, the same
    sound twice; of a degraded check, the sound as it was, and spoiled.
    """

    id: str
    kind: Kind
    condition: Condition
    item: str
    first: str
    second: str


@dataclass(frozen=True)
class Key(JsonConfig):
    """Everything that the page does not say."""

    format: str
    version: int
    test: str
    title: str
    seed: int
    first_system: str
    second_system: str
    trials: tuple[Trial, ...]

    def __post_init__(self) -> None:
        if self.format != KEY_FORMAT or self.version != VERSION:
            raise ConfigError(f"format {self.format!r} version {self.version}; expected {KEY_FORMAT!r} {VERSION}")
        if len({trial.id for trial in self.trials}) != len(self.trials):
            raise ConfigError("a trial is there twice")

    @classmethod
    def make(
        cls, test: str, title: str, seed: int, first_system: str, second_system: str, trials: tuple[Trial, ...]
    ) -> Self:
        """A key in the present format."""
        return cls(KEY_FORMAT, VERSION, test, title, seed, first_system, second_system, trials)


def read_key(path: Path) -> Key:
    """Raises `EvaluationError` for a file that is missing or no key."""
    try:
        return Key.from_json(read_text(path, "the key that duologue eval listen wrote"), str(path))
    except (ConfigError, ValueError, RecursionError) as error:
        raise EvaluationError(
            f"{path} is not the key of a listening page ({error}); give the key.json that duologue eval listen wrote"
        ) from None
