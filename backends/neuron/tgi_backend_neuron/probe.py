"""Looks for Neuron cores. Never raises."""

from __future__ import annotations

from importlib.util import find_spec

from tgi_core.contract import Probe


def probe_cores() -> Probe:
    """The cores that this process may use, and optimum-neuron's version."""
    try:
        if find_spec("optimum.neuron") is None:
            return Probe(available=False, reason=_MISSING)
    except ImportError:
        # there is no `optimum` at all
        return Probe(available=False, reason=_MISSING)
    try:
        from tgi_backend_neuron import vendor

        cores, version = vendor.num_cores(), vendor.version()
    except Exception as error:  # whatever a broken driver or a missing library raises
        return Probe(available=False, reason=f"optimum-neuron cannot be used: {error}")
    if cores == 0:
        return Probe(
            available=False,
            reason="no Neuron core is visible: is there a /dev/neuron0, is it passed to the "
            "container (--device=/dev/neuron0), and what does NEURON_RT_VISIBLE_CORES say?",
        )
    return Probe(
        available=True,
        devices=tuple(f"neuron core {core}" for core in range(cores)),
        notes=(f"optimum-neuron {version}",),
    )


_MISSING = (
    'optimum-neuron is not installed: `pip install "tgi-core[neuron]"`, in AWS\'s Neuron image or '
    "with the packages of https://pip.repos.neuron.amazonaws.com."
)
