"""Fixtures and rules that all tests share.

Default run: offline, on a CPU. `-m slow` and `-m gpu` select the rest; a `gpu` test skips without a CUDA device.
torch's thread settings are the caller's: nothing here changes them.
"""

from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Deadlines measure the machine's load, not the code. The rest stays as hypothesis chose (it has a profile for CI).
hypothesis.settings.register_profile("duologue", hypothesis.settings(deadline=None))
hypothesis.settings.load_profile("duologue")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return REPOSITORY


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The shared corpus, which lies beside the repository and is not part of it."""
    path = REPOSITORY.parent / "shared" / "corpus"
    if not path.is_dir():
        pytest.skip("no ../shared/corpus beside the repository")
    return path
