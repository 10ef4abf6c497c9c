"""The functions of a frame as CUDA graphs: each is recorded once for inputs of a kind, and then repeated in one call.

On a GPU a small batch's frame is a thousand kernels that take longer to be launched than to run; a graph launches them
all at once. It reads and writes the memory that it was recorded with. So a state is part of what a graph is for and
stays where it is, all other tensors are copied into the graph and out of it, and plain numbers steer what is recorded.

Source: Nguyen et al., "Accelerating PyTorch with CUDA Graphs" (PyTorch, 2021).
"""

from __future__ import annotations

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from duologue.codec.mimi import Mimi, MimiDecoderState
from duologue.engine.backends import Backend, first_code, next_codes, read_frames
from duologue.model.csm import CSM
from duologue.nn.attention import beside_caches
from duologue.nn.state import State
from duologue.nn.transformer import TransformerState

# Slots of a cache that one graph reads; the next one reads as many more.
EXTENT_STEP = 256
# Of one function and module; those that were not used for longest are forgotten.
_MAX_GRAPHS = 64

Outputs = Tensor | tuple[Tensor, ...]
Run = Callable[[], Outputs]


class Record(Protocol):
    """Records `run`: its outputs, and what fills them anew. `reset` undoes what a run does to states."""

    def __call__(self, run: Run, reset: Callable[[], None], device: torch.device) -> tuple[Outputs, Callable[[], None]]:
        """See the class."""


def record_on_gpu(run: Run, reset: Callable[[], None], device: torch.device) -> tuple[Outputs, Callable[[], None]]:
    """A CUDA graph."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries choose their kernels and take memory on their first calls
            run()
            reset()
            run()
            reset()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Memory is shared: no two graphs run at once, and what one gives is copied before the next.
        with torch.cuda.graph(graph, pool=_pool(device), capture_error_mode="thread_local"):
            outputs = run()
    return outputs, graph.replay


@cache
def _pool(device: torch.device) -> Any:
    return torch.cuda.graph_pool_handle()


def repeat_run(run: Run, reset: Callable[[], None], device: torch.device) -> tuple[Outputs, Callable[[], None]]:
    """No graph: runs again whenever it is asked to, on any device, over the same memory as a graph would."""
    outputs = run()

    def replay() -> None:
        for kept, new in zip(_tensors(outputs), _tensors(run()), strict=True):
            kept.copy_(new)

    return outputs, replay


class Graphed:
    """A function of a module and other arguments (tensors, states, dataclasses of tensors, numbers, None) as graphs."""

    def __init__(self, function: Callable[..., Outputs], record: Record, lock: threading.Lock) -> None:
        """Nothing that shares the `lock` is recorded or repeated at the same time."""
        self._function, self._record, self._lock = function, record, lock
        self._graphs: WeakKeyDictionary[nn.Module, OrderedDict[object, _Graph]] = WeakKeyDictionary()

    def num_graphs(self, module: nn.Module) -> int:
        """How many are kept for a module."""
        return len(self._graphs.get(module, ()))

    @torch.inference_mode()
    def __call__(self, module: nn.Module, *arguments: Any) -> Any:
        """What the function returns; states are updated in place."""
        kind = tuple(_kind(argument) for argument in arguments)
        with self._lock:
            graphs = self._graphs.setdefault(module, OrderedDict())
            if kind not in graphs:
                graphs[kind] = _Graph(self._function, module, arguments, self._record)
                if len(graphs) > _MAX_GRAPHS:
                    graphs.popitem(last=False)
            graphs.move_to_end(kind)
            return graphs[kind](arguments)


class _Graph:
    """One recording, and the memory that it reads and writes."""

    def __init__(
        self, function: Callable[..., Outputs], module: nn.Module, arguments: Sequence[Any], record: Record
    ) -> None:
        inputs = [_stand_in(argument) for argument in arguments]
        states = [state for argument in arguments for state in _states(argument)]
        numbers = [_numbers(state) for state in states]
        kept = [tensor for given in arguments if isinstance(given, State) for tensor in beside_caches(given)]
        values = [tensor.clone() for tensor in kept]

        def reset() -> None:
            # What runs write into caches is the same each time, as long as each begins in the same place.
            for tensor, value in zip(kept, values, strict=True):
                tensor.copy_(value)

        def run() -> Outputs:
            _set_numbers(states, numbers)
            return function(module, *inputs)

        device = next(tensor.device for argument in arguments for tensor in _tensors(argument))
        try:
            self._outputs, self._replay = record(run, reset, device)
            self._numbers = [_numbers(state) for state in states]
            # Neither the module nor a state is kept alive: whoever calls again has them.
            self._inputs = [None if isinstance(given, State) else given for given in inputs]
        finally:
            reset()
            _set_numbers(states, numbers)

    def __call__(self, arguments: Sequence[Any]) -> Outputs:
        for kept, given in zip(self._inputs, arguments, strict=True):
            for target, source in zip(_tensors(kept), () if kept is None else _tensors(given), strict=True):
                target.copy_(source)
        self._replay()
        _set_numbers([state for argument in arguments for state in _states(argument)], self._numbers)
        if isinstance(self._outputs, Tensor):
            return self._outputs.clone()
        return tuple(output.clone() for output in self._outputs)


def graphs_backend(record: Record = record_on_gpu) -> Backend:
    """The backend `"cuda-graphs"`; `record` may be another one in tests."""
    lock = threading.Lock()
    reading = Graphed(read_frames, record, lock)

    def read(model: CSM, tokens: Tensor, mask: Tensor, state: TransformerState, num_valid: Tensor | None) -> Tensor:
        # Nothing but lengths, which lie on the device, may tell one step from the next.
        reached = min(state.extent + 1, state.capacity)
        state.extent = min(-(-reached // EXTENT_STEP) * EXTENT_STEP, state.capacity) - 1
        state.is_even = False
        if num_valid is None:
            num_valid = torch.ones(len(tokens), dtype=torch.int64, device=tokens.device)
        hidden: Tensor = reading(model, tokens, mask, state, num_valid)
        state.extent = reached
        return hidden

    decoding = Graphed(_decode_latent, record, lock)

    def decode(codec: Mimi, codes: Tensor, tables: tuple[Tensor, Tensor], state: MimiDecoderState) -> Tensor:
        # The tables stay out of the recording, which would keep a copy of them.
        sound: Tensor = decoding(codec, codec.quantizer.look_up(codes, tables), state)
        return sound

    return Backend(
        "cuda-graphs",
        read,
        Graphed(first_code, record, lock),
        Graphed(next_codes, record, lock),
        decode,
        max_layers=None,
    )


def _decode_latent(codec: Mimi, latent: Tensor, state: MimiDecoderState) -> Tensor:
    return codec.decode_latent(latent, state)


def _kind(argument: Any) -> object:
    """What a recording depends on of an argument."""
    if isinstance(argument, State):
        places = tuple((tensor.data_ptr(), tensor.shape, tensor.stride()) for tensor in _tensors(argument))
        return places, tuple(tuple(_numbers(state).items()) for state in _states(argument))
    if isinstance(argument, Tensor):
        return argument.shape, argument.dtype, argument.device
    if dataclasses.is_dataclass(argument):
        return type(argument), tuple(_kind(getattr(argument, field.name)) for field in dataclasses.fields(argument))
    return argument


def _stand_in(argument: Any) -> Any:
    """An argument in memory of its own; a state as it is."""
    if isinstance(argument, State):
        return argument
    if isinstance(argument, Tensor):
        return argument.clone()
    if dataclasses.is_dataclass(argument) and not isinstance(argument, type):
        fields = {
            field.name: _stand_in(getattr(argument, field.name)) for field in dataclasses.fields(argument) if field.init
        }
        return type(argument)(**fields)
    return argument


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, State):
        yield from (tensor for _, tensor in value.named_tensors())
    elif isinstance(value, tuple):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def _states(value: Any) -> Iterator[State]:
    """A state and those in it, in a fixed order; nothing of other values."""
    if isinstance(value, list):
        for item in value:
            yield from _states(item)
    elif isinstance(value, State):
        yield value
        for field in dataclasses.fields(value):
            yield from _states(getattr(value, field.name))


def _numbers(state: State) -> dict[str, int | float | bool]:
    """Its plain numbers by name."""
    return {name: value for name, value in vars(state).items() if isinstance(value, int | float | bool)}


def _set_numbers(states: Sequence[State], numbers: Sequence[dict[str, int | float | bool]]) -> None:
    for state, values in zip(states, numbers, strict=True):
        for name, value in values.items():
            setattr(state, name, value)
