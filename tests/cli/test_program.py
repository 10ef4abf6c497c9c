"""The command line as a program of its own: start-up, pipes, signals."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from duologue.audio import read_audio
from tests.cli.conftest import RATE, TIMEOUT, command, environment, program
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


def test_pipes(tiny: Path) -> None:
    result = program("speak", "-", "-o", "-", "-m", tiny, "--max-seconds", "0.4", input=b"Hello there.\n")
    assert result.returncode == 0
    pcm, _ = read_audio(io.BytesIO(result.stdout))
    assert len(pcm) == round(0.4 * RATE)
    assert b"0.40 s of audio" in result.stderr and b"Warning" not in result.stderr


def started(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
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
    with started("speak", "Hello there.", "-o", "-", "-m", tiny, *LONG) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(44)[:4] == b"RIFF"
        process.stdout.close()
        stderr = process.stderr.read()
        process.wait(timeout=TIMEOUT)
    assert process.returncode == 141 and stderr == b""


def test_a_full_disk_behind_standard_output(tiny: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            command("speak", "Hello.", "-o", "-", "-m", tiny, "--max-seconds", "0.2"),
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            timeout=TIMEOUT,
            check=False,
        )
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.decode().splitlines() if not line.startswith("note")]
    assert line.startswith("error: ") and "No space left" in line


def test_the_example(tiny: Path, repository: Path) -> None:
    """What `make demo` runs, with a model that only babbles."""
    result = program(
        "converse", repository / "examples" / "hello.txt", "-o", "c.wav", "-m", tiny, "--max-seconds", "0.2"
    )
    assert result.returncode == 0 and os.path.getsize("c.wav") > RATE
