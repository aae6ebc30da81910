"""Introduces the llamacpp backend; imports llama.cpp only when it is used."""

from __future__ import annotations

from tgi_core.contract import (
    BackendSpec,
    LoadRequest,
    MemoryPlan,
    ModelFiles,
    ModelFormat,
    Probe,
    StepBackend,
    Verdict,
)
from tgi_core.plugin import hookimpl


@hookimpl
def tgi_backend() -> BackendSpec:
    """The backend for GGUF files, on the CPU or what else llama.cpp was built for."""
    return BackendSpec(
        name="llamacpp",
        contract=(1, 0),
        probe=_probe,
        accepts=_accepts,
        create=_create,
        description="GGUF models through llama.cpp, without torch",
        plan=_plan,
    )


def _accepts(files: ModelFiles) -> Verdict:
    if files.format is ModelFormat.GGUF:
        return Verdict(True)
    return Verdict(False, "llamacpp serves GGUF files only")


def _probe() -> Probe:
    from tgi_backend_llamacpp.probe import probe

    return probe()


def _create() -> StepBackend:
    from tgi_backend_llamacpp.backend import LlamaCppBackend

    return LlamaCppBackend()


def _plan(request: LoadRequest, memory_bytes: int | None) -> MemoryPlan:
    from tgi_backend_llamacpp.plan import plan_model

    return plan_model(request, memory_bytes)
