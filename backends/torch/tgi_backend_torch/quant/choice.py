"""Gives weights in few bits to a device's kernels, where a trial shows that they compute the same.

For device packages. A kernel is judged by the layer's own weight: it must give what unpacking
gives, for one row, some and many. One that is missing, fails or differs is told of, and left out.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from tgi_backend_torch.quant.linear import FewBits, FewBitsLinear, few_bits_linears
from tgi_backend_torch.replaced import is_alike

logger = logging.getLogger(__name__)

_ROWS = (1, 16, 200)
"""Kernels compute one row, some, and many, in ways of their own."""


class Kernel(Protocol):
    """What multiplies with weights that lie as it wants them."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def ordered(self, weight: FewBits) -> FewBits | None:
        """The same weight for it, on its device; None if it takes no such. May raise anything."""
        ...


def choose(model: nn.Module, dtype: torch.dtype, kernels: Sequence[Kernel]) -> None:
    """Rearranges weights, in place, for the first kernel each that computes the same.

    Raises:
        OutOfMemoryError: the device has no room for two of a layer's weights.
    """
    left = list(kernels)
    counts: Counter[str] = Counter()
    for name, layer in few_bits_linears(model):
        chosen = "unpacked"
        for kernel in tuple(left):
            try:
                found = _tried(kernel, layer, dtype)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # a library raises whatever it likes
                logger.warning("%s is not used from %s on: %s", kernel.name, name, error)
                left.remove(kernel)
                continue
            if found is not None:
                layer.held, chosen = found, kernel.name
                break
        counts[chosen] += 1
    if counts:
        told = ", ".join(f"{name} {count}" for name, count in counts.items())
        logger.info("layers in few bits: %s", told)


@torch.no_grad()
def _tried(kernel: Kernel, layer: FewBitsLinear, dtype: torch.dtype) -> FewBits | None:
    held = layer.held
    assert held is not None, "weights are read before kernels are chosen"
    if isinstance(held.tensors[0], FakeTensor):
        return None  # in a plan, which counts what was read: kernels keep as many bytes
    found = kernel.ordered(held)
    if found is None:
        return None
    device = held.tensors[0].device
    draw = torch.Generator(device).manual_seed(1)
    x = torch.randn(max(_ROWS), layer.in_features, generator=draw, device=device, dtype=dtype)
    expected = held.product(x, layer.room)
    for rows in _ROWS:
        if not is_alike(found.product(x[:rows], layer.room), expected[:rows]):
            raise ValueError(f"with {rows} rows it does not compute what the weight stands for")
    return found
