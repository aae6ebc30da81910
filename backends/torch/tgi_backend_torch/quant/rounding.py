"""Weights that are rounded when they are loaded: what `--quantize` makes of 16 or 32 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import nn

from tgi_backend_torch.quant.codebook import FP4, NF4, to_codebook
from tgi_backend_torch.quant.float8 import to_float8
from tgi_backend_torch.quant.int8 import to_int8
from tgi_backend_torch.quant.linear import FewBits, FewBitsLinear, Room
from tgi_core.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Rounding:
    """One way to do it."""

    name: str
    bits: int
    make: Callable[..., FewBits]
    """From a weight, (outputs, inputs), and what is computed in."""


ROUNDINGS: Mapping[str, Rounding] = MappingProxyType(
    {
        rounding.name: rounding
        for rounding in (
            Rounding("int8", 8, to_int8),
            Rounding("eetq", 8, to_int8),
            Rounding("bitsandbytes", 8, to_int8),
            Rounding("bitsandbytes-nf4", 4, partial(to_codebook, table=NF4)),
            Rounding("bitsandbytes-fp4", 4, partial(to_codebook, table=FP4)),
            Rounding("fp8", 8, to_float8),
        )
    }
)
"""By what `--quantize` calls it."""


def round_linears(
    model: nn.Module, rounding: Rounding, head: nn.Module | None, dtype: torch.dtype
) -> None:
    """Replaces each linear layer but the head, one at a time.

    Args:
        model: what the weights are in.
        rounding: what is made of them.
        head: stays as it is: it makes the logits, and is often the embedding too.
        dtype: what is computed in.

    Raises:
        UnsupportedModel: most of the weights would stay as they are.
    """
    room = Room()
    rounded = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not head and child.in_features % 2 == 0:
                layer = FewBitsLinear(child, room)
                layer.held = rounding.make(child.weight.detach(), dtype=dtype)
                setattr(parent, name, layer)
                rounded += child.weight.numel()
    if rounded <= sum(each.numel() for each in model.parameters() if each.dim() > 2):
        raise UnsupportedModel(
            f"--quantize {rounding.name} rounds plain linear layers, and most weights of a "
            f"{type(model).__name__} are elsewhere, such as in experts: leave --quantize out."
        )
