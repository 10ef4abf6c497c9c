"""Options that come in groups: a parameter annotated with a dataclass stands for all of its fields.

Typer reads a command's signature, so every command would have to repeat the options that all of them share. Here the
fields of a dataclass, annotated as typer wants them, are put into the signature in its place, and the command gets an
instance.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with each dataclass among its parameters replaced by the dataclass' fields, as options by name."""
    hints = typing.get_type_hints(command, include_extras=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter.replace(annotation=kind))
            continue
        assert isinstance(kind, type)
        fields = dataclasses.fields(kind)
        groups[parameter.name] = (kind, [field.name for field in fields])
        annotations = typing.get_type_hints(kind, include_extras=True)
        for field in fields:
            parameters.append(
                inspect.Parameter(
                    field.name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=annotations[field.name],
                )
            )

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, (kind, names) in groups.items():
            values[name] = kind(**{field: values.pop(field) for field in names})
        command(**values)

    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        sorted(parameters, key=lambda parameter: parameter.kind)
    )
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # or typer would read the signature behind it
    return run
