"""Fine-tuning by low-rank adapters: small matrices beside those of the transformers learn, all else rests.

Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021). The adapters are peft's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from duologue.config import JsonConfig
from duologue.errors import TrainingError
from duologue.model.csm import CSM


@dataclass(frozen=True)
class LoraConfig(JsonConfig):
    """`rank` of the adapters, scaled by `alpha / rank`; `targets` are names of layers in backbone and depth decoder."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Adapters:
    """The adapters of a model, which gets them in place; every other parameter rests from then on."""

    def __init__(self, model: CSM, config: LoraConfig) -> None:
        """Raises `TrainingError` where peft is not installed, or the model has no such layers."""
        try:
            from peft import LoraConfig as PeftConfig
            from peft import LoraModel
        except ImportError as error:
            raise TrainingError(f"{error.name} is not installed: pip install 'duologue[lora]'") from error
        if config.rank < 1:
            raise TrainingError(f"a LoRA rank of {config.rank}; expected 1 or more")
        known = {name.rpartition(".")[2] for name, _ in model.named_modules()}
        if unknown := [target for target in config.targets if target not in known]:
            raise TrainingError(f"the model has no layers called {', '.join(unknown)}")
        adapters = PeftConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # used as a factor
            lora_dropout=config.dropout,
            target_modules=list(config.targets),
        )
        self._model: Any = LoraModel(model, adapters, "default")

    def merge(self) -> None:
        """Adds the adapters to the weights beside them, and takes them out: the model is plain again."""
        self._model.merge_and_unload()
