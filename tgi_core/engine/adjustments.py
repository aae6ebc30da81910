"""Adjustments in the engine: what plugins add to the logits of sequences that asked for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import Adjustment, SamplingBatch
from tgi_core.engine.build import Output
from tgi_core.errors import TgiError
from tgi_core.scheduler.sequence import Sequence

logger = logging.getLogger(__name__)


def boost(
    batch: SamplingBatch,
    outputs: list[Output],
    adjustments: Mapping[str, Adjustment],
    vocab_size: int,
) -> tuple[SamplingBatch, list[tuple[Sequence, str]]]:
    """Adds the boosts of sequences with adjustments, best while the device computes the logits.

    Returns:
        The batch, and the sequences that cannot go on, each with the reason.
    """
    rows: list[int] = []
    sets: list[NDArray[np.int32]] = []
    values: list[float] = []
    failed: list[tuple[Sequence, str]] = []
    for i, output in enumerate(outputs):
        if output.row.plain or output.scored is not None:
            continue
        sequence = output.row.sequence
        tokens = [*sequence.tokens, *output.assumed] if output.ahead else sequence.tokens
        for name in sequence.request.sampling.adjustments:
            try:
                made = adjustments[name].boost(tokens, vocab_size)
            except Exception as error:
                failed.append((sequence, _reason(sequence, name, error)))
                break
            rows.append(i)
            sets.append(made.tokens)
            values.append(made.value)
    if not rows:
        return batch, failed
    boosted = replace(
        batch,
        boost_rows=np.array(rows, np.int32),
        boost=np.stack(sets),
        boost_values=np.array(values, np.float32),
    )
    return boosted, failed


def _reason(sequence: Sequence, name: str, error: Exception) -> str:
    if isinstance(error, TgiError):
        return f"the adjustment {name!r}: {error}"
    request_id = sequence.request.request_id
    logger.error("the adjustment %r failed for request %s", name, request_id, exc_info=error)
    return f"the adjustment {name!r} failed"
