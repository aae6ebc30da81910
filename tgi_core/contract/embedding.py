"""How a model makes one vector of a text, and what a backend does for it. Pure arithmetic.

A backend pools what one step computes; core puts the steps of a long text together.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract.batch import Step

Vector = NDArray[np.float32]


class Pooling(Enum):
    """Which hidden states of a text make its vector."""

    FIRST = "first"
    """That of the first token: BERT's [CLS]."""
    LAST = "last"
    """That of the last token, which alone has seen the whole text where attention is causal."""
    MEAN = "mean"
    """The mean over all tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """How a loaded model embeds."""

    size: int
    """Numbers in a vector."""
    pooling: Pooling


@runtime_checkable
class Embeds(Protocol):
    """A backend whose `Capabilities.embedding` is not None has this too."""

    def embed(self, step: Step) -> Vector:
        """Computes a step, like `StepBackend.step`, and pools hidden states instead of logits.

        All rows of the step belong to texts that are embedded; `Step.out` is empty. Their lengths
        may be mixed, one token included, whatever `Capabilities.mixed` says.

        Returns:
            float32 (R, size): for each row what `Embedding.pooling` makes of the row's own
            tokens. Valid until the next step.

        Raises:
            BackendError: as `StepBackend.step`.
        """
        ...


def pooled(
    pooling: Pooling, before: Vector | None, num_before: int, new: Vector, num_new: int
) -> Vector:
    """The vector of `num_before + num_new` tokens, of those of its two parts.

    Args:
        pooling: how either part was made.
        before: of the tokens so far; None if there are none.
        num_before: how many these are.
        new: of the tokens that follow them.
        num_new: how many, at least 1.
    """
    if before is None:
        return new
    match pooling:
        case Pooling.FIRST:
            return before
        case Pooling.LAST:
            return new
        case Pooling.MEAN:
            return before + (new - before) * np.float32(num_new / (num_before + num_new))
