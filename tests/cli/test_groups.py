"""Options that come in groups."""

from dataclasses import dataclass
from typing import Annotated

import typer
from typer.testing import CliRunner

from duologue.cli.groups import grouped

Size = Annotated[int, typer.Option("--size", "-s", help="How large.")]


@dataclass(frozen=True)
class Shape:
    """What it looks like."""

    size: Size = 3
    colour: str = "red"


def app_of(command: object) -> typer.Typer:
    app = typer.Typer()
    app.command()(grouped(command))  # type: ignore[arg-type]
    return app


def test_a_dataclass_stands_for_its_options() -> None:
    seen: list[object] = []

    def draw(name: str, twice: bool = False, *, shape: Shape) -> None:
        """Draw a thing."""
        seen.append((name, twice, shape))

    app = app_of(draw)
    assert CliRunner().invoke(app, ["box"]).exit_code == 0
    assert CliRunner().invoke(app, ["box", "--twice", "-s", "5", "--colour", "blue"]).exit_code == 0
    assert seen == [("box", False, Shape()), ("box", True, Shape(5, "blue"))]
    told = CliRunner().invoke(app, ["--help"]).output
    assert "Draw a thing." in told and "How large." in told and "--colour" in told


def test_a_command_without_groups_is_left_as_it_is() -> None:
    seen: list[int] = []

    def count(number: int = 2) -> None:
        seen.append(number)

    assert CliRunner().invoke(app_of(count), ["--number", "7"]).exit_code == 0
    assert seen == [7]
