"""More voices from recordings that are there: each played faster or slower, by itself or in several copies.

`python -m recipes.parlor.revoice FOLDER... --out OUT` reads folders with `manifest-*.jsonl` as the corpus has them, and
writes one folder for each into OUT. Pitch, formants and pace of a recording move together by one factor, which the
voice's name ends in: `ko-ag@112` is `ko-ag` played at 112 %. Manifests with `heldout` in their path are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from duologue.audio import read_audio, resample, write_audio
from duologue.errors import DuologueError, TrainingError

FACTORS = (80, 85, 90, 94, 106, 111, 117, 124)  # per cent


def revoiced_entry(entry: dict[str, Any], source: Path, target: Path, factor: int) -> dict[str, Any]:
    """Writes one recording at `factor` per cent to `target`; returns its line of the manifest."""
    rate = int(entry["sample_rate"])
    pcm, _ = read_audio(source, rate)
    played = resample(pcm, round(rate * factor / 100), rate)
    write_audio(target, played.clamp(-1, 1), rate)
    turns = [
        {
            **turn,
            "voice": f"{turn['voice']}@{factor}",
            "pace": turn.get("pace", 1.0) * factor / 100,
            "start": round(turn["start"] * 100 / factor),
            "end": min(round(turn["end"] * 100 / factor), len(played)),
        }
        for turn in entry["turns"]
    ]
    return {**entry, "file": target.name, "samples": len(played), "turns": turns}


def revoice(folder: Path, out: Path, *, copies: int, workers: int, seed: int = 0) -> Iterator[tuple[int, int]]:
    """Makes `copies` of each recording of a folder, at different factors; yields how many are done, of how many.

    What an interrupted run has written is kept. Raises `TrainingError` where there is no manifest.
    """
    manifests = [path for path in sorted(folder.glob("manifest-*.jsonl")) if "heldout" not in str(path)]
    if not manifests:
        raise TrainingError(f"no manifest-*.jsonl of training recordings in {folder}")
    out.mkdir(parents=True, exist_ok=True)
    jobs = []
    for manifest in manifests:
        for number, line in enumerate(manifest.read_text(encoding="utf-8").splitlines()):
            entry = json.loads(line)
            random = np.random.default_rng((seed, number, *manifest.stem.encode()))
            for factor in random.choice(FACTORS, copies, replace=False).tolist():
                target = out / f"{manifest.stem.removeprefix('manifest-')}-{Path(entry['file']).stem}@{factor}.flac"
                jobs.append((manifest.name, (entry, folder / entry["file"], target, factor)))
    done = {name: _finished(out / name) for name in {name for name, _ in jobs}}
    open_jobs = [(name, job) for name, job in jobs if job[2].name not in done[name]]
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        count = len(jobs) - len(open_jobs)
        yield count, len(jobs)
        for first in range(0, len(open_jobs), 16 * workers):
            chosen = open_jobs[first : first + 16 * workers]
            entries = list(pool.map(revoiced_entry, *zip(*(job for _, job in chosen), strict=True)))
            for (name, _), entry in zip(chosen, entries, strict=True):
                with (out / name).open("a", encoding="utf-8") as sheet:
                    sheet.write(json.dumps(entry, ensure_ascii=False) + "\n")
            count += len(chosen)
            yield count, len(jobs)


def _finished(manifest: Path) -> set[str]:
    if not manifest.exists():
        return set()
    return {json.loads(line)["file"] for line in manifest.read_text(encoding="utf-8").splitlines()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m recipes.parlor.revoice", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path("runs/revoiced"))
    parser.add_argument("--copies", type=int, default=2, choices=range(1, len(FACTORS) + 1), metavar="N")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    try:
        for folder in arguments.folders:
            out = arguments.out / folder.name
            for done, total in revoice(folder, out, copies=arguments.copies, workers=arguments.workers):
                print(f"{out}: {done} of {total} recordings", flush=True)
    except DuologueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
