"""How much memory this process holds at its peak. Source: Linux, proc(5), `clear_refs` and `VmHWM`."""

from __future__ import annotations

from pathlib import Path

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"


def reset_peak() -> bool:
    """Starts a new peak of the resident memory; false where the system has no such thing."""
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def peak_mb() -> float | None:
    """The largest resident memory since `reset_peak`, in MB of 10^6 bytes; None where the system does not tell."""
    try:
        lines = (_PROCESS / "status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(sizes[0]) * 1024 / 1e6 if sizes else None
