"""The entry point: introduces the backend without importing torch."""

from __future__ import annotations

from tgi_backend_torch.plugin import accepts

from tgi_core.contract import BackendSpec, Probe, StepBackend
from tgi_core.plugin import hookimpl


def probe() -> Probe:
    """Looks for an NVIDIA GPU; imports torch and Triton."""
    from tgi_backend_cuda.probe import probe_cuda

    return probe_cuda()


def create() -> StepBackend:
    """A backend with no model in it yet."""
    from tgi_backend_torch.on_device import SamplingRankedBackend

    from tgi_backend_cuda.chip import nvidia_chip
    from tgi_backend_cuda.device import GpuDevice
    from tgi_backend_cuda.driver import TorchDriver

    return SamplingRankedBackend(GpuDevice("cuda", nvidia_chip(), TorchDriver()))


@hookimpl
def tgi_backend() -> BackendSpec:
    """Before all that runs on the CPU."""
    return BackendSpec(
        name="cuda",
        contract=(1, 0),
        probe=probe,
        accepts=accepts,
        create=create,
        priority=100,
        shards=True,
        description="transformers models on an NVIDIA GPU",
    )
