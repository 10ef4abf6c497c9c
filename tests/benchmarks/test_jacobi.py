"""The iteration finds the codes of drawing one by one, in at most as many passes as there are codes to find."""

import sys

import pytest
import torch

from benchmarks import jacobi
from duologue.engine.sampling import draw_gumbel
from tests.engine.builders import tiny_csm


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("guess", jacobi.GUESSES)
def test_the_fixed_point_is_the_sequence(guess, temperature):
    model = tiny_csm()
    count, config = model.num_codebooks, model.config
    codes = torch.randint(0, config.codebook_size, (count, 20), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        frames = jacobi.frames_of(model, codes)
        assert frames.hidden.shape == (19, config.backbone.dim)
        noise = draw_gumbel(torch.empty(19, count - 1, config.audio_vocab_size), torch.Generator().manual_seed(2))
        found, used = jacobi.passes(model, frames, noise, temperature, guess)
        expected = jacobi.one_by_one(model, frames, noise, temperature)
    assert torch.equal(found, expected)
    assert int(used.max()) <= count - 1 + (guess == "likeliest alone") and int(used.max()) > 0


def test_the_page(monkeypatch, capsys):
    monkeypatch.setattr(jacobi, "LINES", ("Hi.",))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--temperatures", "0.9", "--threads", "1"])
    assert jacobi.main() == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| own speech")]
    assert len(rows) == 3 and all(row.endswith("| 1 |") for row in rows)
