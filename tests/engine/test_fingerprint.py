"""A model is known by its weights."""

import pytest
import torch

import duologue
from duologue.checkpoints import load_checkpoint
from duologue.engine.fingerprint import weights_fingerprint
from duologue.engine.load import find_source
from duologue.engine.quantization import Int8CSM


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_a_model_is_known_by_its_weights(quantize: str | None) -> None:
    first, again, other = (duologue.load("parlor", quantize=quantize) for _ in range(3))
    assert weights_fingerprint(first.model) == weights_fingerprint(again.model)
    changed = load_checkpoint(find_source("parlor"))
    with torch.no_grad():
        changed.model.backbone.layers[0].attention.q_proj.weight[:] += 0.05
    model = Int8CSM(changed.model) if quantize else changed.model
    assert weights_fingerprint(model) != weights_fingerprint(other.model)
