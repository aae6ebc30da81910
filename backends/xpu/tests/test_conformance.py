"""The conformance kit, with a CPU in the place of the GPU: all but the calls of torch.xpu."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tgi_backend_torch.on_device import SamplingRankedBackend
from tgi_backend_xpu import plugin
from tgi_backend_xpu.device import XpuDevice

from tests.plain_driver import OnCpu
from tests.transformers_conformance import TransformersConformance
from tgi_core.contract import BackendSpec


class OnOneCpu:
    """Satisfies `PluginModule`: the plugin, on a GPU that the CPU plays."""

    @staticmethod
    def tgi_backend() -> BackendSpec:
        return replace(
            plugin.tgi_backend(),
            create=lambda: SamplingRankedBackend(XpuDevice(OnCpu())),
        )


@pytest.mark.long
class TestXpu(TransformersConformance):
    module = OnOneCpu
