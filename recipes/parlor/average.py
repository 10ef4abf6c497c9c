"""A model between two: the weighted mean of a checkpoint's weights and of those of a run that went on from it.

`python -m recipes.parlor.average FIRST SECOND OUT --share 0.75`. Where a run starts again at a high learning rate and
comes down in the same valley, the mean is often better than both on what neither has learned. Codec, tokenizer and
voices are the second one's. Source: Wortsman et al., "Model soups" (2022).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import torch

from duologue.checkpoints import load_checkpoint, save_checkpoint
from duologue.errors import OptionError
from recipes.work import Report, run_safely


def average(first: Path, second: Path, share: float, out: Path) -> None:
    """Writes the mean, of which `share` is the second's.

    Raises `OptionError` where the models differ in shape, or `out` is there already.
    """
    before, after = load_checkpoint(first), load_checkpoint(second)
    if before.model.config != after.model.config:
        raise OptionError(f"{first} and {second} are models of different shapes: they have no mean")
    earlier = before.model.state_dict()
    with torch.no_grad():
        for name, weight in after.model.state_dict().items():
            weight.lerp_(earlier[name].to(weight), 1 - share)
    if out.exists():
        raise OptionError(f"{out} is there already: name another folder, or remove it")
    with tempfile.TemporaryDirectory() as folder:
        saved = save_checkpoint(Path(folder) / "mean", "native", model=after.model, dtype=torch.int8)
        shutil.copytree(second, out)  # the codec as it is: it may have more codebooks than the model speaks
        shutil.copyfile(saved / "model.safetensors", out / "model.safetensors")


def run(arguments: argparse.Namespace, report: Report) -> None:
    """`average`, as the command line asks for it."""
    if not 0 <= arguments.share <= 1:
        raise OptionError(f"--share {arguments.share:g}; expected a number from 0 to 1")
    average(arguments.first, arguments.second, arguments.share, arguments.out)
    report(f"written: {arguments.out}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor.average", description=__doc__)
    parser.add_argument("first", type=Path, help="the checkpoint folder that the second went on from")
    parser.add_argument("second", type=Path, help="the checkpoint folder of the later run")
    parser.add_argument("out", type=Path, help="where the mean goes")
    parser.add_argument("--share", type=float, default=0.75, help="the second one's share (default: 0.75)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    arguments = parser.parse_args()
    return run_safely(lambda _, report: run(arguments, report), arguments.threads)


if __name__ == "__main__":
    sys.exit(main())
