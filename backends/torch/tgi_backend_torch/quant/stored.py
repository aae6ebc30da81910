"""What a checkpoint holds of one layer whose weight is quantized, and what a format makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from tgi_backend_torch.quant.linear import Divisible
from tgi_core.errors import BadModel


@dataclass(frozen=True, slots=True)
class Stored:
    """The tensors of one layer."""

    name: str
    """Of the layer."""
    shape: tuple[int, int]
    """(outputs, inputs) of its weight."""
    tensors: Mapping[str, Tensor]
    """By what their names have behind the layer's."""

    def take(self, suffix: str, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor that must be there.

        Args:
            suffix: its name.
            shape: what it must have; -1 is any size, and nothing any shape.
            dtype: what it must have; None is any.

        Raises:
            BadModel: it is absent or otherwise.
        """
        found = self.tensors.get(suffix)
        if found is None:
            raise BadModel(
                f"the weights lack {self.name}.{suffix}, without which it means nothing."
            )
        fits = len(found.shape) == len(shape) and all(
            wanted in (-1, size) for wanted, size in zip(shape, found.shape, strict=True)
        )
        if (shape and not fits) or dtype not in (None, found.dtype):
            raise BadModel(
                f"{self.name}.{suffix} is {found.dtype} {tuple(found.shape)}, and should be "
                f"{dtype or found.dtype} {shape or tuple(found.shape)} (-1: any size)."
            )
        return found

    def text(self, suffix: str) -> str:
        """What a tensor of bytes says; nothing in a plan, where tensors hold nothing."""
        found = self.take(suffix, -1, dtype=torch.uint8)
        if isinstance(found, FakeTensor):
            return ""
        return bytes(found.tolist()).decode(errors="replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLayer:
    """A weight that was read."""

    weight: Divisible
    order: Tensor | None = None
    """See `FewBitsLinear.order`."""


class Format(Protocol):
    """A way in which checkpoints hold weights in few bits."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def marks(self) -> tuple[str, ...]:
        """A layer is held so if there is a tensor of its name and one of these."""
        ...

    def read(self, stored: Stored, dtype: torch.dtype) -> ReadLayer:
        """A layer's weight, to be computed with in `dtype`. Looks at no number, only at shapes.

        Raises:
            BadModel: tensors are absent, or have the wrong shape.
        """
        ...


def order_of(stored: Stored, suffix: str, size: int, told: bool) -> Tensor | None:
    """Which input each column takes when the columns of a group lie side by side.

    Args:
        stored: the layer.
        suffix: of the tensor, (inputs,), that says which group each column is of.
        size: columns in a group.
        told: whether they are said to lie otherwise; this is all that a plan knows.

    Returns:
        int64 (inputs,); None if they lie so already.

    Raises:
        BadModel: groups are of other sizes.
    """
    inputs = stored.shape[1]
    if suffix not in stored.tensors and not told:
        return None
    groups = stored.take(suffix, inputs)
    order = groups.long().argsort(stable=True)
    if isinstance(groups, FakeTensor):
        return order if told else None
    own = torch.arange(inputs)
    if not torch.equal(groups[order].long(), own // size):
        raise BadModel(f"{stored.name}.{suffix} does not share columns out in groups of {size}.")
    return None if torch.equal(order, own) else order
