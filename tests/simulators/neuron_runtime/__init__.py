"""A double of what optimum-neuron stands on, so that its own code runs without a device.

`install` makes neuronx_distributed, torch_neuronx, neuronxcc, libneuronxla and torch_xla
importable, as far as optimum-neuron 0.4.5 imports them for text generation. One core; no NKI
kernel.
"""

from tests.simulators.neuron_runtime.install import install

__all__ = ["install"]
