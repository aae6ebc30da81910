"""Finds out whether torch_xla is here, and for which device it compiles. Loads no model."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

from tgi_core.contract import Probe


def probe_xla() -> Probe:
    """Imports torch_xla and asks for its device. Never raises."""
    if find_spec("torch_xla") is None:
        return _missing(
            "torch_xla is not installed: pip install torch==2.9.0 'torch_xla[tpu]==2.9.0', in an "
            "environment of its own."
        )
    is_named = _is_device_named()
    try:
        import torch

        from tgi_backend_xla.runtime import TorchXla

        runtime = TorchXla()
        kind, num = runtime.kind, runtime.num_devices
    except Exception as error:  # a torch of another release, or a busy TPU: it raises what it likes
        return _missing(
            f"torch_xla cannot be used ({error}): it needs the torch of its own version, a TPU "
            "that no other process holds, and PJRT_DEVICE unset, TPU or CPU."
        )
    notes = [f"compiles for {kind}, torch {torch.__version__}"]
    if num > 1:
        notes.append(f"of {num} devices the first is used")
    return describe(kind, tuple(notes), is_named=is_named)


@cache
def _is_device_named() -> bool:
    """Whether PJRT_DEVICE was set when it was asked first: torch_xla sets it to what it finds."""
    return bool(os.environ.get("PJRT_DEVICE"))


def describe(kind: str, notes: tuple[str, ...], *, is_named: bool) -> Probe:
    """What there is to say of a device; nothing is compiled for a CPU unless somebody named it."""
    unasked = kind == "CPU" and not is_named
    reason = (
        "torch_xla finds no TPU, and others are faster on a CPU: --backend xla or PJRT_DEVICE=CPU "
        "compiles for it all the same."
    )
    return Probe(
        available=True,
        devices=(f"xla:{kind.lower()}",),
        notes=notes,
        by_name_only=unasked,
        reason=reason if unasked else "",
    )


def _missing(reason: str) -> Probe:
    return Probe(available=False, reason=reason)
