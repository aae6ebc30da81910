"""The entry point: introduces the backend without importing torch."""

from __future__ import annotations

from tgi_backend_torch.plugin import accepts

from tgi_core.contract import BackendSpec, Probe, StepBackend
from tgi_core.plugin import hookimpl


def probe() -> Probe:
    """Looks for an Intel GPU; imports torch."""
    from tgi_backend_xpu.probe import probe_xpu

    return probe_xpu()


def create() -> StepBackend:
    """A backend with no model in it yet."""
    from tgi_backend_torch.on_device import SamplingRankedBackend

    from tgi_backend_xpu.device import XpuDevice
    from tgi_backend_xpu.driver import XpuDriver

    return SamplingRankedBackend(XpuDevice(XpuDriver()))


@hookimpl
def tgi_backend() -> BackendSpec:
    """Before all that runs on the CPU."""
    return BackendSpec(
        name="xpu",
        contract=(1, 0),
        probe=probe,
        accepts=accepts,
        create=create,
        priority=100,
        shards=True,
        description="transformers models on an Intel GPU",
        idle_variables={
            "XPU_MEMORY_FRACTION": "the cache takes nine tenths of what weights and the largest "
            "step leave; --cache-tokens sets it"
        },
    )
