"""The entry point: introduces the backend without importing torch."""

from __future__ import annotations

from tgi_backend_torch.plugin import accepts

from tgi_core.contract import BackendSpec, Probe, StepBackend
from tgi_core.errors import SetupError
from tgi_core.plugin import hookimpl


def probe() -> Probe:
    """Looks for an AMD GPU; imports torch and Triton."""
    from tgi_backend_rocm.probe import probe_rocm

    return probe_rocm()


def create() -> StepBackend:
    """A backend with no model in it yet."""
    from tgi_backend_cuda.device import GpuDevice
    from tgi_backend_cuda.driver import TorchDriver
    from tgi_backend_torch.on_device import SamplingRankedBackend

    from tgi_backend_rocm.chip import amd_chip

    chip = amd_chip()
    if chip is None:
        raise SetupError(probe().reason)
    return SamplingRankedBackend(GpuDevice("rocm", chip, TorchDriver()))


@hookimpl
def tgi_backend() -> BackendSpec:
    """Before all that runs on the CPU."""
    return BackendSpec(
        name="rocm",
        contract=(1, 0),
        probe=probe,
        accepts=accepts,
        create=create,
        priority=100,
        shards=True,
        description="transformers models on an AMD GPU",
        idle_variables=dict.fromkeys(
            (
                "ROCM_USE_CUSTOM_PAGED_ATTN",
                "ROCM_USE_FLASH_ATTN_V2_TRITON",
                "ROCM_USE_SKINNY_GEMM",
            ),
            "the backend has kernels of its own",
        ),
    )
