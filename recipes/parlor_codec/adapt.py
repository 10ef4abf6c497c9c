"""Fits the decoder of an existing codec to new recordings: a voice, a room, a language.

Encoder and codebooks stay, so every code means what it meant, and speech models over the codec need no training. Any
codec that Duologue loads will do, Mimi's published weights among them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import duologue
from duologue.checkpoints import save_checkpoint
from duologue.codec.mimi import Mimi
from duologue.data.corpus import PcmStore
from duologue.train.board import Board
from duologue.train.codec import CodecTrainConfig, train_codec
from duologue.train.distributed import World
from recipes.parlor_codec import configs, pipeline
from recipes.parlor_codec.__main__ import add_work_options, listener_of
from recipes.parlor_codec.listening import Listener
from recipes.work import Report, Work, decode_recordings, run_safely


def adapt(
    work: Work,
    codec: Mimi,
    config: CodecTrainConfig,
    store: PcmStore,
    *,
    listener: Listener | None = None,
    world: World | None = None,
    is_watched: bool = False,
) -> Mimi:
    """Step `decoder`: trains, or resumes; the adapted codec lies in `model`."""
    world = world or World()
    plan = configs.parlor(0)
    folder = work.path("decoder")
    board = Board(folder / "board") if is_watched and world.is_first else None
    adapted = train_codec(
        config,
        pipeline.batches(plan, config, store, None, seed=config.loop.seed + world.rank),
        folder,
        initial=codec,
        evaluate=None if listener is None else listener.of_run(config, board),
        world=world,
        board=board,
    )
    if world.is_first:
        save_checkpoint(work.path("model"), "native", codec=adapted)
    return adapted


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor_codec.adapt", description=__doc__)
    parser.add_argument("--codec", default="parlor", help="a checkpoint with a codec (default: the bundled one)")
    parser.add_argument("--minutes", type=float, default=60, help="computing time (default: 60)")
    add_work_options(parser, Path("runs/adapted_codec"))
    arguments = parser.parse_args()

    def steps(world: World, report: Report) -> None:
        work = Work(tuple(arguments.corpus), arguments.work, arguments.threads)
        codec = duologue.load_codec(arguments.codec)
        if world.is_first:
            decode_recordings(work, codec.sample_rate, report)
        world.wait()
        store = decode_recordings(work, codec.sample_rate, report)
        config = configs.adaptation(codec.config, minutes=arguments.minutes)
        listener = listener_of(arguments, work) if world.is_first else None
        adapt(work, codec, config, store, listener=listener, world=world, is_watched=arguments.tensorboard)
        report(f"codec: {work.path('model')}")

    return run_safely(steps, arguments.threads)


if __name__ == "__main__":
    sys.exit(main())
