"""A codec small enough to train in a test."""

import pytest
import torch

from duologue.codec.mimi import Mimi
from duologue.config import MimiConfig, mimi_transformer
from duologue.train.codec import initialise


@pytest.fixture
def codec() -> Mimi:
    """Mimi's structure: 16 wide, 3 codebooks of 16 random vectors of 8 dimensions."""
    torch.manual_seed(0)
    transformer = mimi_transformer(16, 1, 2, 32, 50)
    config = MimiConfig(
        transformer=transformer, num_filters=4, dim=16, num_codebooks=3, codebook_size=16, codebook_dim=8
    )
    codec = Mimi(config)
    initialise(codec)
    for stack in (codec.quantizer.semantic, codec.quantizer.acoustic):
        for codebook in stack:
            codebook.embedding_sum.normal_()
    return codec.eval()
