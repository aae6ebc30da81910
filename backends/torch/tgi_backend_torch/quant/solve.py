"""The algorithm of GPTQ for one layer (Frantar et al., 2022, arXiv 2210.17323). Knows no files.

Columns are rounded one after another, and what that changes in the layer's outputs, as far as the
inputs that were seen tell, is made up for by the columns that are still to come.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_COLUMNS = 128
"""Whose errors are handed on together if all columns are of one group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How weights are rounded."""

    bits: int
    group_size: int | None
    """Columns that share a scale and a zero; None: all."""
    symmetric: bool
    """Whether the zero is always the middle."""
    orders: bool
    """Whether columns come by the size of their inputs, the largest first."""
    damping: float
    """What is added to the diagonal, of its mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """A weight of integers: `(number - zero) * scale`."""

    numbers: Tensor
    """uint8 (outputs, inputs), columns as they were."""
    scales: Tensor
    """float16 (outputs, groups)."""
    zeros: Tensor
    """uint8 (outputs, groups)."""
    groups: Tensor
    """int32 (inputs,): which group each column is of."""


class Seen:
    """Sums the products of a layer's inputs with each other: what the algorithm calls H."""

    def __init__(self, inputs: int) -> None:
        self.products = torch.zeros(inputs, inputs)
        self._num = 0

    def add(self, x: Tensor) -> None:
        """Takes inputs, (..., inputs)."""
        x = x.reshape(-1, x.shape[-1]).float()
        before, self._num = self._num, self._num + len(x)
        self.products.mul_(before / self._num).addmm_(x.t(), x, alpha=2 / self._num)


def solve(weight: Tensor, products: Tensor, rules: Rules) -> Solved:
    """Rounds a weight.

    Args:
        weight: (outputs, inputs).
        products: float32 (inputs, inputs), of `Seen`.
        rules: how.

    Raises:
        torch.linalg.LinAlgError: the damping is too small for these inputs.
    """
    left = weight.detach().float().clone()
    outputs, inputs = left.shape
    size = rules.group_size or inputs
    products = products.clone()
    diagonal = products.diagonal()
    never = diagonal == 0
    diagonal[never] = 1
    left[:, never] = 0
    order = torch.arange(inputs)
    if rules.orders:
        order = diagonal.argsort(descending=True)
        left, products = left[:, order], products[order][:, order]
    products.diagonal().add_(rules.damping * products.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(products))
    upper = torch.linalg.cholesky(inverse, upper=True)
    numbers = torch.empty(outputs, inputs, dtype=torch.uint8)
    scales, zeros = [], []
    step = rules.group_size or _COLUMNS
    for begin in range(0, inputs, step):
        end = min(begin + step, inputs)
        if begin % size == 0:
            # with what the groups before have handed on
            scale, zero = _range(left[:, begin : begin + size], rules)
            scales.append(scale)
            zeros.append(zero)
        block, chain = left[:, begin:end], upper[begin:end, begin:end]
        errors = torch.empty_like(block)
        for i in range(end - begin):
            column = block[:, i]
            rounded = (column / scale + zero).round_().clamp_(0, 2**rules.bits - 1)
            numbers[:, begin + i] = rounded.to(torch.uint8)
            errors[:, i] = (column - (rounded - zero) * scale) / chain[i, i]
            block[:, i + 1 :].addr_(errors[:, i], chain[i, i + 1 :], alpha=-1)
        left[:, end:].addmm_(errors, upper[begin:end, end:], alpha=-1)
    own = order.argsort()
    return Solved(
        numbers=numbers[:, own],
        scales=torch.stack(scales, 1).half(),
        zeros=torch.stack(zeros, 1).to(torch.uint8),
        groups=(torch.arange(inputs, dtype=torch.int32) // size)[own],
    )


def _range(columns: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
    """Scale and zero of each output, float32 (outputs,), so that the largest columns are held."""
    most = 2**rules.bits - 1
    low, high = columns.amin(1).clamp_max(0), columns.amax(1).clamp_min(0)
    if rules.symmetric:
        high = torch.maximum(-low, high)
        low = -high
    # rounded as it is written
    scale = ((high - low) / most).clamp_min(1e-6).half().float()
    if rules.symmetric:
        return scale, torch.full_like(scale, (most + 1) // 2)
    # not 0: some readers of the format's first version add the one that was taken without wrapping
    return scale, (-low / scale).round().clamp(1, most)
