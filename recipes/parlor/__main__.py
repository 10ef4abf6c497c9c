"""Command line of the recipe; see `python -m recipes.parlor --help`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import duologue
from recipes.parlor import configs, pipeline
from recipes.parlor_codec.configs import PLANS
from recipes.parlor_codec.pipeline import make_codec
from recipes.work import Report, Work, decode_recordings, listen, run_safely


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.parlor",
        description="Trains parlor, codec and speech model, from a corpus of conversations. A step whose result is in "
        "the work folder is not run again; a run that was interrupted goes on where it stopped.",
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        nargs="+",
        default=[Path("../shared/corpus")],
        help="each holds folders with manifest-*.jsonl; see also recipes.parlor.render",
    )
    parser.add_argument(
        "--continue-from",
        metavar="CHECKPOINT",
        help="a checkpoint whose codec is kept and whose speech model is trained further",
    )
    parser.add_argument(
        "--codec", metavar="CHECKPOINT", help="a trained codec (default: recipes.parlor_codec trains one)"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/parlor"), help="where the steps leave their results")
    parser.add_argument("--out", type=Path, help="where the checkpoint goes (default: WORK/parlor)")
    parser.add_argument("--codec-minutes", type=float, default=600, help="computing time for the codec")
    parser.add_argument("--csm-minutes", type=float, default=60, help="computing time for the speech model")
    parser.add_argument("--whisper", type=Path, help="a CTranslate2 Whisper folder (default: that of the wheels)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    arguments = parser.parse_args()
    return run_safely(lambda _, report: run(arguments, report), arguments.threads)


def run(arguments: argparse.Namespace, report: Report) -> None:
    """All steps in order."""
    work = Work(tuple(arguments.corpus), arguments.work, arguments.threads)
    plan = PLANS["parlor"](arguments.codec_minutes)
    initial, checkpoint = None, arguments.continue_from or arguments.codec
    if arguments.continue_from is not None:
        earlier = duologue.load(arguments.continue_from, device="cpu")
        codec, initial = earlier.codec, earlier.model
        report(f"codec and speech model: those of {arguments.continue_from}")
    elif arguments.codec is not None:
        codec = duologue.load_codec(arguments.codec)
        report(f"codec: that of {arguments.codec}")
    else:
        store = decode_recordings(work, plan.latent.model.sample_rate, report)
        report(f"pcm: {len(store)} recordings, {len(store.skipped)} left out")
        features = listen(work, store, plan.latent.model.frame_rate, arguments.whisper, report)
        of_codec = replace(work, folder=work.path("codec"))
        codec = make_codec(of_codec, plan, store, features, report=report)
        checkpoint = str(of_codec.path("model"))
    turns = pipeline.encode_corpus(work, checkpoint, report)
    if initial is None:
        shape = configs.csm_model(pipeline.text_vocab_size(work), codec.config)
        config = configs.csm_training(shape, minutes=arguments.csm_minutes)
    else:
        config = configs.csm_continuation(initial.config, minutes=arguments.csm_minutes)
    model = pipeline.make_csm(work, config, turns, codec, initial)
    report("csm: trained")
    destination = arguments.out or work.path("parlor")
    pipeline.export(work, model, codec, turns, destination)
    report(f"export: {destination}")


if __name__ == "__main__":
    sys.exit(main())
