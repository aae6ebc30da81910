"""The StepBackend: the torch backend's in compiled shapes, on a Gaudi or several."""

from __future__ import annotations

from tgi_backend_torch.ranks import RankedBackend
from tgi_backend_torch.shapes.backend import ShapedBackend
from tgi_backend_torch.shapes.flat import FlatBackend

from tgi_backend_gaudi.device import HpuDevice


class GaudiBackend(ShapedBackend):
    """Satisfies `StepBackend`."""

    def __init__(self) -> None:
        self._device = HpuDevice()
        super().__init__(RankedBackend(self._device, FlatBackend))

    def close(self) -> None:
        """Writes what was measured, and drops model and cache."""
        self._device.close()
        super().close()
