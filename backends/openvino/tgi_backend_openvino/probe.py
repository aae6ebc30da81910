"""Finds out whether OpenVINO can be used here. Loads no model."""

from __future__ import annotations

from tgi_core.contract import DType, Probe


def probe_devices() -> Probe:
    """Imports OpenVINO and asks for its devices. Never raises."""
    try:
        import openvino as ov

        from tgi_backend_openvino.device import computes

        core = ov.Core()
        devices = tuple(core.available_devices)
        notes = [f"openvino {ov.get_version()}"]
        if "CPU" in devices and not computes(core, "CPU", DType.BFLOAT16):
            notes.append("this CPU has no bfloat16 instructions: models run in float32")
    except Exception as error:  # a broken installation can raise anything at import
        return Probe(
            available=False,
            reason=f"openvino cannot be imported ({error}): reinstall tgi-backend-openvino.",
        )
    if not devices:
        return Probe(available=False, reason="OpenVINO finds no device on this machine.")
    return Probe(available=True, devices=devices, notes=tuple(notes))
