"""Finds out whether there is an Intel GPU that can be used here. Loads no model."""

from __future__ import annotations

from typing import Any

from tgi_backend_torch.build import torch_version

from tgi_core.contract import Probe

INDEX = "https://download.pytorch.org/whl/xpu"


def probe_xpu() -> Probe:
    """Imports torch, unless it is not built for it, and asks for the GPU. Never raises."""
    try:
        version = torch_version()
        if version.xpu is not None:
            import torch
    except Exception as error:  # a broken installation can raise anything at import
        return _missing(f"torch cannot be imported ({error}): reinstall tgi-backend-xpu.")
    if version.xpu is None:
        return _missing(
            f"torch {version.__version__} is not built for Intel GPUs: pip install torch "
            f"--index-url {INDEX}"
        )
    xpu: Any = torch.xpu
    try:
        if not xpu.is_available():
            return _missing(
                "torch finds no Intel GPU: see whether sycl-ls does, and in a container whether it "
                "was started with --device=/dev/dri."
            )
        name, num = xpu.get_device_name(0), xpu.device_count()
    except Exception as error:  # a driver that does not fit raises in its own ways
        return _missing(f"the GPU cannot be asked ({error}): see whether its driver fits torch.")
    notes = [f"{name}, torch {torch.__version__}"]
    if num > 1:
        notes.append(f"of {num} devices --num-shard uses more than the first")
    return Probe(available=True, devices=("xpu",), notes=tuple(notes))


def _missing(reason: str) -> Probe:
    return Probe(available=False, reason=reason)
