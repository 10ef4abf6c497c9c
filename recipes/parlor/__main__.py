"""Command line of the recipe; see `python -m recipes.parlor --help`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

import duologue
from duologue.errors import DuologueError
from recipes.parlor import configs, pipeline


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
    parser.add_argument("--work", type=Path, default=Path("runs/parlor"), help="where the steps leave their results")
    parser.add_argument("--out", type=Path, help="where the checkpoint goes (default: WORK/parlor)")
    parser.add_argument("--codec-minutes", type=float, default=55, help="computing time for the codec")
    parser.add_argument("--csm-minutes", type=float, default=60, help="computing time for the speech model")
    parser.add_argument("--whisper", type=Path, help="a CTranslate2 Whisper folder (default: that of the wheels)")
    parser.add_argument("--no-features", action="store_true", help="train the codec without Whisper's features")
    parser.add_argument("--threads", type=int, default=2, help="processor threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()

    def report(line: str) -> None:
        print(f"[{time.monotonic() - started:7.0f} s] {line}", flush=True)

    try:
        run(arguments, report)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(arguments: argparse.Namespace, report: pipeline.Report) -> None:
    """All steps in order."""
    work = pipeline.Work(tuple(arguments.corpus), arguments.work, arguments.threads)
    stages = configs.codec_training(minutes=arguments.codec_minutes)
    codec_model = stages.sound.model
    store = pipeline.decode_recordings(work, codec_model.sample_rate)
    report(f"pcm: {len(store)} recordings, {len(store.skipped)} skipped")
    initial = None
    if arguments.continue_from is not None:
        earlier = duologue.load(arguments.continue_from, device="cpu")
        codec, initial = earlier.codec, earlier.model
        report(f"codec and speech model: those of {arguments.continue_from}")
    else:
        features = None
        if not arguments.no_features:
            features = pipeline.listen(work, store, codec_model.frame_rate, arguments.whisper, report)
        codec = pipeline.make_codec(work, stages, store, features)
        report("codec: trained")
    turns = pipeline.encode_corpus(work, codec, store, report)
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
