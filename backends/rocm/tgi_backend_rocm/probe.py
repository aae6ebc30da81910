"""Finds out whether there is an AMD GPU that can be used here. Loads no model."""

from __future__ import annotations

from tgi_backend_torch.build import torch_version

from tgi_core.contract import Probe


def probe_rocm() -> Probe:
    """Asks for the GPU; imports torch only if it is built for one. Never raises."""
    try:
        version = torch_version()
        if version.hip is not None:
            import torch

            from tgi_backend_rocm.chip import amd_chip, known
    except Exception as error:  # a broken installation can raise anything at import
        return _missing(f"torch cannot be imported ({error}): reinstall tgi-backend-rocm.")
    if version.hip is None:
        return _missing(
            f"torch {version.__version__} is not built for ROCm: install it from "
            "https://download.pytorch.org/whl/rocm6.4, or use the image rocm/pytorch."
        )
    try:
        if not torch.cuda.is_available():
            return _missing(
                "torch finds no AMD GPU: see whether rocm-smi does, and in a container whether "
                "it was started with --device=/dev/kfd --device=/dev/dri --group-add video."
            )
        chip = amd_chip()
        arch = torch.cuda.get_device_properties(0).gcnArchName
    except Exception as error:  # a driver that does not fit raises in its own ways
        return _missing(f"the GPU cannot be asked ({error}): see whether its driver fits torch.")
    if chip is None:
        return _missing(f"nobody has looked at {arch} yet; known are {', '.join(known())}.")
    try:
        import triton
        from tgi_backend_cuda import launch  # noqa: F401
    except Exception as error:
        return _missing(f"Triton cannot be used ({error}): pip install pytorch-triton-rocm.")
    notes = [f"{chip.name} ({arch}), torch {torch.__version__}, Triton {triton.__version__}"]
    return Probe(available=True, devices=("rocm",), notes=tuple(notes))


def _missing(reason: str) -> Probe:
    return Probe(available=False, reason=reason)
