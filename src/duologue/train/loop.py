"""The training loop that the codec and the speech model share: schedule, optimizer, averaging, logging, exact resume.

Everything random in step `n` follows from `(seed, n)`, so that a run that was killed and resumed takes the same steps
as one that was not. Checkpoints are safetensors and JSON, written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from duologue.config import JsonConfig
from duologue.errors import DuologueWarning, TrainingError
from duologue.nn.precision import computes_bfloat16
from duologue.train.board import Board
from duologue.train.distributed import World, like, local, norm, whole
from duologue.train.optimizers import Rates, Rival, make_players


@dataclass(frozen=True)
class LoopConfig(JsonConfig):
    """How long and how fast to train.

    `learning_rate` rises over `warmup_steps`, then falls along a cosine to `final_lr_share` of itself at `num_steps`,
    or earlier if `budget_minutes` of computing are used up by then. `muon_learning_rate` is Muon's, for the hidden
    matrices that the caller names; at 0 AdamW trains them too. `ema_decay` averages the weights that are exported.
    `autocast` is the format of matrix products, Muon's too; `auto` is bfloat16 where the device is fast at it, else
    float32. A step takes the gradients of `accumulate` batches.
    """

    num_steps: int
    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.0
    warmup_steps: int = 200
    final_lr_share: float = 0.05
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0
    accumulate: int = 1
    ema_decay: float = 0.999
    budget_minutes: float | None = None
    autocast: Literal["none", "bfloat16", "auto"] = "none"
    seed: int = 0
    log_every: int = 20
    save_every: int = 500
    evaluate_every: int = 1000


# Of a step's losses: not one of them, but how much its batch counts.
WEIGHT: Final = "weight"

_OUT_OF_MEMORY: Final = (
    "step {step} does not fit into memory; the checkpoint in {folder} is from before: use smaller batches and raise "
    "accumulate by as much, turn on checkpointing, lower depth_share, or set autocast to bfloat16, and start again to "
    "go on from it; where it is the optimizer's state, a run of its own with LoRA or shared among processes is smaller"
)

# What may be another when a run goes on, by the last part of its name: what memory and stability ask for, and what
# decides nothing.
_ADJUSTABLE: Final = frozenset(
    {"rows", "accumulate", "checkpointing", "depth_share", "autocast", "learning_rate", "muon_learning_rate"}
    | {"log_every", "save_every", "evaluate_every"}
)

StepFunction = Callable[[int, float], dict[str, Tensor]]
Evaluation = Callable[[int], dict[str, float]]


class TrainingLoop:
    """Trains `module` in `folder`, which holds `log.jsonl` and the latest checkpoint `last/`.

    `step(index, progress)` computes one batch and returns its named losses, of which `loss` is descended, and every
    rival's own; `progress` runs from 0 to 1. An entry `WEIGHT` says how much the batch counts (by its frames, say)
    among those of the other processes and of an accumulated step, so that all of them count as one.
    """

    def __init__(
        self,
        config: LoopConfig,
        module: nn.Module,
        folder: Path,
        *,
        description: dict[str, Any],
        hidden_matrices: Collection[str] = (),
        rate_factors: Mapping[str, float] | None = None,
        rivals: Collection[Rival] = (),
        world: World | None = None,
        board: Board | None = None,
    ) -> None:
        """`description` tells runs apart at resume; `hidden_matrices` names the parameters that Muon may train,
        and `rate_factors` multiply the rate of parameters that AdamW does.

        In a `world` of several processes all take the mean of their gradients, and the first one writes.
        """
        self.config, self.module, self.folder = config, module, folder
        self.description = {"loop": config.to_dict(), **description}
        self.step_index, self.elapsed_s = 0, 0.0
        self.world, self.board = world or World(), board
        self.device = next(module.parameters()).device
        self._bfloat16 = config.autocast == "bfloat16" or (config.autocast == "auto" and computes_bfloat16(self.device))
        rates = Rates(
            config.learning_rate,
            config.muon_learning_rate,
            config.weight_decay,
            (config.beta1, config.beta2),
            is_rough=self._bfloat16,
        )
        self.players = make_players(module, rates, hidden_matrices, rivals, rate_factors, self.world)
        self.parameters = self.players[0].parameters
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._heard_signal: int | None = None  # by this process
        self._stop_signal: int | None = None  # by any, as all know since the last step

    @property
    def progress(self) -> float:
        """Share of the run that is done, by steps or by time, whichever is further."""
        done = self.step_index / self.config.num_steps
        if self.config.budget_minutes is not None:
            done = max(done, self.elapsed_s / 60 / self.config.budget_minutes)
        return min(done, 1.0)

    def rate_factor(self) -> float:
        """What the coming step multiplies the learning rates by."""
        warmup = min(1.0, (self.step_index + 1) / max(1, self.config.warmup_steps))
        final = self.config.final_lr_share
        return warmup * (final + (1 - final) * (1 + math.cos(math.pi * self.progress)) / 2)

    def run(self, step: StepFunction, *, evaluate: Evaluation | None = None, quiet: bool = False) -> None:
        """Trains to the end.

        SIGINT and SIGTERM end the step, save the state, from which the run can be resumed, and raise
        `KeyboardInterrupt`. Raises `TrainingError` when a loss is not finite; the last checkpoint is then still that of
        before.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.world.share(list(self.module.state_dict().values()))
        means = _Means()
        with self._signals():
            while self.progress < 1.0 and not self._is_stopped():
                started = time.perf_counter()
                losses = self._one_step(step)
                self.elapsed_s += time.perf_counter() - started
                self.step_index += 1
                self._agree()
                means.add(losses)
                if self.step_index % self.config.log_every == 0:
                    self.log(means.take(), quiet=quiet)
                last = self.progress >= 1.0
                if evaluate is not None and (last or self.step_index % self.config.evaluate_every == 0):
                    if self.world.is_first or self.world.is_sharding:
                        self.log({f"eval_{name}": v for name, v in evaluate(self.step_index).items()}, quiet=quiet)
                    self.world.wait()
                    means.restart_clock()
                if last or self.step_index % self.config.save_every == 0:
                    self.save()
        if self._is_stopped():
            self.save()
            raise KeyboardInterrupt

    def _is_stopped(self) -> bool:
        return (self._heard_signal if self.world.size == 1 else self._stop_signal) is not None

    def _agree(self) -> None:
        """Signals reach one process, and clocks differ: all stop at any signal and follow the first one's clock."""
        if self.world.size > 1:
            word = torch.tensor([self._heard_signal or 0, self.elapsed_s * self.world.is_first], dtype=torch.float64)
            signal_number, self.elapsed_s = self.world.total(word.to(self.device)).tolist()
            self._stop_signal = int(signal_number) or None

    def _one_step(self, step: StepFunction) -> dict[str, float]:
        config = self.config
        torch.manual_seed((config.seed << 32) + self.step_index + (self.world.rank << 24))
        self.module.train()
        factor = self.rate_factor()
        with self._advising_on_memory():
            gradients, values = self._accumulated(step)
        values |= {"grad_norm": float(norm(gradients[0], self.world)), "rate_factor": factor}
        bad = sorted(name for name, value in values.items() if not math.isfinite(value))
        if bad:
            raise TrainingError(
                f"step {self.step_index}: {', '.join(bad)} not finite; the checkpoint in {self.folder / 'last'} is "
                "from before; lower learning_rate, or set autocast to none, and start again to go on from it"
            )
        with self._advising_on_memory():
            for player, found in zip(self.players, gradients, strict=True):
                player.step(found, factor, config.clip_norm)
        decay = min(config.ema_decay, (1 + self.step_index) / (10 + self.step_index))
        averages, newest = list(self.average.values()), [p.detach() for p in self.parameters.values()]
        torch._foreach_lerp_([local(t) for t in averages], [local(t) for t in newest], 1 - decay)
        return values

    @contextmanager
    def _advising_on_memory(self) -> Iterator[None]:
        advice = _OUT_OF_MEMORY.format(step=self.step_index, folder=self.folder / "last")
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise TrainingError(advice) from error
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):  # what the allocator of the CPU says
                raise
            raise TrainingError(advice) from error

    def _accumulated(self, step: StepFunction) -> tuple[list[list[Tensor]], dict[str, float]]:
        """Every player's gradients, and the losses, of all batches of a step and all processes."""
        count = self.config.accumulate
        gradients: list[list[Tensor]] = []
        values: dict[str, float] = {}
        total = 0.0
        for part in range(count):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bfloat16):
                losses = step(self.step_index * count + part, self.progress)
            weight = losses.pop(WEIGHT, None)
            share = 1.0 if weight is None else float(weight)
            found = []
            for player in reversed(self.players):  # the model last, whose backward pass may free the graph
                keep = player is not self.players[0]
                loss = losses[player.loss] if weight is None else losses[player.loss] * share
                found.append(player.gradients(loss, keep_graph=keep))
            found.reverse()
            for sums, more in zip(gradients, found, strict=False):
                torch._foreach_add_([local(t) for t in sums], [local(t) for t in more])
            gradients = gradients or found
            # One transfer for all, since each waits for the device.
            numbers = torch.stack([value.detach().float() for value in losses.values()]).tolist()
            for name, number in zip(losses, numbers, strict=True):
                values[name] = values.get(name, 0.0) + share * number
            total += share
        values = {name: value / max(total, 1e-9) for name, value in values.items()}
        if not self.world.is_sharding:
            gradients = [self.world.average(found) for found in gradients]
        mean = float(self.world.total(torch.tensor(total, dtype=torch.float64, device=self.device))) / self.world.size
        if mean != 1.0:
            for mine in gradients:
                torch._foreach_div_([local(t) for t in mine], max(mean, 1e-9))
        return gradients, values

    def log(self, record: dict[str, float], *, quiet: bool = False) -> None:
        """Appends a record, with its place in the run, to `log.jsonl`; prints it and the time left unless `quiet`."""
        if not self.world.is_first:
            return
        place = {"step": self.step_index, "progress": round(self.progress, 4), "elapsed_s": round(self.elapsed_s, 1)}
        record = place | {name: float(f"{value:.5g}") for name, value in record.items()}
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if self.board is not None:
            self.board.scalars(record, self.step_index)
        if not quiet:
            left_min = self.elapsed_s / 60 * (1 / self.progress - 1)
            shown = {"left_min": round(left_min, 1)} | record
            print("  ".join(f"{name} {value:g}" for name, value in shown.items()), flush=True)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The module with its averaged weights in place, for evaluation; the trained ones come back after."""
        kept = {name: p.detach().clone() for name, p in self.parameters.items()}
        training = self.module.training
        self._assign(self.average)
        self.module.eval()
        try:
            yield
        finally:
            self._assign(kept)
            self.module.train(training)

    def _assign(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                local(parameter).copy_(local(values[name]))

    def assign_average(self) -> None:
        """Puts the averaged weights into the module for good: the end of training."""
        self._assign(self.average)

    def save(self) -> None:
        """Writes `last/` so that a crash at any moment leaves either the old checkpoint or the new one.

        Raises `TrainingError` where it cannot be written, on a full disk for example; the one before stays.
        """
        if not (self.world.is_first or self.world.is_sharding):
            return
        tensors = {f"module.{name}": whole(t.detach()).clone() for name, t in self.module.state_dict().items()}
        tensors |= {f"average.{name}": whole(t) for name, t in self.average.items()}
        for player in self.players:
            tensors |= {f"optimizer.{name}": tensor for name, tensor in player.state().items()}
        if not self.world.is_first:
            return
        fresh, last, old = self.folder / "next", self.folder / "last", self.folder / "old"
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            save_file({name: t.contiguous() for name, t in tensors.items()}, fresh / "state.safetensors")
            state = {"step": self.step_index, "elapsed_s": self.elapsed_s, "description": self.description}
            (fresh / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")
        except (OSError, SafetensorError) as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise TrainingError(
                f"step {self.step_index} cannot be saved ({error}); the checkpoint in {last} is from before: "
                "make room, and start again to go on from it"
            ) from error
        shutil.rmtree(old, ignore_errors=True)
        if last.exists():
            os.replace(last, old)
        os.replace(fresh, last)
        shutil.rmtree(old, ignore_errors=True)

    def resume(self) -> bool:
        """Takes up the checkpoint of `folder`, if there is one.

        Warns of settings that are no longer what they were, of those that may change (batches and how they are added
        up, rates, formats); raises `TrainingError` for others, and for a checkpoint that is damaged.
        """
        last = self.folder / "last"
        if not (last / "state.json").exists():
            last = self.folder / "old"  # a crash between the two renames of save()
            if not (last / "state.json").exists():
                return False
        try:
            state = json.loads((last / "state.json").read_text(encoding="utf-8"))
            tensors = load_file(last / "state.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise TrainingError(f"{last} is damaged ({error}): take it away to begin anew") from error
        self._compare(state["description"])
        own = self.module.state_dict()
        self.module.load_state_dict({name: like(t, own[name]) for name, t in _part(tensors, "module.").items()})
        average = _part(tensors, "average.")
        self.average = {name: like(average[name], parameter.data) for name, parameter in self.parameters.items()}
        for player in self.players:
            player.load_state(_part(tensors, "optimizer."))
        self.step_index, self.elapsed_s = state["step"], state["elapsed_s"]
        return True

    def _compare(self, saved: dict[str, Any]) -> None:
        found = _differences(saved, json.loads(json.dumps(self.description)))
        refused = [text for name, text in found if name.rpartition(".")[2] not in _ADJUSTABLE]
        if refused:
            raise TrainingError(f"{self.folder} holds a run of another configuration: {'; '.join(refused)}")
        if found and self.world.is_first:
            changed = "; ".join(text for _, text in found)
            warnings.warn(f"{self.folder} goes on with other settings: {changed}", DuologueWarning, stacklevel=3)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            self._heard_signal = number

        previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def described(config: JsonConfig) -> dict[str, Any]:
    """A configuration for a run's `description`, without that of the loop, which the run adds by itself."""
    return {name: value for name, value in config.to_dict().items() if name != "loop"}


def weights_digest(weights: Mapping[str, Tensor] | None) -> str | None:
    """What tells weights to start from apart, for a run's `description`."""
    if weights is None:
        return None
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class _Means:
    """Running means of what the steps since the last record gave, and their pace."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count, self.since = 0, time.perf_counter()

    def add(self, values: dict[str, float]) -> None:
        self.count += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def take(self) -> dict[str, float]:
        """The means and `step_s`, the seconds a step; begins anew."""
        record = {name: value / self.count for name, value in self.sums.items()}
        record["step_s"] = (time.perf_counter() - self.since) / self.count
        self.sums, self.count, self.since = {}, 0, time.perf_counter()
        return record

    def restart_clock(self) -> None:
        """Leaves out the time since the last step."""
        self.since = time.perf_counter()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _differences(saved: Any, given: Any, path: str = "") -> list[tuple[str, str]]:
    """Where two descriptions differ: the place, and a sentence of it."""
    if isinstance(saved, dict) and isinstance(given, dict):
        found = []
        for key in sorted(saved.keys() | given.keys()):
            found += _differences(saved.get(key), given.get(key), f"{path}.{key}" if path else key)
        return found
    return [] if saved == given else [(path, f"{path} was {saved!r}, is {given!r}")]
