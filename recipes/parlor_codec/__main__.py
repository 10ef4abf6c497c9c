"""Command line of the recipe; see `python -m recipes.parlor_codec --help`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from duologue.engine.load import find_device
from duologue.eval.instruments import Instruments
from duologue.train.distributed import World
from recipes.parlor_codec import pipeline
from recipes.parlor_codec.configs import PLANS, CodecPlan
from recipes.parlor_codec.listening import HELD_OUT, Ear, Listener, gather
from recipes.work import Report, Work, decode_recordings, listen, run_safely


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.parlor_codec",
        description="Trains a codec from a corpus of recordings: its latent, then its codes, then its decoder. A step "
        "whose result is in the work folder is not run again; a run that was interrupted goes on where it stopped. "
        "Starts under torchrun as well, each process with batches of its own.",
    )
    add_work_options(parser, Path("runs/parlor_codec"))
    parser.add_argument("--preset", choices=list(PLANS), default="parlor", help="the codec's size (default: parlor)")
    parser.add_argument("--minutes", type=float, default=600, help="computing time of both runs (default: 600)")
    parser.add_argument("--crops", type=int, metavar="N", help="recordings a step (default: as the preset has it)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that prepare batches; a GPU needs a dozen"
    )
    parser.add_argument("--whisper", type=Path, help="a CTranslate2 Whisper folder (default: that of the wheels)")
    parser.add_argument(
        "--continue-from",
        type=Path,
        metavar="FOLDER",
        help="train a finished codec of this recipe further: the folder `model` of its work",
    )
    parser.add_argument("--compile", action="store_true", help="use torch's compiler (needs a C++ compiler): faster")
    parser.add_argument("--no-features", action="store_true", help="train without Whisper: no words in codebook 0")
    arguments = parser.parse_args()
    if arguments.crops is not None and arguments.crops < 1:
        parser.error("--crops must be 1 or more")
    if arguments.workers < 0:
        parser.error("--workers must be 0 or more")

    def steps(world: World, report: Report) -> None:
        plan = PLANS[arguments.preset](arguments.minutes)
        if arguments.crops is not None:
            plan = replace(plan, crops_per_batch=arguments.crops)
        run(arguments, plan, world, report)

    return run_safely(steps, arguments.threads)


def add_work_options(parser: argparse.ArgumentParser, folder: Path) -> None:
    """The options that every program of the recipe has."""
    parser.add_argument(
        "--corpus",
        type=Path,
        nargs="+",
        default=[Path("../shared/corpus")],
        help="each holds folders with manifest-*.jsonl; those with heldout in their path are not trained on",
    )
    parser.add_argument("--work", type=Path, default=folder, help=f"where the steps leave results (default: {folder})")
    parser.add_argument("--threads", type=int, default=2, help="processor threads (default: 2)")
    parser.add_argument("--tensorboard", action="store_true", help="write curves, sound and pictures beside the log")
    parser.add_argument(
        "--round-trips", type=int, default=0, metavar="N", help="measure N recordings of each --listen-to now and then"
    )
    parser.add_argument(
        "--listen-to",
        nargs="+",
        metavar="FOLDER[#PATTERN]",
        default=HELD_OUT,
        help="held-out recordings for --round-trips",
    )


def listener_of(arguments: argparse.Namespace, work: Work) -> Listener | None:
    """What `--round-trips` asks for."""
    if not arguments.round_trips:
        return None
    lines = gather(arguments.listen_to, limit=arguments.round_trips)
    # One thread: beside a Whisper of several, training takes more than twice as long.
    return Listener(Ear(Instruments(work.folder, threads=1, offline=True), lines))


def run(arguments: argparse.Namespace, plan: CodecPlan, world: World, report: Report) -> None:
    """All steps in order; the data is prepared by the first process."""
    work = Work(tuple(arguments.corpus), arguments.work, arguments.threads)
    model, features, device = plan.latent.model, None, find_device(arguments.device)
    if world.is_first:
        store = decode_recordings(work, model.sample_rate, report)
        report(f"pcm: {len(store)} recordings, {len(store.skipped)} left out")
        if not arguments.no_features:
            listen(work, store, model.frame_rate, arguments.whisper, report)
    world.wait()
    store = decode_recordings(work, model.sample_rate, report)
    if not arguments.no_features:
        features = listen(work, store, model.frame_rate, arguments.whisper, report)
        if world.is_first and arguments.continue_from is None:
            pipeline.work_units(work.path("units.npy"), features, plan.latent.model.codebook_size)
        world.wait()
    pipeline.make_codec(
        work,
        plan,
        store,
        features,
        continue_from=arguments.continue_from,
        listener=listener_of(arguments, work) if world.is_first else None,
        device=device,
        workers=arguments.workers,
        world=world,
        is_watched=arguments.tensorboard,
        compiled=arguments.compile,
        report=report,
    )
    report(f"codec: {work.path('model')}")


if __name__ == "__main__":
    sys.exit(main())
