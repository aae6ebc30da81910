"""Without a GPU, Triton's kernels are interpreted: that must be said before Triton is imported."""

import sys
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # another test may have imported it, by way of torch; its native part cannot be loaded twice
    for name in [name for name in sys.modules if (name + ".").startswith("triton.")]:
        if not (name + ".").startswith("triton._C."):
            del sys.modules[name]
    pytest.MonkeyPatch().setenv("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    """The interpreter uses numpy in ways that numpy warns of."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.filterwarnings("ignore:::triton"))
