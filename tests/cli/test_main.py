"""How every command begins and ends: help, usage, exit codes, notes."""

import inspect
import warnings

import pytest
import typer.testing

from duologue.cli import files, options, speak, terminal
from duologue.cli.main import create_app
from duologue.errors import CodeError, OptionError
from tests.cli.conftest import Run
from tests.cli.helpers import assert_refused, lines_of

COMMANDS = [
    ("speak",),
    ("converse",),
    ("voices",),
    ("voices", "list"),
    ("voices", "add"),
    ("voices", "remove"),
    ("codec",),
    ("codec", "encode"),
    ("codec", "decode"),
    ("convert",),
    ("doctor",),
]


@pytest.mark.parametrize("path", [(), *COMMANDS], ids=" ".join)
def test_help_teaches(run: Run, path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0 and result.stderr == ""
    assert "Examples:" in result.stdout
    command = " ".join(["duologue", *path])
    if path not in {(), ("codec",), ("voices",)}:
        examples = [line for line in result.stdout.split("Examples:")[1].splitlines() if line.startswith("   ")]
        assert any(f"{command} " in line or line.strip() == command for line in examples)
    assert run(*path, "-h").stdout == result.stdout


def test_help_fits_a_terminal() -> None:
    def check(command: object, name: str) -> None:
        _, *paragraphs = inspect.cleandoc(command.help or "").split("\n\n")  # type: ignore[attr-defined]
        for line in "\n".join(paragraphs).splitlines():  # only the first paragraph is wrapped by typer
            assert len(line) <= 78, (name, line)
        for child, value in getattr(command, "commands", {}).items():
            check(value, f"{name} {child}")

    check(typer.main.get_command(create_app()), "duologue")


@pytest.mark.parametrize("path", [(), ("voices",), ("codec",)], ids=" ".join)
def test_a_bare_group_shows_its_help(run: Run, path: tuple[str, ...]) -> None:
    result = run(*path)
    assert result.exit_code == 0
    assert result.stdout.rstrip() == run(*path, "--help").stdout.rstrip() != ""


def test_version(run: Run) -> None:
    result = run("--version")
    assert result.exit_code == 0
    name, version = result.stdout.split()
    assert name == "duologue" and version


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nonsense"], ["--nonsense", "see duologue --help"]),
        (["spek", "hello"], ["spek", "speak"]),
        (["speak", "hello", "--voise", "ada"], ["--voise", "--voice", "see duologue speak --help"]),
        (["speak"], ["TEXT", "see duologue speak --help"]),
        (["speak", "a", "b"], ["unexpected", "b"]),
        (["speak", "hello", "--topk", "many"], ["--topk"]),
        (["speak", "hello", "--threads", "0"], ["--threads"]),
        (["codec", "encode", "x.wav"], ["--output"]),
        (["codec", "transcode"], ["transcode"]),
        (["convert", "a", "b"], ["--to"]),
        (["voices", "add", "ada", "a.wav"], ["--text"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_usage_is_one_line(run: Run, arguments: list[str], words: list[str]) -> None:
    assert_refused(run(*arguments), *words)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `speak` fail where it would read its text."""

    def fail(argument: str) -> str:
        raise error

    monkeypatch.setattr(files, "read_text_argument", fail)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (CodeError("bad\ncodes \x1b[31m"), 2, ["error: bad codes ?[31m"]),
        (PermissionError(13, "Permission denied", "secret.txt"), 2, ["secret.txt", "Permission denied"]),
        (ImportError("torchcodec is not installed"), 1, ["torchcodec", "duologue doctor"]),
        (MemoryError(), 1, ["not enough memory"]),
        (ZeroDivisionError("division by zero"), 1, ["ZeroDivisionError", "DUOLOGUE_TRACEBACK=1"]),
    ],
)
def test_a_failure_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, words: list[str]
) -> None:
    failing(monkeypatch, error)
    assert_refused(run("speak", "hello"), *words, code=code)


def test_a_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, ZeroDivisionError("division by zero"))
    monkeypatch.setenv("DUOLOGUE_TRACEBACK", "1")
    result = typer.testing.CliRunner().invoke(create_app(), ["speak", "hello"])
    assert isinstance(result.exception, ZeroDivisionError)


def test_an_interruption_ends_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, KeyboardInterrupt())
    result = run("speak", "hello")
    assert result.exit_code == 130 and lines_of(result.stderr) == ["interrupted"]


@pytest.mark.parametrize("error", [BrokenPipeError(), terminal.PipeClosedError()])
def test_a_reader_that_has_gone_is_no_news(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    failing(monkeypatch, error)
    result = run("speak", "hello")
    assert result.exit_code == 141 and result.output == ""


class DuologueNotice(UserWarning):
    __module__ = "duologue.somewhere"


def test_warnings_of_the_library_are_notes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(argument: str) -> str:
        for _ in range(2):
            warnings.warn("cut at max_audio_length_ms", DuologueNotice, stacklevel=1)
        warnings.warn("a foreign one", FutureWarning, stacklevel=1)
        raise CodeError("the end")

    monkeypatch.setattr(files, "read_text_argument", warn)
    result = run("speak", "hello")
    assert lines_of(result.stderr) == ["note: cut at --max-seconds", "error: the end"]


def test_one_line() -> None:
    assert terminal.one_line("a\n\n b\tc\x07\u2028d") == "a  b c? d"
    assert terminal.one_line("  1.00 s  A: ü… 日本 🙂\n") == "  1.00 s  A: ü… 日本 🙂"
    assert terminal.clip("one  two\nthree", 9) == "one two…"
    assert terminal.clip("one two", 7) == "one two"


def test_closed_streams_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(OptionError, match="standard input is closed"):
        terminal.read_standard_input()
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(OptionError, match="standard output is closed"):
        terminal.StandardOutput()
    monkeypatch.setattr("sys.stderr", None)
    terminal.say("nobody hears this")
    terminal.emit_json({}, None)
    with terminal.progress() as show:
        show("nor this")


def test_a_terminal_is_no_player(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    with pytest.raises(OptionError, match="terminal"):
        terminal.StandardOutput()


def test_numbers_that_json_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    terminal.emit_json({"a": float("nan"), "b": [float("inf"), 1.5, True], "c": None, "d": "ü"}, sys.stdout)
    assert capsys.readouterr().out == '{"a": null, "b": [null, 1.5, true], "c": null, "d": "\\u00fc"}\n'


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"DUOLOGUE_HOME": "/somewhere"}, "/somewhere/voices"),
        ("linux", {"XDG_DATA_HOME": "/data"}, "/data/duologue/voices"),
        ("linux", {"HOME": "/home/ada"}, "/home/ada/.local/share/duologue/voices"),
        ("darwin", {"HOME": "/Users/ada"}, "/Users/ada/Library/Application Support/duologue/voices"),
        ("win32", {"APPDATA": "/roaming"}, "/roaming/duologue/voices"),
    ],
)
def test_the_users_folder(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("DUOLOGUE_HOME", "XDG_DATA_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert options.user_voices_folder().as_posix() == expected


def test_the_default_names_do_not_clash() -> None:
    from duologue.cli import converse

    assert speak.DEFAULT_OUTPUT != converse.DEFAULT_OUTPUT
