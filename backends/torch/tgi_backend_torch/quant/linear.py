"""A linear layer whose weight is kept in few bits. Knows no format of files.

Many rows are multiplied with a slab of the weight at a time, which is unpacked into memory that all
layers share: what was never touched costs a page fault every 4 KiB, which is more than unpacking,
and a slab is still in the CPU's cache when it is multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from tgi_core.errors import UnsupportedModel

SLAB_NUMBERS = 1 << 21
"""Of a weight that are unpacked at once: 4 MiB in bfloat16."""
_DEVICE_SLAB_NUMBERS = 1 << 26
"""The same where there is no such cache, and a launch takes longer than a slab of 4 MiB."""


class FewBits(Protocol):
    """A weight in few bits, on the device where it is multiplied."""

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        ...

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it keeps."""
        ...

    def product(self, x: Tensor, room: Room) -> Tensor:
        """(rows, inputs) -> (rows, outputs); `room` is for what is unpacked."""
        ...


class InSlabs(FewBits, Protocol):
    """A weight that can be unpacked, some outputs at a time; see `by_slabs`."""

    @property
    def grain(self) -> int:
        """Slabs begin at multiples of so many outputs."""
        ...

    def rows(self, begin: int, end: int, room: Tensor) -> Tensor:
        """A slab, unpacked.

        Args:
            begin: first output.
            end: one behind the last.
            room: (numbers,) in the dtype that is computed in: at least as many as the slab has.

        Returns:
            (end - begin, inputs), a view into `room` however it lies there.
        """
        ...


class Divisible(InSlabs, Protocol):
    """A weight as it was read or made, before a kernel has it arranged. Parts are copies."""

    def outputs(self, rows: Tensor) -> Divisible:
        """Some of its rows, int64 (n,), in this order."""
        ...

    def inputs(self, begin: int, end: int) -> Divisible:
        """Some of its columns, with the same numbers as in the whole.

        Raises:
            UnsupportedModel: a byte would be cut in two.
        """
        ...


class Room:
    """Memory to unpack slabs into. One is shared by the layers of a model: they run in turn."""

    def __init__(self) -> None:
        self._buffer: Tensor | None = None

    def of(self, numbers: int, like: Tensor) -> Tensor:
        """At least so many numbers in the dtype and on the device of another tensor."""
        held = self._buffer
        if (
            held is None
            or held.numel() < numbers
            or (held.dtype, held.device) != (like.dtype, like.device)
        ):
            held = self._buffer = like.new_empty(numbers)
        return held


@dataclass(frozen=True, slots=True)
class Outline:
    """What models ask of a layer's weight, if they do not multiply with it themselves."""

    shape: torch.Size
    dtype: torch.dtype
    _is_hf_initialized: ClassVar[bool] = True
    """transformers' word for weights that it need not draw at random."""

    @classmethod
    def __torch_function__(cls, *call: Any, **more: Any) -> NoReturn:
        """Called by torch when it is to compute with it."""
        raise UnsupportedModel(
            "this model multiplies with the weights of some layers by itself, so that these must "
            "not be quantized: leave --quantize out, or serve the unquantized model"
        )


def rows_of(module: nn.Linear | Conv1D) -> Tensor:
    """A layer's weight as (outputs, inputs); GPT-2's layers have theirs the other way around."""
    weight = module.weight.detach()
    return weight.t() if isinstance(module, Conv1D) else weight


class FewBitsLinear(nn.Module):
    """Computes x @ weight.T + bias in the dtype of x, without gradients."""

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: torch.dtype,
        room: Room,
        bias: nn.Parameter | None = None,
    ) -> None:
        """Has no weight until it is given one.

        Args:
            shape: (outputs, inputs).
            dtype: what is computed in.
            room: to unpack into.
            bias: (outputs,).
        """
        super().__init__()
        self.out_features, self.in_features = shape
        self.register_parameter("bias", bias)
        # no tensor: one without numbers takes part in some products, and makes zeros of them
        self.weight = Outline(torch.Size(shape), dtype)
        self.held: FewBits | None = None
        self.order: Tensor | None = None
        """int64 (inputs,): which input each column of the weight takes; None: its own."""
        self.room = room

    @classmethod
    def of(cls, module: nn.Linear | Conv1D, room: Room) -> FewBitsLinear:
        """Takes the place of a layer, with its bias."""
        outputs, inputs = rows_of(module).shape
        return cls((outputs, inputs), module.weight.dtype, room, module.bias)

    def hold(self, weight: FewBits, order: Tensor | None) -> None:
        """Gives it its weight, or the part of it that one rank has."""
        self.held, self.order = weight, order
        self.out_features, self.in_features = weight.shape
        self.weight = Outline(torch.Size(weight.shape), self.weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) -> (..., outputs)."""
        held = self.held
        assert held is not None, "the weight is read before anything is computed"
        flat = x.reshape(-1, self.in_features)
        if self.order is not None:
            flat = flat.index_select(1, self.order)
        out = held.product(flat, self.room)
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features)


def by_slabs(weight: InSlabs, x: Tensor, room: Room) -> Tensor:
    """The product with a slab at a time, unpacked."""
    outputs, inputs = weight.shape
    out = x.new_empty(len(x), outputs)
    most = SLAB_NUMBERS if x.device.type == "cpu" else _DEVICE_SLAB_NUMBERS
    space = room.of(max(most, weight.grain * inputs), x)
    step = max(1, most // inputs // weight.grain) * weight.grain
    for begin in range(0, outputs, step):
        end = min(begin + step, outputs)
        slab = weight.rows(begin, end, space)
        if end - begin == outputs:
            return functional.linear(x, slab)
        out[:, begin:end] = functional.linear(x, slab)
    return out


def few_bits_linears(model: nn.Module) -> Iterator[tuple[str, FewBitsLinear]]:
    """All such layers of a model, by name."""
    for name, module in model.named_modules():
        if isinstance(module, FewBitsLinear):
            yield name, module
