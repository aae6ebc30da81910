"""Finds out whether there is a Gaudi that can be used here. Loads no model."""

from __future__ import annotations

from importlib.util import find_spec

from tgi_core.contract import Probe


def probe_gaudi() -> Probe:
    """Imports Habana's PyTorch and asks for devices. Never raises."""
    if find_spec("habana_frameworks") is None:
        return _missing(
            "Habana's PyTorch is not installed: use Intel's image, "
            "vault.habana.ai/gaudi-docker/1.24.0/ubuntu24.04/habanalabs/pytorch-installer-2.10.0."
        )
    try:
        from tgi_backend_gaudi import habana

        num = habana.num_devices()
        chip = habana.chip() if num else ""
    except Exception as error:  # a broken installation or driver raises what it likes
        return _missing(f"Habana's PyTorch cannot be used ({error}): see whether hl-smi works.")
    if not num:
        return _missing(
            "no Gaudi is visible: see whether hl-smi shows one, and in a container whether it was "
            "started with --runtime=habana and HABANA_VISIBLE_DEVICES."
        )
    notes = [chip]
    if num > 1:
        notes.append(f"of {num} devices --num-shard uses more than the first")
    return Probe(available=True, devices=("hpu",), notes=tuple(notes))


def _missing(reason: str) -> Probe:
    return Probe(available=False, reason=reason)
