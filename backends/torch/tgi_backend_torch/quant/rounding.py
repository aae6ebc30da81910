"""Weights that are rounded when they are loaded: what `--quantize` makes of 16 or 32 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from tgi_backend_torch.quant.codebook import FP4, NF4, to_codebook
from tgi_backend_torch.quant.float8 import to_float8
from tgi_backend_torch.quant.int8 import to_int8
from tgi_backend_torch.quant.linear import (
    Divisible,
    FewBitsLinear,
    Room,
    few_bits_linears,
    rows_of,
)
from tgi_backend_torch.quant.parts import hold
from tgi_backend_torch.quant.stored import ReadLayer, Stored
from tgi_backend_torch.shards import Cuts
from tgi_core.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class Rounding:
    """One way to do it."""

    name: str
    bits: int
    make: Callable[..., Divisible]
    """From a weight, (outputs, inputs), and what is computed in."""

    def read(self, stored: Stored, dtype: torch.dtype) -> ReadLayer:
        """Rounds a layer's weight as it is in a file; see `Format.read`."""
        return ReadLayer(weight=self.make(stored.take("weight", *stored.shape), dtype=dtype))


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
    model: nn.Module, rounding: Rounding, head: nn.Module | None, dtype: torch.dtype, cuts: Cuts
) -> None:
    """Replaces each linear layer but the head, one at a time.

    Args:
        model: what the weights are in.
        rounding: what is made of them.
        head: stays as it is: it makes the logits, and is often the embedding too.
        dtype: what is computed in.
        cuts: what is kept of each weight.

    Raises:
        UnsupportedModel: most of the weights would stay as they are.
    """
    room = Room()
    for name, module in list(model.named_modules()):
        if type(module) not in (nn.Linear, Conv1D) or module is head:
            continue
        weight = rows_of(module)
        if weight.shape[1] % 2 == 0:
            layer = FewBitsLinear.of(module, room)
            read = ReadLayer(weight=rounding.make(weight, dtype=dtype))
            hold(layer, read, cuts.of_weight(name))
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, layer)
    rounded = sum(layer.weight.shape.numel() for _, layer in few_bits_linears(model))
    if rounded <= sum(each.numel() for each in model.parameters() if each.dim() > 2):
        raise UnsupportedModel(
            f"--quantize {rounding.name} rounds linear layers and experts that have tensors of "
            f"their own, and most weights of a {type(model).__name__} are elsewhere: leave "
            "--quantize out."
        )
