"""Warm-up for backends that take any lengths: a few steps of one sequence, then it is gone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tgi_core.contract.backend import Progress
from tgi_core.contract.batch import Step
from tgi_core.contract.capabilities import Capabilities
from tgi_core.contract.step import StepBackend


def warm_up_with(
    backend: StepBackend, limits: Capabilities, lengths: Sequence[int], progress: Progress
) -> None:
    """Runs a step of each length, so that kernels are chosen and memory is touched.

    Args:
        backend: loaded, and empty; it is empty again afterwards.
        limits: what it told when it was loaded. Lengths beyond them are shortened.
        lengths: new tokens of each step, all of one sequence.
        progress: told before each step, and at the end.
    """
    past = encoded = 0
    for done, wanted in enumerate(lengths):
        progress("warming up", done, len(lengths), "steps")
        n = min(wanted, limits.max_step_tokens, limits.max_sequence_tokens - past)
        if limits.encoder is not None and not past:
            encoded = max(1, n - len(limits.encoder.start))
            n = encoded + len(limits.encoder.start)
        if n > 0 and backend.reserve(0, past + n):
            backend.step(_step(past, n, encoded)).numpy()
            past += n
    backend.release(0)
    progress("warming up", len(lengths), len(lengths), "steps")


def _step(past: int, n: int, encoded: int) -> Step:
    return Step(
        seq=np.zeros(1, np.int32),
        past=np.array([past], np.int32),
        n=np.array([n], np.int32),
        tokens=np.zeros(n, np.int32),
        out=np.array([n - 1], np.int32),
        encoded=np.array([encoded], np.int32) if encoded else None,
    )
