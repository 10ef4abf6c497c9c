"""Shards made on a Ray cluster, with Ray Data: the same shards as one machine makes."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from duologue.data.prepare import PrepareConfig, ShardMaker, Task
from duologue.errors import DataError


class _Mapper:
    """What an actor of Ray Data does with a row."""

    def __init__(self, config: PrepareConfig, folder: Path, cache: Path) -> None:
        self._make = ShardMaker(config, folder, cache)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"name": self._make(row["task"])}


def _anywhere(task: Task) -> Task:
    """The task with paths that do not depend on where a worker runs."""
    conversations = tuple(
        replace(one, parts=tuple(replace(part, path=part.path.absolute()) for part in one.parts))
        for one in task.conversations
    )
    return replace(task, conversations=conversations)


def make_on_cluster(
    tasks: Sequence[Task], config: PrepareConfig, folder: Path, cache: Path, *, workers: int
) -> Iterator[str]:
    """Names of shards as they get done; raises `DataError` where the extra `ray` is not installed."""
    try:
        import ray
    except ImportError as error:
        raise DataError(f"{error.name} is not installed: pip install 'duologue[ray]'") from error
    if not tasks:
        return
    if not ray.is_initialized():
        before = signal.getsignal(signal.SIGTERM)
        ray.init(log_to_driver=False, logging_level=logging.WARNING)
        if signal.getsignal(signal.SIGTERM) is not before:
            signal.signal(signal.SIGTERM, before)  # which Ray takes for itself, and keeps
    ray.data.DataContext.get_current().enable_progress_bars = False
    if config.codec is not None and Path(config.codec).exists():
        config = replace(config, codec=str(Path(config.codec).absolute()))
    rows = ray.data.from_items([{"task": _anywhere(task)} for task in tasks], override_num_blocks=len(tasks))
    made = rows.map(
        _Mapper,  # type: ignore[arg-type]  # a class, of which each worker makes one
        fn_constructor_args=(config, folder.absolute(), cache.absolute()),
        concurrency=min(workers, len(tasks)),
        num_cpus=1,
    )
    for row in made.iter_rows():
        yield str(row["name"])
