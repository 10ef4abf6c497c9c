"""Command line of the recipe; see `python -m recipes.parlor --help`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import duologue
from duologue.engine.load import find_device
from duologue.errors import TrainingError
from duologue.train.csm import without_codes
from recipes.parlor import configs, pipeline
from recipes.parlor_codec.configs import PLANS
from recipes.parlor_codec.pipeline import make_codec
from recipes.work import Report, Work, decode_recordings, listen, run_safely

GPU_ROWS = 24_000


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
        help="a checkpoint whose speech model is trained further; its codec is kept unless --codec names "
        "another, whose codes are then learned anew",
    )
    parser.add_argument(
        "--codec", metavar="CHECKPOINT", help="a trained codec (default: recipes.parlor_codec trains one)"
    )
    parser.add_argument("--work", type=Path, default=Path("runs/parlor"), help="where the steps leave their results")
    parser.add_argument("--out", type=Path, help="where the checkpoint goes (default: WORK/parlor)")
    parser.add_argument("--codec-minutes", type=float, default=600, help="computing time for the codec")
    parser.add_argument("--csm-minutes", type=float, default=60, help="computing time for the speech model")
    parser.add_argument(
        "--csm-size",
        choices=list(configs.SIZES),
        default="base",
        help="size of a speech model that starts from nothing; small is for two cores (default: base)",
    )
    parser.add_argument(
        "--codebooks",
        type=int,
        metavar="N",
        help="of the codec's codebooks, how many the speech model speaks; a small model does better with fewer "
        "(default: all, or as --continue-from)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument(
        "--batch-rows", type=int, metavar="N", help="rows a step of the speech model (default: 2400; on a GPU 24000)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that prepare batches; a GPU needs a dozen"
    )
    parser.add_argument("--whisper", type=Path, help="a CTranslate2 Whisper folder (default: that of the wheels)")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    arguments = parser.parse_args()
    return run_safely(lambda _, report: run(arguments, report), arguments.threads)


def run(arguments: argparse.Namespace, report: Report) -> None:
    """All steps in order."""
    work = Work(tuple(arguments.corpus), arguments.work, arguments.threads)
    plan = PLANS["parlor"](arguments.codec_minutes)
    device = find_device(arguments.device)
    rows = arguments.batch_rows or (GPU_ROWS if device.type == "cuda" else pipeline.Machine.batch_rows)
    machine = pipeline.Machine(device, rows, arguments.workers)
    earlier = None if arguments.continue_from is None else duologue.load(arguments.continue_from, device="cpu")
    checkpoint = arguments.codec or arguments.continue_from
    if arguments.codec is not None:
        codec = duologue.load_codec(arguments.codec)
        report(f"codec: that of {arguments.codec}")
    elif earlier is not None:
        # All of its codebooks, of which the speech model may speak fewer.
        codec = duologue.load_codec(arguments.continue_from, device="cpu")
        report(f"codec: that of {arguments.continue_from}")
    else:
        store = decode_recordings(work, plan.latent.model.sample_rate, report)
        report(f"pcm: {len(store)} recordings, {len(store.skipped)} left out")
        features = listen(work, store, plan.latent.model.frame_rate, arguments.whisper, report)
        of_codec = replace(work, folder=work.path("codec"))
        codec = make_codec(of_codec, plan, store, features, device=device, workers=arguments.workers, report=report)
        checkpoint = str(of_codec.path("model"))
    if arguments.codebooks is not None and not 1 < arguments.codebooks <= codec.num_codebooks:
        raise TrainingError(
            f"--codebooks {arguments.codebooks}; the codec has {codec.num_codebooks}: give 2 or more of them"
        )
    turns = pipeline.encode_corpus(work, checkpoint, report)
    initial = None
    if earlier is None:
        shape = configs.csm_model(pipeline.text_vocab_size(work), codec.config, arguments.csm_size, arguments.codebooks)
        config = configs.csm_training(shape, minutes=arguments.csm_minutes)
    elif arguments.codec is None:
        config = configs.csm_continuation(earlier.model.config, minutes=arguments.csm_minutes)
        initial = earlier.model.state_dict()
    else:
        config = configs.csm_transfer(
            earlier.model.config, codec.config, minutes=arguments.csm_minutes, num_codebooks=arguments.codebooks
        )
        initial = without_codes(earlier.model.state_dict())
    model = pipeline.make_csm(work, config, turns, codec, initial, machine)
    report("csm: trained")
    destination = arguments.out or work.path("parlor")
    pipeline.export(work, model, codec, turns, destination)
    report(f"export: {destination}")


if __name__ == "__main__":
    sys.exit(main())
