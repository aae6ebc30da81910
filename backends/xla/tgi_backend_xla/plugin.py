"""The entry point: introduces the backend without importing torch."""

from __future__ import annotations

from tgi_backend_torch.plugin import accepts

from tgi_core.contract import BackendSpec, Probe, StepBackend
from tgi_core.plugin import hookimpl


def probe() -> Probe:
    """Looks for torch_xla; imports it."""
    from tgi_backend_xla.probe import probe_xla

    return probe_xla()


def create() -> StepBackend:
    """A backend with no model in it yet."""
    from tgi_backend_torch.shapes.backend import ShapedBackend
    from tgi_backend_torch.shapes.flat import FlatBackend

    from tgi_backend_xla.device import XlaDevice
    from tgi_backend_xla.runtime import TorchXla

    return ShapedBackend(FlatBackend(XlaDevice(TorchXla())))


@hookimpl
def tgi_backend() -> BackendSpec:
    """Before all that runs on the CPU, where there is a TPU or somebody asks for it."""
    return BackendSpec(
        name="xla",
        contract=(1, 0),
        probe=probe,
        accepts=accepts,
        create=create,
        priority=100,
        description="transformers models on TPUs, compiled by XLA",
    )
