"""What a model will take: loads it, gives it a cache and runs a step, all with tensors that have
shapes but no memory. So it is the backend's own code that is measured, and no formula.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch._subclasses.fake_tensor import FakeTensorMode

from tgi_backend_torch.cache import BLOCK_TOKENS
from tgi_backend_torch.device import CpuDevice, DeviceOfRanks
from tgi_backend_torch.group import Unconnected
from tgi_backend_torch.loader import (
    longest_sequence,
    model_class,
    read_config,
    why_not_flat,
)
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.shards import Share, connect_layers
from tgi_backend_torch.tally import Tally
from tgi_backend_torch.trial import learn_layers
from tgi_backend_torch.vision import make_causal
from tgi_backend_torch.weights import Weights
from tgi_backend_torch.wishes import cache_dtype, refuse_unknown
from tgi_core.contract import Capabilities, DType, LoadRequest, MemoryPlan, Step, plan_sizes
from tgi_core.errors import UnsupportedModel


def plan_model(
    request: LoadRequest, memory_bytes: int | None, on: DeviceOfRanks | None = None
) -> MemoryPlan:
    """Plans a model; see `Planner`.

    Args:
        request: what would be loaded.
        memory_bytes: free memory of the machine to plan for, for each rank; None: the device's.
        on: where it would run; None: the CPU.
    """
    size = request.num_shards or 1
    device = (on or CpuDevice()).of_rank(0, size)
    refuse_unknown(request, device)
    config = read_config(request.model.path)
    make_causal(config)
    cls = model_class(config)
    fault = why_not_flat(cls, config)
    if fault is not None:
        raise UnsupportedModel(_unplanned(fault))
    weights = Weights.find(request, device)
    dtype = weights.dtype
    if memory_bytes is None:
        memory_bytes = device.free_bytes()
    # numbers that steer the model's own code, such as positions, are real
    with FakeTensorMode(allow_non_fake_inputs=True), Tally() as tally:
        model, cuts = weights.empty(cls, config, Share(0, size))
        # with a padding token some models look into their input for it
        model.config.pad_token_id = None
        connect_layers(model, cuts, Unconnected(size), 0)
        device.prepare(model, dtype)
        try:
            trial, logits = learn_layers(model)
        except UnsupportedModel as error:
            raise UnsupportedModel(_unplanned(str(error))) from error
        del logits
        # with what layers of few bits unpack into since they ran
        weights_bytes = tally.live_bytes
        longest = longest_sequence(config, windowed=trial.windowed)
        cell_bytes = trial.cell_numbers * cache_dtype(request, dtype, device).itemsize
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
        step_bytes = tally.peak_bytes - cached_bytes
    return MemoryPlan(
        device=limits.device,
        weights=weights.words,
        weights_bytes=weights_bytes,
        cache_bytes=cached_bytes - weights_bytes,
        cell_bytes=cell_bytes,
        step_bytes=step_bytes,
        memory_bytes=memory_bytes,
        cache_tokens=limits.cache_tokens,
        max_rows=limits.max_rows,
        max_sequence_tokens=limits.max_sequence_tokens,
        max_step_tokens=limits.max_step_tokens,
        longest=longest,
        cheaper=tuple(
            replace(request, dtype=wish)
            for wish in (DType.BFLOAT16,)
            if dtype.itemsize > 2 and request.dtype is None
        ),
    )


def largest_step(limits: Capabilities) -> tuple[Step | None, Step]:
    """A chunk of a prompt, at the end of the longest sequence, with logits for as many tokens as
    there are rows; and before it a step that computes all that comes first, if anything does.
    """
    n = min(limits.max_step_tokens, limits.max_sequence_tokens)
    past = limits.max_sequence_tokens - n
    outputs = min(limits.max_rows, n)
    return _step(0, past, 0) if past else None, _step(past, n, outputs)


def _unplanned(fault: str) -> str:
    return (
        f"{fault.rstrip('.')}. What does not run in flat batches cannot be planned: serve it, and "
        "it says what does not fit."
    )


def _step(past: int, n: int, num_outputs: int) -> Step:
    return Step(
        seq=np.zeros(1, np.int32),
        past=np.array([past], np.int32),
        n=np.array([n], np.int32),
        tokens=np.zeros(n, np.int32),
        out=np.arange(n - num_outputs, n, dtype=np.int32),
    )
