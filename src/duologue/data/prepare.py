"""Recordings to shards of codes, on the cores of a machine or of a cluster; what is there already is not made again.

A shard is a function of its conversations, the options and the codec alone, whatever machine makes it: it is computed
by one thread, and nothing in it tells of the time or the place.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Literal

from duologue.config import JsonConfig
from duologue.data.codes import encode_turns, one_thread
from duologue.data.shards import CodedTurn, TurnStore, read_json, shard_name, write_index, write_shard
from duologue.data.sources import Conversation, Found
from duologue.data.turns import Prepared, TurnConfig, TurnMaker
from duologue.engine.load import load_codec
from duologue.engine.voices import codec_fingerprint
from duologue.errors import DataError

LEFT_OUT: Final = "left_out.jsonl"


@dataclass(frozen=True)
class PrepareConfig(JsonConfig):
    """`codec` is a checkpoint that has one, None the bundled one; a shard holds `shard_size` conversations."""

    turns: TurnConfig = field(default_factory=TurnConfig)
    codec: str | None = None
    shard_size: int = 32


@dataclass(frozen=True)
class Progress:
    """Shards and seconds of recordings so far; `made` of the shards were made now, the others were there."""

    done: int
    total: int
    made: int
    seconds: float


@dataclass(frozen=True)
class Task:
    """A shard to make: everything its maker needs to know."""

    name: str
    conversations: tuple[Conversation, ...]
    inputs: str


class ShardMaker:
    """Makes shards, one after the other; a worker process has one."""

    def __init__(self, config: PrepareConfig, folder: Path, cache: Path) -> None:
        self.config, self.folder = config, folder
        self.codec = load_codec(config.codec, device="cpu")
        self._make_turns = TurnMaker(config.turns, self.codec.sample_rate, cache=cache)

    def __call__(self, task: Task) -> str:
        """Writes the shard and gives its name."""
        with one_thread():
            prepared = [(conversation.name, self._make_turns(conversation)) for conversation in task.conversations]
            codes = iter(encode_turns(self.codec, [turn.pcm for _, one in prepared for turn in one.turns]))
            coded = [(name, list(_coded(one, codes))) for name, one in prepared]
        about = {
            "inputs": task.inputs,
            "seconds": round(sum(one.seconds for _, one in prepared), 3),
            "left_out": [[place, reason] for _, one in prepared for place, reason in one.left_out],
        }
        kept = [(name, turns) for name, turns in coded if turns]
        write_shard(self.folder, task.name, kept, num_codebooks=self.codec.num_codebooks, about=about)
        return task.name


def _coded(prepared: Prepared, codes: Iterator[Any]) -> Iterator[CodedTurn]:
    speakers: dict[str, int] = {}
    for turn in prepared.turns:
        yield CodedTurn(turn.voice, speakers.setdefault(turn.voice, len(speakers)), turn.text, next(codes))


def prepare(
    found: Found,
    folder: Path,
    config: PrepareConfig,
    *,
    cache: Path,
    workers: int = 1,
    engine: Literal["local", "ray"] = "local",
) -> Iterator[Progress]:
    """Writes the shards of `found` to `folder`, then the index; yields after every shard.

    Shards that are there are kept, so that an interrupted run goes on. With `engine="ray"` the workers are spread over
    the Ray cluster that is running, or one started here; `folder`, the recordings and `cache` must then be the same
    files everywhere. Raises `DataError`, also where `folder` holds shards of other recordings or options, or where no
    turn is left in the end.
    """
    if workers < 1:
        raise DataError(f"{workers} workers; expected 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    codec = load_codec(config.codec, device="cpu")
    fingerprint = codec_fingerprint(codec)
    tasks = list(make_tasks(found.conversations, config, fingerprint))
    _refuse_others(folder, tasks)
    missing = [task for task in tasks if not (folder / f"{task.name}.json").exists()]
    done, seconds = len(tasks) - len(missing), 0.0
    yield Progress(done, len(tasks), 0, seconds)
    if engine == "ray":
        from duologue.data.cluster import make_on_cluster

        names = make_on_cluster(missing, config, folder, cache, workers=workers)
    else:
        names = _make_here(missing, config, folder, cache, workers=workers)
    for made, name in enumerate(names, start=1):
        seconds += _shard(folder, name)["seconds"]
        yield Progress(done + made, len(tasks), made, seconds)
    _finish(folder, tasks, found, config, fingerprint, codec.num_codebooks)


def make_tasks(conversations: Sequence[Conversation], config: PrepareConfig, fingerprint: str) -> Iterator[Task]:
    """The shards to be made, each with a digest of all that goes into it."""
    options = {"options": config.turns.to_dict(), "codec": fingerprint}
    for number, first in enumerate(range(0, len(conversations), config.shard_size)):
        chosen = tuple(conversations[first : first + config.shard_size])
        content = [
            [c.name, [[part.name, part.path.stat().st_size, [asdict(u) for u in part.utterances]] for part in c.parts]]
            for c in chosen
        ]
        text = json.dumps([options, content], sort_keys=True)
        yield Task(shard_name(number), chosen, hashlib.sha256(text.encode()).hexdigest())


def _refuse_others(folder: Path, tasks: Sequence[Task]) -> None:
    """Raises `DataError` where the folder holds a shard that is not one of the tasks."""
    expected = {task.name: task.inputs for task in tasks}
    for path in sorted(folder.glob("shard-*.json")):
        if expected.get(path.stem) != _shard(folder, path.stem).get("inputs"):
            raise DataError(
                f"{folder} holds {path.stem} of other recordings, options or codec: choose another folder, or empty it"
            )


def _shard(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder / f"{name}.json", f"{folder / name}.json has gone")


_maker: ShardMaker | None = None  # of a worker process


def _start_worker(config: PrepareConfig, folder: Path, cache: Path) -> None:
    global _maker
    _maker = ShardMaker(config, folder, cache)


def _make_in_worker(task: Task) -> str:
    assert _maker is not None
    return _maker(task)


def _make_here(
    tasks: Sequence[Task], config: PrepareConfig, folder: Path, cache: Path, *, workers: int
) -> Iterator[str]:
    if not tasks:
        return
    if workers == 1:
        yield from map(ShardMaker(config, folder, cache), tasks)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(tasks)),
        mp_context=get_context("spawn"),  # a fork would inherit the threads of torch in the middle of their work
        initializer=_start_worker,
        initargs=(config, folder, cache),
    )
    try:
        for future in as_completed([pool.submit(_make_in_worker, task) for task in tasks]):
            yield future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finish(
    folder: Path, tasks: Sequence[Task], found: Found, config: PrepareConfig, fingerprint: str, num_codebooks: int
) -> None:
    """Writes the list of what was left out, and the index."""
    left_out = [(name, reason) for name, reason in sorted(found.left_out.items())]
    names = [task.name for task in tasks]
    for name in names:
        left_out += [(place, reason) for place, reason in _shard(folder, name)["left_out"]]
    lines = [json.dumps({"what": place, "why": reason}, ensure_ascii=False) for place, reason in left_out]
    (folder / LEFT_OUT).write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    about = {"layout": found.layout, "options": config.turns.to_dict()}
    write_index(folder, names, fingerprint=fingerprint, num_codebooks=num_codebooks, about=about)
    if not any(TurnStore(folder).conversations):
        (folder / "index.json").unlink()
        frequent = Counter(reason for _, reason in left_out).most_common(1)
        why = "".join(f" ({reason})" for reason, _ in frequent)
        raise DataError(f"no turn is left of {len(found.conversations)} conversations{why}: see {folder / LEFT_OUT}")
