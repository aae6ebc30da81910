"""Counts the memory of all tensors that live, and the most that they ever took together.

Made for fake tensors, which have sizes and no memory: then it tells what real ones would take.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tally(TorchDispatchMode):
    """While it is entered, notes the storage of each tensor that an operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        """Since `forget_peak`."""
        self._sizes: dict[int, int] = {}

    def forget_peak(self) -> None:
        """What lives now is the most from now on."""
        self.peak_bytes = self.live_bytes

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch for each operation."""
        out = _STAND_INS.get(func, _as_it_is)(self, func, *args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            # what is on "meta" stands for a tensor that is elsewhere, or nowhere
            if isinstance(leaf, Tensor) and leaf.device.type != "meta":
                self._note(leaf)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._sizes:
            weakref.finalize(storage, self._forget, key)
        # a storage may grow
        self.live_bytes += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _forget(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)


def _as_it_is(tally: Tally, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return func(*args, **kwargs)


def _grouped_product(
    tally: Tally, func: Callable[..., Any], left: Tensor, right: Tensor, *rest: Any, **more: Any
) -> Tensor:
    """Torch knows the shape of the result for bfloat16 only."""
    return left.new_empty(left.shape[0], right.shape[-1])


def _attention(
    tally: Tally,
    func: Callable[..., Any],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    **more: Any,
) -> Any:
    """CPUs have no kernel for values of another size than keys; what they do instead is hidden."""
    if query.device.type != "cpu" or query.shape[-1] == value.shape[-1]:
        return func(query, key, value, attn_mask, dropout, is_causal, **more)
    with tally:
        scores = (query.float() * 1.0) @ (key.float() * 1.0).transpose(-2, -1)
        weights = scores.softmax(-1)
        # as torch does it, so that a row that sees nothing becomes zeros
        weights.masked_fill_((scores == -torch.inf).all(-1, keepdim=True), 0.0)
        return (weights @ value.float()).to(query.dtype)


def _nowhere(tally: Tally, func: Callable[..., Any], condition: Tensor) -> list[Tensor]:
    """Where a condition holds depends on numbers, and there are none: nowhere."""
    return [condition.new_empty(0, dtype=torch.int64) for _ in range(condition.dim())]


def _dropout(
    tally: Tally, func: Callable[..., Any], whole: Tensor, p: float, train: bool
) -> Tensor:
    """A fake tensor of which nothing is dropped is a copy; a real one is itself."""
    dropped: Tensor = func(whole, p, train) if train else whole
    return dropped


_STAND_INS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.aten._grouped_mm.default: _grouped_product,
    torch.ops.aten.scaled_dot_product_attention.default: _attention,
    torch.ops.aten.where.default: _nowhere,
    torch.ops.aten.dropout.default: _dropout,
}
"""Operations whose fake form does not do what the real one does."""
