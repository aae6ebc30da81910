"""The entry point: introduces the backend without importing torch."""

from __future__ import annotations

from tgi_backend_torch.plugin import accepts

from tgi_backend_gaudi import variables
from tgi_core.contract import BackendSpec, Probe, StepBackend
from tgi_core.plugin import hookimpl


def probe() -> Probe:
    """Looks for a Gaudi; imports torch."""
    from tgi_backend_gaudi.probe import probe_gaudi

    return probe_gaudi()


def create() -> StepBackend:
    """A backend with no model in it yet."""
    from tgi_backend_gaudi.backend import GaudiBackend

    return GaudiBackend()


@hookimpl
def tgi_backend() -> BackendSpec:
    """Before all that runs on the CPU."""
    return BackendSpec(
        name="gaudi",
        contract=(1, 0),
        probe=probe,
        accepts=accepts,
        create=create,
        priority=100,
        shards=True,
        description="transformers models on Intel Gaudi",
        variables=variables.OPTIONS,
        idle_variables=variables.IDLE,
    )
