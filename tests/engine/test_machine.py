"""The processor's name: that of Linux's list, and another one where there is no list, or no name in it."""

import platform
from pathlib import Path

import pytest

from duologue.engine import machine


def test_linux_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "cpuinfo"
    listed.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7B13\nprocessor\t: 1\nmodel name\t: another\n")
    monkeypatch.setattr(machine, "_CPUINFO", listed)
    assert machine.processor_name() == "AMD EPYC 7B13"


@pytest.mark.parametrize("content", [None, "processor\t: 0\nBogoMIPS\t: 50.00\n"])
def test_python_names_it(content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "cpuinfo"
    if content is not None:
        listed.write_text(content)
    monkeypatch.setattr(machine, "_CPUINFO", listed)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine.processor_name() == platform.machine()
