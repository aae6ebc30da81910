"""A simulated Habana PyTorch: tensors of the device "hpu" lie on the CPU, under a Gaudi's rules."""

from habana_frameworks.torch import core, hpu

__all__ = ["core", "hpu"]
