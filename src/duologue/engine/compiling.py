"""How the compiled backend's functions are compiled, and for whom."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FunctionType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from duologue.engine.native import load_operators

# What calls the loops is a tenth of a frame's time in Python.
_OPTIONS = {"cpp_wrapper": True, "size_asserts": False}


@contextmanager
def compiling(*, long_loops: bool) -> Iterator[None]:
    """What is compiled in here calls its products without Python, our own wherever they are there.

    Loops over a frame's sound are `long_loops`, for all threads. Those over a row or two are over before a second
    thread has begun: one runs them.
    """
    load_operators()
    options = {**_OPTIONS, **({} if long_loops else {"cpp.threads": 1})}
    with torch._inductor.config.patch(options), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of names in torch that its compiler uses
        yield


class Compiled:
    """A function whose first argument is a module, compiled for each module by itself.

    On each call the compiler's guards would look at everything in a module, in case that has changed: thousands of
    places in memory, at Mimi's size for half a millisecond. With graphs of its own a module has only to be of the same
    kind still, which one of its weights tells.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._compiled: WeakKeyDictionary[nn.Module, Callable[..., Any]] = WeakKeyDictionary()
        self._numbers = itertools.count()

    def __call__(self, module: nn.Module, *arguments: Any) -> Any:
        compiled = self._compiled.get(module)
        if compiled is None:
            compiled = self._compiled[module] = self._compile()
        return compiled(module, *arguments)

    def _compile(self) -> Callable[..., Any]:
        # Graphs belong to a function's code, so each module has a copy of it.
        code = self._function.__code__
        name, module_name = f"{code.co_name}_{next(self._numbers)}", code.co_varnames[0]
        own = FunctionType(code.replace(co_name=name), self._function.__globals__)

        def kept_guards(found: Sequence[Any]) -> list[bool]:
            """All but the module's, and of these one weight's."""
            is_inside = [guard.name.startswith(f"{module_name}.") for guard in found]
            # A parameter's: other tensors, such as rotary frequencies, are not cast with the module.
            of_weights = (
                index
                for index, guard in enumerate(found)
                if is_inside[index] and guard.guard_type == "TENSOR_MATCH" and isinstance(guard.value, nn.Parameter)
            )
            first = next(of_weights, None)
            return [not inside or index == first for index, inside in enumerate(is_inside)]

        # Each kind of input is compiled anew; an older torch gives up after eight, and goes on eager.
        options: dict[str, Any] = {}
        if "recompile_limit" in inspect.signature(torch.compile).parameters:
            options = {"fullgraph": True, "recompile_limit": 64, "options": {"guard_filter_fn": kept_guards}}
        return torch.compile(own, **options)
