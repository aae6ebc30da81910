"""Finds out whether there is a GPU that can be used here. Loads no model."""

from __future__ import annotations

from tgi_backend_torch.build import torch_version

from tgi_core.contract import Probe

_OLDEST = (7, 0)
"""Triton compiles for nothing older."""


def probe_cuda() -> Probe:
    """Asks for the GPU; imports torch only if it is built for one. Never raises."""
    try:
        version = torch_version()
        if version.cuda is not None:
            import torch
    except Exception as error:  # a broken installation can raise anything at import
        return _missing(f"torch cannot be imported ({error}): reinstall tgi-backend-cuda.")
    if version.cuda is None:
        return _missing(
            f"torch {version.__version__} is not built for CUDA: install the package index's own "
            "build (pip install torch)."
        )
    try:
        if not torch.cuda.is_available():
            return _missing(
                "torch finds no NVIDIA GPU: see whether nvidia-smi does, and in a container "
                "whether it was started with --gpus all."
            )
        capability = torch.cuda.get_device_capability(0)
        name = torch.cuda.get_device_name(0)
    except Exception as error:  # a driver that does not fit raises in its own ways
        return _missing(f"the GPU cannot be asked ({error}): see whether its driver fits torch.")
    if capability < _OLDEST:
        return _missing(
            f"{name} has compute capability {capability[0]}.{capability[1]}; the kernels need "
            f"{_OLDEST[0]}.{_OLDEST[1]}."
        )
    try:
        import triton

        from tgi_backend_cuda import launch  # noqa: F401
    except Exception as error:
        return _missing(f"Triton cannot be used ({error}): pip install triton.")
    notes = [f"{name}, torch {torch.__version__}, Triton {triton.__version__}"]
    if torch.cuda.device_count() > 1:
        notes.append(f"of {torch.cuda.device_count()} GPUs --num-shard uses more than the first")
    return Probe(available=True, devices=("cuda",), notes=tuple(notes))


def _missing(reason: str) -> Probe:
    return Probe(available=False, reason=reason)
