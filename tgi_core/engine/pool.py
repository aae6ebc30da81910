"""Pooled hidden states into sequences, and whole vectors into events."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import Pooling, PromptEmbedded, RequestFailed, pooled
from tgi_core.engine.commit import Committed
from tgi_core.scheduler.plan import StepPlan


def pool(plan: StepPlan, vectors: NDArray[np.float32], pooling: Pooling) -> Committed:
    """Adds what a step has pooled to its sequences; those that are complete are finished.

    Args:
        plan: the step's, all rows of which are embedded.
        vectors: float32 (R, size), of each row's own tokens.
        pooling: how they were made.
    """
    result = Committed()
    for row, vector in zip(plan.rows, vectors, strict=True):
        sequence = row.sequence
        sequence.pooled = pooled(pooling, sequence.pooled, row.begin, vector.copy(), row.num_tokens)
        if row.end < sequence.num_prompt:
            continue
        request_id = sequence.request.request_id
        if np.isfinite(sequence.pooled).all():
            data = sequence.pooled.astype("<f4").tobytes()
            result.events.append(PromptEmbedded(request_id=request_id, vector=data))
            result.finished.append(sequence)
        else:
            message = "the model produced no usable vector (it holds NaN or infinity)"
            result.events.append(RequestFailed(request_id=request_id, message=message))
            result.failed.append(sequence)
    return result
