"""The StepBackend: the torch backend's in compiled shapes, on a Gaudi or several."""

from __future__ import annotations

from tgi_backend_torch.ranks import RankedBackend
from tgi_backend_torch.shapes.backend import ShapedBackend
from tgi_backend_torch.shapes.flat import FlatBackend

from tgi_backend_gaudi.device import HpuDevice


class GaudiBackend(ShapedBackend):
    """Satisfies `StepBackend`."""

    def __init__(self) -> None:
        super().__init__(RankedBackend(HpuDevice(), FlatBackend))
