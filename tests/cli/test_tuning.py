"""What fine-tuning draws from: new conversations and the model's own speech, in the shares that were asked for."""

from pathlib import Path

import numpy as np
import pytest

from duologue.checkpoints import load_checkpoint
from duologue.cli import tuning
from duologue.cli.tuning import Batching, Rehearsal
from duologue.data.shards import CodedTurn


@pytest.mark.parametrize("share", [0.2, 0.6])
def test_rehearsal_has_its_share_of_the_rows(tiny: Path, share: float) -> None:
    base = load_checkpoint(str(tiny))
    count = base.model.num_codebooks

    def turn(text: str, code: int, frames: int) -> CodedTurn:
        return CodedTurn("ada", 0, text, np.full((count, frames), code, np.int16))

    new = [[turn("new", 1, 12)] for _ in range(9)]
    own = [[turn("old", 2, 30)] for _ in range(2)]
    draw = tuning._sampler(new, base, Batching(200, 120), seed=0, rehearsal=Rehearsal(own, share))
    rows = {1: 0, 2: 0}
    mixed = 0
    for step in range(150):
        batch = draw(step)
        codes = batch.tokens[..., 0] * batch.scored
        has = {code: (codes == code).any(dim=1) for code in rows}
        mixed += int((has[1] & has[2]).sum())
        for code in rows:
            rows[code] += int((codes == code).sum())
    assert rows[2] / sum(rows.values()) == pytest.approx(share, abs=0.08)
    assert not mixed  # nobody is introduced by a recording of somebody else who goes by the same name


def test_without_rehearsal_all_is_new(tiny: Path) -> None:
    base = load_checkpoint(str(tiny))
    new = [[CodedTurn("ada", 0, "new", np.full((base.model.num_codebooks, 12), 1, np.int16))]]
    batch = tuning._sampler(new, base, Batching(200, 120), seed=0)(0)
    assert (batch.tokens[..., 0][batch.scored] <= 1).all()
