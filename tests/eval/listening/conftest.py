"""Two systems that say the same lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.eval.listening.builders import FIRST, SECOND, make_system


@pytest.fixture
def systems(tmp_path: Path) -> tuple[Path, Path]:
    return make_system(tmp_path / FIRST, 150.0), make_system(tmp_path / SECOND, 260.0)
