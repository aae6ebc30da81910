"""The xpu backend with a CPU in the GPU's place: all of it but the calls of torch.xpu.

Where this folder is on the path it is installed as `xpu-on-cpu`, beside the real one, so that a
server can be started with it.
"""

from __future__ import annotations

from dataclasses import replace

from tgi_backend_xpu import plugin

from tgi_core.contract import BackendSpec, Probe, StepBackend
from tgi_core.plugin import hookimpl


def probe() -> Probe:
    return Probe(available=True, devices=("xpu",), by_name_only=True, reason="for tests")


def create() -> StepBackend:
    from tgi_backend_torch.on_device import SamplingRankedBackend
    from tgi_backend_xpu.device import XpuDevice

    from tests.plain_driver import MIB, OnCpu

    driver = OnCpu()
    driver.free = 4096 * MIB
    return SamplingRankedBackend(XpuDevice(driver))


@hookimpl
def tgi_backend() -> BackendSpec:
    return replace(plugin.tgi_backend(), name="xpu-on-cpu", probe=probe, create=create)
