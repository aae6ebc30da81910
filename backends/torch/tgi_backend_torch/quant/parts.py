"""A layer in few bits becomes what is held of it here: all of it, or the part that one rank has."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tgi_backend_torch.pieces import Pieces
from tgi_backend_torch.quant.grouped import GroupedWeight
from tgi_backend_torch.quant.linear import FewBitsLinear
from tgi_backend_torch.quant.scattered import scattered
from tgi_backend_torch.quant.stored import ReadLayer


def hold(layer: FewBitsLinear, read: ReadLayer, piece: Pieces | None) -> None:
    """Gives a layer its weight.

    Args:
        layer: has none yet.
        read: all of its weight.
        piece: what is held of it; None: all.

    Raises:
        UnsupportedModel: see `Divisible.inputs`.
    """
    weight: Any = read.weight
    order = read.order
    if piece is not None and piece.dim == 0:
        weight = weight.outputs(torch.cat([torch.arange(*part) for part in piece.ranges]))
    elif piece is not None:
        [(begin, end)] = piece.ranges
        if order is None:
            weight = weight.inputs(begin, end)
        else:
            # only columns in groups have an order
            assert isinstance(weight, GroupedWeight)
            places = order.argsort()[begin:end].sort().values
            weight, order = scattered(weight, places), order[places] - begin
    layer.hold(weight, order)


def move(layer: FewBitsLinear, device: torch.device) -> None:
    """Brings what a layer holds to a device."""
    assert layer.held is not None
    layer.hold(_moved(layer.held, device), None if layer.order is None else layer.order.to(device))


def _moved(weight: Any, device: torch.device) -> Any:
    """The same on a device."""
    there: dict[str, Any] = {}
    for field in fields(weight):
        value = getattr(weight, field.name)
        if isinstance(value, Tensor):
            there[field.name] = value.to(device)
        elif is_dataclass(value):
            there[field.name] = _moved(value, device)
    return replace(weight, **there)
