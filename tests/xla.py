"""Where XLA itself compiles: the mark of tests that need it, and its own count of what it did."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

needs_torch_xla = pytest.mark.skipif(
    find_spec("torch_xla") is None,
    reason="torch_xla is not installed, for it holds torch at 2.9: `make xla`",
)


def num_compiled() -> int:
    """Graphs that XLA has compiled in this process."""
    from torch_xla.debug import metrics

    times = metrics.metric_data("CompileTime")
    return 0 if times is None else int(times[0])
