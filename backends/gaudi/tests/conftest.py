"""Habana's PyTorch is simulated: see tests/simulators."""

import sys
from pathlib import Path

import pytest

from tests.simulators.hpu import DEVICE

SIMULATOR = Path(__file__).parents[3] / "tests" / "simulators" / "gaudi"
SIMULATED = {"habana_frameworks", "neural_compressor", "tgi_backend_gaudi"}


@pytest.fixture(scope="module", autouse=True)
def gaudi():
    """A simulated Gaudi 2, new for each file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SIMULATOR))
        yield DEVICE
    DEVICE.stop()
    for name in [name for name in sys.modules if name.partition(".")[0] in SIMULATED]:
        del sys.modules[name]
