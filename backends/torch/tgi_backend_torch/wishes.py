"""What an operator may ask of the torch backends, and what becomes of it on a device."""

from __future__ import annotations

import torch

from tgi_backend_torch.checkpoint import Checkpoint
from tgi_backend_torch.device import Device
from tgi_backend_torch.sentences import embeds_only
from tgi_core.contract import DType, LoadRequest
from tgi_core.errors import DoesNotFit, UnsupportedModel, UsageError

_DTYPES = {
    DType.FLOAT32: torch.float32,
    DType.BFLOAT16: torch.bfloat16,
    DType.FLOAT16: torch.float16,
}


def refuse_unknown(request: LoadRequest, device: Device) -> None:
    """Refuses what these backends do not do.

    Raises:
        UsageError: naming the wish, and what to do instead.
    """
    device.configure(request.options)
    if request.device not in (None, device.name):
        raise UsageError(
            f"this backend runs on {device.name}, not on {request.device!r}: leave out "
            "--device, or choose another backend."
        )
    wanted = request.kv_cache_dtype
    if wanted is not None and wanted not in device.cache_dtypes:
        others = "".join(f", or in {name}" for name in device.cache_dtypes)
        raise UsageError(
            f"on {device.name} keys and values are kept in the dtype that is computed in{others}: "
            "leave out --kv-cache-dtype."
        )
    if request.num_threads is not None and request.num_threads < 1:
        raise UsageError(f"num_threads is {request.num_threads}; it must be at least 1.")


def refuse_shards(request: LoadRequest, size: int = 1) -> None:
    """Refuses any other number of ranks than there are.

    Raises:
        UsageError: with what to do.
    """
    if (request.num_shards or 1) != size:
        raise UsageError(
            f"{request.num_shards} devices were asked for, and this backend uses {size}: leave out "
            "--num-shard, or choose another backend."
        )


def refuse_embedders(request: LoadRequest) -> None:
    """Refuses models that write nothing.

    Raises:
        UnsupportedModel: with the backend that takes them.
    """
    if embeds_only(request.model.path):
        raise UnsupportedModel(
            f"{request.model.reference} only embeds texts: leave out --backend, or use "
            "--backend torch-encoder."
        )


def cache_dtype(request: LoadRequest, dtype: torch.dtype, device: Device) -> torch.dtype:
    """What keys and values are kept in, by a model that computes in `dtype`."""
    return device.cache_dtypes.get(request.kv_cache_dtype or "", dtype)


def choose_dtype(wanted: DType | None, checkpoint: Checkpoint, device: Device) -> torch.dtype:
    """What to compute in: the wish, or what suits the checkpoint and the device.

    Raises:
        UnsupportedModel: the device does not compute in it.
    """
    if wanted is None:
        return device.default_dtype(checkpoint.dtype)
    dtype = _DTYPES[wanted]
    refusal = device.refuses(dtype)
    if refusal:
        raise UnsupportedModel(f"{refusal}.")
    return dtype


def check_weights_fit(
    checkpoint: Checkpoint, dtype: torch.dtype, device: Device, size: int = 1
) -> None:
    """Compares the weights with the memory that is free, before they are read.

    Args:
        checkpoint: the weights.
        dtype: what they will be kept in.
        device: where.
        size: how many ranks share them.

    Raises:
        DoesNotFit: with what to do.
    """
    check_bytes_fit(
        sum(checkpoint.num_numbers.values()) * dtype.itemsize // size, str(dtype), device
    )


def check_bytes_fit(need: int, what: str, device: Device) -> None:
    """Compares what weights take with the memory that is free.

    Raises:
        DoesNotFit: with what to do.
    """
    free = device.free_bytes()
    if need > free:
        raise DoesNotFit(
            f"the weights take {need / 2**30:.1f} GiB in {what}, and {free / 2**30:.1f} GiB "
            "of memory are free: use --dtype bfloat16 if they are float32, --quantize, a smaller "
            "model, or a machine with more memory."
        )
