"""Says whether llama.cpp can run here, without loading a model."""

from __future__ import annotations

from tgi_backend_llamacpp.amx import buffer_choice
from tgi_core.contract import Probe


def probe() -> Probe:
    """Imports llama.cpp and, on a CPU with AMX, tries a tiny model in a child process."""
    try:
        import llama_cpp.llama_cpp as llama
    except (ImportError, OSError, RuntimeError) as error:
        return Probe(
            available=False,
            reason=f"llama-cpp-python cannot be imported ({error}); install it again with pip.",
        )
    buffers = buffer_choice()
    if not buffers.usable:
        return Probe(available=False, reason=buffers.note)
    devices = ("cpu", "gpu") if llama.llama_supports_gpu_offload() else ("cpu",)
    return Probe(available=True, devices=devices, notes=(buffers.note,) if buffers.note else ())
