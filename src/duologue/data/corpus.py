"""The samples of a corpus, decoded once, in one memory-mapped store that crops are drawn from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from duologue.audio import read_audio
from duologue.data.sources import Part
from duologue.errors import AudioError, TrainingError

_LENGTH_TOLERANCE_S = 0.1
_SILENT_PEAK = 10 ** (-60 / 20)
_FULL_SCALE = 0.999
_CLIPPED_SHARE = 0.01


class PcmStore:
    """The samples of many recordings as int16 in one file, `pcm.npy`, with an index, `index.json`, beside it."""

    def __init__(self, folder: Path) -> None:
        """Opens a store that `build` wrote; raises `TrainingError` where there is none."""
        index_path = folder / "index.json"
        if not index_path.is_file():
            raise TrainingError(f"no PCM store in {folder}: build it first")
        index = json.loads(index_path.read_text(encoding="utf-8"))
        self.sample_rate: int = index["sample_rate"]
        self.names: list[str] = index["names"]
        self.offsets: list[int] = index["offsets"]
        self.skipped: dict[str, str] = index["skipped"]
        self._samples: npt.NDArray[np.int16] = np.load(folder / "pcm.npy", mmap_mode="r")
        self._position = {name: position for position, name in enumerate(self.names)}

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._position

    def num_samples(self, position: int) -> int:
        """Length of recording `position`."""
        return self.offsets[position + 1] - self.offsets[position]

    def position(self, name: str) -> int:
        """Where the recording called `name` (its path as given to `build`) lies."""
        return self._position[name]

    def read(self, position: int, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Samples `start..stop` of a recording in [-1, 1]; zeros beyond its end."""
        first, last = self.offsets[position], self.offsets[position + 1]
        piece = self._samples[first + start : min(first + stop, last)].astype(np.float32) / 32768.0
        return np.pad(piece, (0, stop - start - len(piece)))

    @classmethod
    def build(cls, folder: Path, recordings: Sequence[Part], sample_rate: int, *, workers: int = 2) -> PcmStore:
        """Decodes recordings into a store, at `sample_rate`.

        One that cannot be read, is silent, clipped, or not as long as its source says is left out, with the reason
        in `skipped`. Raises `TrainingError` where none is left.
        """
        folder.mkdir(parents=True, exist_ok=True)
        names, offsets, skipped = [], [0], {}
        raw = folder / "pcm.raw"
        with raw.open("wb") as target, ThreadPoolExecutor(workers) as pool:
            decoded = pool.map(lambda recording: _decode(recording, sample_rate), recordings)
            for recording, samples in zip(recordings, decoded, strict=True):
                if isinstance(samples, str):
                    skipped[str(recording.path)] = samples
                    continue
                target.write(samples.tobytes())
                names.append(str(recording.path))
                offsets.append(offsets[-1] + len(samples))
        if not names:
            raise TrainingError(
                f"none of the {len(recordings)} recordings can be used; the first, {next(iter(skipped))}: "
                f"{next(iter(skipped.values()))}"
            )
        flat = np.memmap(raw, dtype=np.int16, mode="r")
        np.save(folder / "pcm.npy", flat)
        raw.unlink()
        index = {"sample_rate": sample_rate, "names": names, "offsets": offsets, "skipped": skipped}
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        return cls(folder)


def _decode(recording: Part, sample_rate: int) -> npt.NDArray[np.int16] | str:
    """The samples, or why they are not used."""
    try:
        pcm, _ = read_audio(recording.path, sample_rate)
    except AudioError as error:
        return str(error)
    samples = pcm.numpy()
    said, found = recording.duration_s, len(samples) / sample_rate
    if said is not None and abs(said - found) > _LENGTH_TOLERANCE_S:
        return f"lasts {found:.2f} s where its source says {said:.2f} s: one of the two has the wrong sample rate"
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < _SILENT_PEAK:
        return "only silence"
    if (clipped := float((np.abs(samples) >= _FULL_SCALE).mean())) > _CLIPPED_SHARE:
        return f"clipped: {100 * clipped:.1f} % of the samples are at full scale"
    scaled: npt.NDArray[np.int16] = (samples * 32767.0).round().clip(-32768, 32767).astype(np.int16)
    return scaled
