"""Parts of a step: some of its rows, as a step of their own. Knows arrays only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import Step


def part_of(step: Step, chosen: NDArray[np.bool_]) -> tuple[Step, NDArray[np.bool_]]:
    """The step of some rows.

    Args:
        step: the whole one.
        chosen: bool (R,), which rows.

    Returns:
        Their step, without adapters, and bool (L,): which outputs of the whole step are theirs.
    """
    tokens = np.repeat(chosen, step.n)
    theirs = tokens[step.out]
    places = np.cumsum(tokens) - 1
    part = Step(
        seq=step.seq[chosen],
        past=step.past[chosen],
        n=step.n[chosen],
        tokens=step.tokens[tokens],
        out=places[step.out[theirs]].astype(np.int32),
    )
    return part, theirs
