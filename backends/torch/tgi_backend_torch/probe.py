"""Finds out whether torch and transformers can be used here. Loads no model."""

from __future__ import annotations

from tgi_core.contract import Probe


def probe_cpu() -> Probe:
    """Imports the libraries and asks the CPU how it computes bfloat16. Never raises."""
    try:
        import torch
        import transformers

        from tgi_backend_torch.linear import computes_bfloat16
    except Exception as error:  # a broken installation can raise anything at import
        return Probe(
            available=False,
            reason=f"torch or transformers cannot be imported ({error}): "
            "reinstall tgi-backend-torch.",
        )
    notes = [f"torch {torch.__version__}, transformers {transformers.__version__}"]
    if not computes_bfloat16():
        notes.append(
            "this CPU has no bfloat16 instructions: bfloat16 checkpoints run in float32 "
            "unless --dtype bfloat16 asks for less memory at less speed"
        )
    return Probe(available=True, devices=("cpu",), notes=tuple(notes))
