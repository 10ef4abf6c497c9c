"""The entry point: which commands there are, and how every one of them ends.

Exit codes: 0, done; 1, something is broken here; 2, bad input or options, with one line on stderr; 130, Ctrl-C; 141,
the reader of a pipe has gone. In no case is a half-written file left, because all output goes through writers that
rename what is whole.
"""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperGroup

from duologue.cli import (
    bench,
    codec,
    converse,
    convert,
    doctor,
    evaluate,
    options,
    prepare,
    rehearse,
    speak,
    terminal,
    train,
    voices,
)
from duologue.errors import DuologueError

# Set to 1 to see the traceback of a failure that is not the user's.
TRACEBACK_VARIABLE: Final = "DUOLOGUE_TRACEBACK"

_COMMANDS: Final = (
    "speak",
    "converse",
    "voices",
    "codec",
    "convert",
    "prepare",
    "rehearse",
    "train",
    "eval",
    "bench",
    "doctor",
)

_HELP: Final = """
Conversational speech: turns text, or a whole written conversation, into audio.

Everything runs on this machine, with the model that comes with the package;
--model takes another one.

Examples:

  duologue speak "Hey, how are you doing?"
  duologue converse examples/hello.txt -o conversation.wav
  duologue doctor
"""


class Program(TyperGroup):
    """The root command: turns every failure into one line on stderr and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        """As typer's, but never a traceback or a panel of several lines."""
        kwargs["standalone_mode"] = False
        try:
            status = super().main(*args, **kwargs)
        except typer.Abort:
            sys.exit(terminal.EXIT_FAILURE)
        except Exception as error:
            if not hasattr(error, "format_message"):  # what typer raises for bad usage
                raise
            sys.exit(_report_usage(error))
        sys.exit(status if isinstance(status, int) else 0)

    def list_commands(self, ctx: Any) -> list[str]:
        """The commands in the order of their use."""
        known = super().list_commands(ctx)
        return [name for name in _COMMANDS if name in known] + [name for name in known if name not in _COMMANDS]

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            with terminal.warnings_as_notes():
                result = super().invoke(ctx)
            if sys.stdout is not None:
                sys.stdout.flush()
            return result
        except KeyboardInterrupt:
            terminal.say("interrupted")
            raise typer.Exit(terminal.EXIT_INTERRUPTED) from None
        except (terminal.PipeClosedError, BrokenPipeError):
            terminal.silence_standard_output()
            raise typer.Exit(terminal.EXIT_BROKEN_PIPE) from None
        except DuologueError as error:
            terminal.fail(str(error))
            raise typer.Exit(terminal.EXIT_BAD_INPUT) from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            terminal.fail(f"{where}{error.strerror or error}")
            raise typer.Exit(terminal.EXIT_BAD_INPUT) from None
        except Exception as error:
            if hasattr(error, "format_message") or isinstance(error, (typer.Exit, typer.Abort)):
                raise
            if os.environ.get(TRACEBACK_VARIABLE):
                raise
            terminal.fail(_describe(error))
            raise typer.Exit(terminal.EXIT_FAILURE) from None


def _report_usage(error: Exception) -> int:
    """One line for an unknown option, a missing argument and the like; the exit code."""
    message = str(getattr(error, "format_message")()).strip().rstrip(".")  # noqa: B009
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "duologue"
    terminal.fail(f"{message}; see {command} --help")
    return int(getattr(error, "exit_code", terminal.EXIT_BAD_INPUT))


def _describe(error: Exception) -> str:
    """A failure that is not the user's, in one line."""
    kind = type(error).__name__
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
        return "not enough memory; try a smaller model, a shorter conversation or another --device"
    if isinstance(error, ImportError):
        return f"{error}; duologue doctor shows what is installed"
    return f"{kind}: {error} (this is a fault of duologue; {TRACEBACK_VARIABLE}=1 shows where)"


def create_app() -> typer.Typer:
    """All commands. Nothing is loaded before one of them runs."""
    app = typer.Typer(
        name="duologue",
        cls=Program,
        help=_HELP,
        invoke_without_command=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings=options.HELP_OPTIONS,
    )

    @app.callback()
    def root(
        context: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    ) -> None:
        if version:
            typer.echo(f"duologue {doctor.installed_version('duologue') or 'unknown'}")
            raise typer.Exit
        if context.invoked_subcommand is None:
            typer.echo(context.get_help())

    for group in (speak, converse, voices, codec, convert, prepare, rehearse, train, evaluate, bench, doctor):
        group.register(app)
    return app


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + signum)


def main() -> NoReturn:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # So that a service manager's stop, like Ctrl-C, unwinds through the writers and leaves no half-written file.
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) == signal.SIG_DFL:
            signal.signal(getattr(signal, name), _terminate)
    command = typer.main.get_command(create_app())
    command.main(prog_name="duologue")
    raise AssertionError("the command line ends with an exit code")
