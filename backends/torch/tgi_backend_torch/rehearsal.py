"""A rehearsal: a model that runs in flat batches, with a cache, runs the largest step.

To be called where tensors have shapes and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel

from tgi_backend_torch.cache import BLOCK_TOKENS
from tgi_backend_torch.device import Device
from tgi_backend_torch.loader import longest_sequence
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.shards import Cuts
from tgi_backend_torch.tally import Tally
from tgi_backend_torch.trial import Trial
from tgi_backend_torch.wishes import cache_dtype
from tgi_core.contract import Capabilities, LoadRequest, Step, plan_sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsed:
    """What was seen; sizes are in bytes, as those of `MemoryPlan`."""

    limits: Capabilities
    weights_bytes: int
    cache_bytes: int
    cell_bytes: int
    step_bytes: int
    longest: int | None


def rehearse_flat(
    model: PreTrainedModel,
    cuts: Cuts,
    trial: Trial,
    request: LoadRequest,
    device: Device,
    memory_bytes: int,
    tally: Tally,
) -> Rehearsed:
    """Makes the cache and runs the largest step.

    Args:
        model: of fake tensors, as all that is made of it.
        cuts: what this rank has of it.
        trial: what it turned out to be made of.
        request: what the operator wants.
        device: where it would run.
        memory_bytes: free memory for all of it.
        tally: counts since before the model was made.

    Raises:
        SetupError: see `plan_sizes`.
    """
    # with what layers of few bits unpack into since they ran
    weights_bytes = tally.live_bytes
    longest = longest_sequence(model.config, windowed=trial.windowed)
    cell_bytes = trial.cell_numbers * cache_dtype(request, model.dtype, device).itemsize
    sizes = plan_sizes(
        request,
        cell_bytes=cell_bytes,
        block_tokens=BLOCK_TOKENS,
        free_bytes=memory_bytes - weights_bytes,
        longest=longest,
    )
    backend = TorchBackend(device)
    limits = backend.take(model, cuts, trial, sizes, request)
    cached_bytes = tally.live_bytes
    past, step = largest_step(limits)
    if past is not None:
        backend.reserve(0, past.num_tokens)
        backend.step(past)
    tally.forget_peak()
    backend.reserve(0, limits.max_sequence_tokens)
    backend.step(step)
    return Rehearsed(
        limits=limits,
        weights_bytes=weights_bytes,
        cache_bytes=cached_bytes - weights_bytes,
        cell_bytes=cell_bytes,
        step_bytes=tally.peak_bytes - cached_bytes,
        longest=longest,
    )


def largest_step(limits: Capabilities) -> tuple[Step | None, Step]:
    """A chunk of a prompt, at the end of the longest sequence, with logits for as many tokens as
    there are rows; and before it a step that computes all that comes first, if anything does.
    """
    n = min(limits.max_step_tokens, limits.max_sequence_tokens)
    past = limits.max_sequence_tokens - n
    outputs = min(limits.max_rows, n)
    return _step(0, past, 0) if past else None, _step(past, n, outputs)


def _step(past: int, n: int, num_outputs: int) -> Step:
    return Step(
        seq=np.zeros(1, np.int32),
        past=np.array([past], np.int32),
        n=np.array([n], np.int32),
        tokens=np.zeros(n, np.int32),
        out=np.arange(n - num_outputs, n, dtype=np.int32),
    )
