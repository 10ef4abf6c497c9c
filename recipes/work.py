"""What every recipe starts with (folders, samples, what a recogniser hears), and how its programs end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from duologue.checkpoints.whisper import bundled_whisper
from duologue.data.corpus import PcmStore
from duologue.data.prepare import PrepareConfig, prepare
from duologue.data.shards import TurnStore
from duologue.data.sources import Found, read_manifest_files
from duologue.data.teacher import WhisperTeacher, write_features
from duologue.errors import DuologueError, TrainingError
from duologue.train.distributed import World, joined

Report = Callable[[str], None]


@dataclass(frozen=True)
class Work:
    """The folders of a run; `corpora` hold folders with manifests, as `../shared/corpus` does."""

    corpora: tuple[Path, ...]
    folder: Path
    threads: int = 2

    def path(self, step: str) -> Path:
        """Where a step leaves its result."""
        return self.folder / step


def manifests(corpus: Path, split: str) -> list[Path]:
    """The manifests of one corpus of training conversations, or of those held out."""
    return [
        path
        for path in sorted(corpus.glob("*/manifest-*.jsonl"))
        if ("heldout" in str(path.relative_to(corpus))) == (split == "heldout")
    ]


def recordings(work: Work, split: str = "train") -> Found:
    """The corpora's training conversations, or those held out; every folder with a manifest counts."""
    listed = {corpus: manifests(corpus, split) for corpus in work.corpora}
    if not any(listed.values()):
        names = ", ".join(map(str, work.corpora))
        raise TrainingError(f"no manifests of {split} recordings in {names}: give --corpus")
    every = [read_manifest_files(corpus, files) for corpus, files in listed.items()]
    return Found(
        "manifest",
        tuple(conversation for one in every for conversation in one.conversations),
        {name: reason for one in every for name, reason in one.left_out.items()},
    )


def encode_split(work: Work, codec: str | None, split: str, report: Report) -> TurnStore:
    """Step `turns` (or `turns_heldout`): the turns of all corpora as codes of a checkpoint's codec."""
    found = recordings(work, split)
    folder = work.path("turns" if split == "train" else f"turns_{split}")
    for progress in prepare(found, folder, PrepareConfig(codec=codec), cache=work.folder, workers=work.threads):
        report(f"turns: {progress.done} of {progress.total} shards encoded")
    return TurnStore(folder)


def decode_recordings(work: Work, sample_rate: int, report: Report) -> PcmStore:
    """Step `pcm`: every training recording as samples in one file; says which were left out, and why."""
    folder = work.path("pcm")
    if (folder / "index.json").exists():
        return PcmStore(folder)
    found = recordings(work)
    parts = [part for conversation in found.conversations for part in conversation.parts]
    store = PcmStore.build(folder, parts, sample_rate, workers=work.threads)
    for name, reason in {**found.left_out, **store.skipped}.items():
        report(f"pcm: left out {name}: {reason}")
    return store


def listen(work: Work, store: PcmStore, frame_rate: float, whisper: Path | None, report: Report) -> Path:
    """Step `features`: Whisper's encoder over every recording."""
    folder = work.path("features")
    if (folder / "done").exists():
        return folder
    teacher = WhisperTeacher(whisper or bundled_whisper(work.folder), frame_rate=frame_rate, threads=work.threads)

    def progress(done: int, total: int) -> None:
        if done == total or done % 100 < 10:
            report(f"features: {done} of {total} recordings")

    write_features(store, folder, teacher, frame_rate=frame_rate, progress=progress)
    (folder / "done").touch()
    return folder


def run_safely(steps: Callable[[World, Report], None], threads: int) -> int:
    """Runs with messages on standard output, alone or as a process of torchrun; the exit code of a program."""
    torch.set_num_threads(threads)
    started = time.monotonic()
    try:
        with joined(int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else None) as world:

            def report(line: str) -> None:
                if world.is_first:
                    print(f"[{time.monotonic() - started:7.0f} s] {line}", flush=True)

            steps(world, report)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
