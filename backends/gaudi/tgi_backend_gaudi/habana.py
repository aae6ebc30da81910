"""All calls to Habana's PyTorch and to Intel Neural Compressor. The only module with them.

Importing it imports torch and registers the device "hpu".
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import habana_frameworks.torch.core as htcore
import habana_frameworks.torch.hpu as hpu
import torch
from habana_frameworks.torch.utils.internal import is_lazy
from tgi_backend_torch.group import Group, connect_devices
from tgi_backend_torch.shapes.attention import FusedAttention
from torch import Tensor, nn

from tgi_core.errors import BackendUnavailable, BadModel, UsageError

DEVICE = torch.device("hpu")


def start() -> None:
    """Tells Habana's PyTorch that nothing is trained here; to be called before a model is made."""
    if hasattr(htcore, "hpu_inference_set_env"):
        htcore.hpu_inference_set_env()
    else:  # its name in releases before
        htcore.hpu_set_inference_env()


def records_graphs() -> bool:
    """Whether PT_HPU_LAZY_MODE=1 was set when this process began: only then can graphs be had."""
    return bool(is_lazy())


def num_devices() -> int:
    """HPUs that this process may use; HABANA_VISIBLE_DEVICES narrows them."""
    return int(hpu.device_count()) if hpu.is_available() else 0


def chip() -> str:
    """GAUDI, GAUDI2 or GAUDI3."""
    return str(hpu.get_device_name())


def free_bytes() -> int:
    """Memory of the device that nobody has."""
    free, _ = hpu.mem_get_info()
    return int(free)


def peak_bytes(run: Callable[[], object]) -> int:
    """What something takes at most while it runs."""
    synchronize()
    hpu.reset_peak_memory_stats()
    before = int(hpu.memory_allocated())
    run()
    synchronize()
    return max(0, int(hpu.max_memory_allocated()) - before)


def as_graphs(module: nn.Module) -> nn.Module:
    """A module that records a graph for each shapes of its inputs, and replays it from then on.

    A graph writes its output to the same place each time.
    """
    made: nn.Module = hpu.wrap_in_hpu_graph(module, disable_tensor_cache=True)
    return made


def rms_norm() -> Callable[[Tensor, Tensor, float], Tensor] | None:
    """(x, weight, epsilon) -> x, normalized by its last dimension; None if there is no such kernel.

    All of one dtype.
    """
    try:
        from habana_frameworks.torch.hpex.normalization import FusedRMSNorm
    except ImportError:
        return None
    kernel: Callable[[Tensor, Tensor, float], Tensor] = FusedRMSNorm.apply
    return kernel


def attention() -> FusedAttention | None:
    """Attention in one kernel, which holds no scores of a whole prompt; None if there is none."""
    try:
        from habana_frameworks.torch.hpex.kernels import FusedSDPA
    except ImportError:
        return None

    def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float) -> Tensor:
        # no dropout, not causal but by the mask, an exact softmax; prompts go over keys piece by
        # piece, and no row has a length that the mask does not tell
        recompute = query.shape[2] > 1
        out: Tensor = FusedSDPA.apply(
            query, keys, values, mask, 0.0, False, scaling, "None", recompute, None, "None"
        )
        return out

    return attend


def flush() -> None:
    """Starts what was collected since the last time, and does not wait for it."""
    htcore.mark_step()


def synchronize() -> None:
    """Waits for all that was started."""
    flush()
    hpu.synchronize()


def connect(meeting_point: Path, rank: int, size: int) -> Group:
    """Connects the Gaudis of all ranks, by HCCL; see `connect_devices`."""
    from habana_frameworks.torch.distributed.hccl import initialize_distributed_hpu

    initialize_distributed_hpu(size, rank, rank)
    # with lazy collectives the bridge wants what was collected before each of them to be started:
    # so vLLM does for Gaudi (hpu_communicator.py)
    return connect_devices(meeting_point, rank, size, "hccl", DEVICE, flush)


class Fp8:
    """What a configuration of Intel Neural Compressor does to a model: measures or quantizes it."""

    def __init__(self, config: Path) -> None:
        """Reads it.

        Raises:
            BackendUnavailable: Intel Neural Compressor is not installed.
            UsageError: the file is no configuration.
        """
        try:
            from neural_compressor.torch import quantization
        except ImportError as error:
            raise BackendUnavailable(
                f"quant_config needs Intel Neural Compressor ({error}): "
                'pip install "tgi-backend-gaudi[fp8]".'
            ) from error
        self._quantization: Any = quantization
        try:
            self._config: Any = quantization.FP8Config.from_json_file(str(config))
        except Exception as error:  # whatever the parser raises
            raise UsageError(f"{config} is no configuration for FP8 ({error}).") from error
        self._measured: nn.Module | None = None

    def apply(self, model: nn.Module) -> None:
        """Changes the model's layers in place.

        Raises:
            BadModel: there are no measurements for it.
        """
        try:
            if self._config.measure:
                self._measured = self._quantization.prepare(model, self._config)
            else:
                self._quantization.convert(model, self._config)
        except Exception as error:  # there is no class for what measurements lack
            raise BadModel(
                f"the model cannot be quantized ({error}): measure it first, with a quant_config "
                'whose mode is "MEASURE" and some requests.'
            ) from error

    def close(self) -> None:
        """Writes what was measured."""
        if self._measured is not None:
            self._quantization.finalize_calibration(self._measured)
            self._measured = None
