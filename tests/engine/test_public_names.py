"""`import duologue`: the public names, cheap and without side effects."""

import subprocess
import sys

import pytest

import duologue
from duologue import errors


def test_every_name_is_there_and_documented():
    for name in duologue.__all__:
        value = getattr(duologue, name)
        assert name == "__version__" or value.__doc__, name
    assert set(duologue.__all__) <= set(dir(duologue))
    assert duologue.__version__


def test_every_error_is_public():
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.DuologueError):
            assert getattr(duologue, name) is value


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'speak'"):
        _ = duologue.speak


def test_importing_loads_nothing_heavy_and_changes_nothing():
    program = (
        "import os, sys, threading; before = dict(os.environ); import duologue; "
        "assert not {'torch', 'numpy', 'tokenizers', 'huggingface_hub'} & set(sys.modules), sorted(sys.modules); "
        "assert dict(os.environ) == before and threading.active_count() == 1; "
        "import torch; threads = torch.get_num_threads(); duologue.load; duologue.Generator; "
        "assert torch.get_num_threads() == threads and dict(os.environ) == before; "
        "assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
