"""What a model will take: loads it, gives it a cache and runs a step, all with tensors that have
shapes but no memory. So it is the backend's own code that is measured, and no formula.
"""

from __future__ import annotations

from dataclasses import replace

from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig, PreTrainedModel

from tgi_backend_torch.device import CpuDevice, Device, DeviceOfRanks
from tgi_backend_torch.group import Unconnected
from tgi_backend_torch.loader import model_class, read_config, why_not_flat
from tgi_backend_torch.padded_rehearsal import rehearse_padded
from tgi_backend_torch.rehearsal import Rehearsed, rehearse_flat
from tgi_backend_torch.shards import Share, check_shards, connect_layers
from tgi_backend_torch.tally import Tally
from tgi_backend_torch.trial import learn_layers
from tgi_backend_torch.vision import make_causal
from tgi_backend_torch.weights import Weights
from tgi_backend_torch.wishes import refuse_unknown
from tgi_core.contract import DType, LoadRequest, MemoryPlan
from tgi_core.errors import SetupError, UnsupportedModel


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
    if size > 1:
        check_shards(cls, config, size)
    weights = Weights.find(request, device)
    if memory_bytes is None:
        memory_bytes = device.free_bytes()
    seen = _rehearse(cls, config, weights, request, device, memory_bytes)
    limits = seen.limits
    return MemoryPlan(
        device=limits.device,
        weights=weights.words,
        weights_bytes=seen.weights_bytes,
        cache_bytes=seen.cache_bytes,
        cell_bytes=seen.cell_bytes,
        step_bytes=seen.step_bytes,
        memory_bytes=memory_bytes,
        cache_tokens=limits.cache_tokens,
        max_rows=limits.max_rows,
        max_sequence_tokens=limits.max_sequence_tokens,
        max_step_tokens=limits.max_step_tokens,
        longest=seen.longest,
        cheaper=tuple(
            replace(request, dtype=wish)
            for wish in (DType.BFLOAT16,)
            if weights.dtype.itemsize > 2 and request.dtype is None
        ),
    )


def _rehearse(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    weights: Weights,
    request: LoadRequest,
    device: Device,
    memory_bytes: int,
) -> Rehearsed:
    """As `TorchBackend.load`."""
    size = request.num_shards or 1
    fault = why_not_flat(cls, config)
    # numbers that steer the model's own code, such as positions, are real
    with FakeTensorMode(allow_non_fake_inputs=True), Tally() as tally:
        model, cuts = weights.empty(cls, config, Share(0, size))
        # with a padding token some models look into their input for it
        model.config.pad_token_id = None
        if fault is None:
            device.prepare(model, model.dtype, exact=request.dtype is not None)
        connect_layers(model, cuts, Unconnected(size), 0)
        if fault is None:
            try:
                trial, logits = learn_layers(model)
            except UnsupportedModel as error:
                if size > 1:
                    raise
                fault = str(error)
                model.set_attn_implementation("eager")
            else:
                del logits
                return rehearse_flat(model, cuts, trial, request, device, memory_bytes, tally)
        try:
            return rehearse_padded(model, request, device, memory_bytes, tally)
        except UnsupportedModel as error:
            raise UnsupportedModel(_unplanned(cls, str(error))) from error
        except SetupError:
            raise
        except Exception as error:  # of code that asks for numbers, and whatever else it raises
            raise UnsupportedModel(_unplanned(cls, repr(error))) from error


def _unplanned(cls: type[PreTrainedModel], fault: str) -> str:
    return (
        f"{cls.__name__} cannot be planned without its weights ({fault.rstrip('.')}): serve it, "
        "and it says what does not fit."
    )
