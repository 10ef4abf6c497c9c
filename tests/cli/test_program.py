"""The command line as a program of its own: start-up, pipes, signals."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import RATE, TIMEOUT, environment
from tests.cli.helpers import assert_nothing_left

LONG = ("--max-seconds", "30")


def test_help_is_quick() -> None:
    """Nothing heavy is imported: the modules are counted, since a clock would measure the machine."""
    code = (
        "import sys; from duologue.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n"
        "    heavy = {'torch', 'numpy', 'huggingface_hub', 'soundfile', 'tokenizers', 'yaml'} & set(sys.modules)\n"
        "    print(end.code, sorted(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment(),
        check=True,
    )
    assert result.stdout.splitlines()[-1] == "0 []"


def test_the_package_is_the_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "duologue", "--version"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=environment(),
        check=True,
    )
    assert result.stdout.startswith("duologue ")


def started(*arguments: object) -> subprocess.Popen[bytes]:
    # A shell starts what runs in the background with SIGINT ignored, which its children inherit.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from duologue.cli.main import main"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", f"{code}; main()", *map(str, arguments)],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        env=environment(),
    )


def wait_for(condition: object, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.005)


def being_written() -> bool:
    """Whether a part of the recording has reached the disk."""
    try:
        return any(path.stat().st_size > 44 for path in Path().glob(".duologue-*.part"))
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_in_the_middle_leaves_no_file(tiny: Path, number: signal.Signals, code: int) -> None:
    with started("speak", "Hello there.", "-o", "a.wav", "-m", tiny, *LONG) as process:
        wait_for(being_written, process)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    assert_nothing_left(Path())
    lines = [line for line in stderr.decode().splitlines() if line]
    assert lines == (["interrupted"] if code == 130 else [])


def test_a_reader_that_goes_away(tiny: Path) -> None:
    with started("speak", "-", "-o", "-", "-m", tiny, *LONG) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(b"Hello there.\n")
        process.stdin.close()
        header = process.stdout.read(44)
        assert header[:4] == b"RIFF" and header[40:] == b"\xff" * 4  # a pipe cannot go back to put the length right
        assert len(process.stdout.read(RATE // 10)) == RATE // 10
        process.stdout.close()
        stderr = process.stderr.read()
        process.wait(timeout=TIMEOUT)
    assert process.returncode == 141 and stderr == b""
