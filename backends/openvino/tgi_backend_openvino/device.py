"""What OpenVINO says about the devices of this machine."""

from __future__ import annotations

import logging
import os

import openvino as ov

from tgi_core.contract import DType, cpu_flags
from tgi_core.errors import UsageError

logger = logging.getLogger(__name__)

PRECISIONS = {DType.FLOAT32: "f32", DType.BFLOAT16: "bf16", DType.FLOAT16: "f16"}
"""What OpenVINO calls the types to compute in."""

_CAPABILITY = {DType.BFLOAT16: "BF16", DType.FLOAT16: "FP16"}


def choose_device(core: ov.Core, wanted: str | None) -> str:
    """The device to compile for: the CPU, or what was asked for.

    Raises:
        UsageError: there is no such device; says which there are.
    """
    available = core.available_devices
    device = (wanted or "CPU").upper()
    if device not in available:
        raise UsageError(
            f"OpenVINO finds no device {device} here; it finds {', '.join(available)}: leave out "
            "--device for the CPU."
        )
    return device


def choose_dtype(core: ov.Core, device: str, wanted: DType | None, weights: str) -> DType:
    """What to compute in.

    Without a wish: float32 for weights in float32, else bfloat16 where the device computes it. A
    wish for 16 bits that the device has no instructions for becomes float32, with a warning: what
    OpenVINO does instead of them took 20 to 40 times as long on a CPU with AVX-512.
    """
    if wanted is None:
        fast = computes(core, device, DType.BFLOAT16) and weights != "float32"
        return DType.BFLOAT16 if fast else DType.FLOAT32
    if computes(core, device, wanted):
        return wanted
    logger.warning(
        "this %s has no instructions for %s: the model computes in float32, which is more exact",
        device,
        wanted.value,
    )
    return DType.FLOAT32


def computes(core: ov.Core, device: str, dtype: DType) -> bool:
    """Whether the device has instructions for a type."""
    if dtype is DType.FLOAT32:
        return True
    return _CAPABILITY[dtype] in core.get_property(device, "OPTIMIZATION_CAPABILITIES")


def choose_threads(device: str, dtype: DType, wanted: int | None) -> int | None:
    """How many threads compute; None leaves it to OpenVINO.

    On a CPU with AMX, OpenVINO 2026.4 fuses gated MLPs in 16 bits, divides their columns among
    half as many pairs of threads as there are threads, and dies of a division by zero if there is
    one thread.
    """
    if device != "CPU" or dtype is DType.FLOAT32 or "amx_tile" not in cpu_flags():
        return wanted
    if (wanted or len(os.sched_getaffinity(0))) > 1:
        return wanted
    logger.warning("OpenVINO needs two threads for %s on a CPU with AMX", dtype.value)
    return 2
