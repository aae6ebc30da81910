"""Adapters of one model in stacks, one for each layer, of which a step takes those of its rows.

Shapes do not depend on who has which adapter: each place of a stack is as large as the largest
adapter may be, and place 0, of rows without any, is zeros. Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tgi_backend_torch.lora import PlacedAdapter, linear_shape
from tgi_core.contract import LinearShape
from tgi_core.errors import UsageError

OPTION = "adapter_rank"
"""Of backends in compiled shapes: the rank that all adapters have room for. Without it there are
none, for the room is taken whether there are adapters or not.
"""


def adapter_rank(options: Mapping[str, str]) -> int | None:
    """What the operator says of it.

    Raises:
        UsageError: no positive number.
    """
    text = options.get(OPTION)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{OPTION} is {text}; it must be a rank of adapters, such as 16.")
    return int(text)


@dataclass(frozen=True, slots=True)
class _Stack:
    """What all adapters add to one layer: x @ down @ up."""

    down: Tensor
    """(places, inputs, rank)."""
    up: Tensor
    """(places, rank, outputs), the scale included."""


class StackedAdapters:
    """Adds to each token what its row's adapter adds."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        num: int,
        rank: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """
        Args:
            modules: the layers that adapters may change, by name. They are hooked.
            num: adapters at once.
            rank: of the largest.
            dtype: what the layers compute in.
            device: where they are.
        """
        self._places: Tensor | None = None
        self._stacks: dict[str, _Stack] = {}
        for name, module in modules.items():
            shape = linear_shape(module)
            if shape is None:
                continue
            self._stacks[name] = stack = _Stack(
                torch.zeros((num + 1, shape.inputs, rank), dtype=dtype, device=device),
                torch.zeros((num + 1, rank, shape.outputs), dtype=dtype, device=device),
            )
            # before what ranks exchange of the layer's output
            module.register_forward_hook(self._hook(stack), prepend=True)

    def use(self, places: Tensor) -> None:
        """Takes the places of all rows' adapters, int64 (R,), for the forward that follows."""
        self._places = places

    def put(self, place: int, adapter: PlacedAdapter | None) -> None:
        """Replaces what is at a place by an adapter on the host, in all layers."""
        for name, stack in self._stacks.items():
            index = torch.tensor([place]).to(stack.down.device)
            weights = adapter.layers.get(name) if adapter is not None else None
            for whole, part in (
                (stack.down, weights and weights.down),
                (stack.up, weights and weights.up),
            ):
                # always all of it, so that this is one shape too
                new = torch.zeros(whole.shape[1:], dtype=whole.dtype)
                if part is not None:
                    new[: part.shape[0], : part.shape[1]] = part
                whole.index_copy_(0, index, new[None].to(whole.device))

    def _hook(self, stack: _Stack) -> Callable[..., Tensor]:
        def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            places = self._places
            assert places is not None, "use comes first"
            down, up = stack.down.index_select(0, places), stack.up.index_select(0, places)
            x = inputs[0].reshape(len(places), -1, inputs[0].shape[-1])
            return output + (x @ down @ up).reshape(output.shape)

        return add


def stack_bytes(shapes: Mapping[str, LinearShape], num: int, rank: int, itemsize: int) -> int:
    """Memory that the stacks take."""
    numbers = sum(shape.inputs + shape.outputs for shape in shapes.values())
    return (num + 1) * rank * numbers * itemsize
