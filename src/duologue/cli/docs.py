"""`python -m duologue.cli.docs [FILE]` writes docs/cli.md from the help texts, so that neither can be out of date."""

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import typer

from duologue.cli.main import create_app

DEFAULT_FILE: Final = Path("docs/cli.md")

_HEADER: Final = """\
# The command line

<!-- Made from the help texts by: python -m duologue.cli.docs -->

`duologue COMMAND --help` says the same on the terminal. What was asked for goes to standard output or a file; every
message goes to standard error, one line each. Files appear whole or not at all.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | something here is broken: `duologue doctor` |
| 2 | bad input or options: one line says what was given, what is expected and what to do |
| 130 | interrupted with Ctrl-C |
| 141 | the program that read our output has gone |

Environment: `DUOLOGUE_HOME` is where your own voices are kept; `DUOLOGUE_TRACEBACK=1` shows the traceback of a failure
that is not yours. The hub's own, such as `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE`, count too.
"""


def render() -> str:
    """The whole page as Markdown."""
    root = typer.main.get_command(create_app())
    return "\n".join([_HEADER, *_sections(root, "duologue", 2)])


def _sections(command: Any, path: str, level: int) -> Iterator[str]:
    context = command.context_class(command, info_name=path)
    parameters = [parameter for parameter in command.get_params(context) if not _is_left_out(parameter)]
    names = command.list_commands(context) if hasattr(command, "list_commands") else []
    yield f"{'#' * level} `{path}`\n"
    yield f"```\n{_usage(path, parameters, bool(names))}\n```\n"
    yield _prose(command.help or "") + "\n"
    if parameters:
        rows = [_row(parameter) for parameter in parameters]
        yield "\n".join(["| argument or option | meaning |", "|---|---|", *rows]) + "\n"
    for name in names:
        yield from _sections(command.get_command(context, name), f"{path} {name}", min(level + 1, 3))


def _is_left_out(parameter: Any) -> bool:
    return getattr(parameter, "hidden", False) or "--help" in parameter.opts


def _usage(path: str, parameters: list[Any], is_group: bool) -> str:
    arguments = [_metavar(parameter) for parameter in parameters if parameter.param_type_name == "argument"]
    return " ".join([path, *(["COMMAND"] if is_group else []), *arguments, "[OPTIONS]"])


def _prose(text: str) -> str:
    """Help text as Markdown: what is indented becomes a code block."""
    rendered = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        is_code = all(line.startswith("  ") for line in paragraph.splitlines())
        rendered.append(f"```\n{textwrap.dedent(paragraph)}\n```" if is_code else paragraph)
    return "\n\n".join(rendered)


def _row(parameter: Any) -> str:
    """A line of the table."""
    meaning = parameter.help or ""
    if parameter.param_type_name == "argument":
        name = f"`{_metavar(parameter)}`"
    else:
        names = sorted(parameter.opts, key=lambda option: not option.startswith("--"))
        value = "" if parameter.is_flag else f" {_metavar(parameter)}"
        name = ", ".join(f"`{option}{value}`" for option in names)
    default = parameter.default
    if default not in (None, False, "") and not callable(default):
        meaning += f" Default: {default}."
    if parameter.required and parameter.param_type_name == "option":
        meaning += " Required."
    return f"| {name} | {meaning} |"


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def main() -> None:
    """Write the page."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FILE
    file.write_text(render(), encoding="utf-8")


if __name__ == "__main__":
    main()
