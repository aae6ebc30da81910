"""Linear layers that read the same input, such as query, key and value, as one packed product.

One product takes less time than two or three narrow ones: fewer calls, and each core has more of a
matrix at a time. Which layers read the same is seen in a trial, so nothing here knows a name or a
family. Each stays a module of its own at its place: adapters hook it, models ask it for its shape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tgi_backend_torch.cross_attention import modules_of_text
from tgi_backend_torch.linear import PackedLinear, is_plain, multiply, pack
from tgi_backend_torch.replaced import runs

_Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor | None]


class _Product:
    """Of several layers and what they read."""

    def __init__(self, packed: Tensor, bias: Tensor | None, widths: list[int]) -> None:
        self._packed = packed
        self._bias = bias
        self._widths = widths
        self._x: Tensor | None = None
        self._parts: dict[int, Tensor] = {}
        """What layers have not taken yet of the product with `_x`."""

    def part(self, index: int, x: Tensor) -> Tensor:
        """A layer's part of the product with x, a view. It is kept until all have taken theirs.

        A layer that asks twice begins anew: the last forward was broken off, or x has changed.
        """
        if x is not self._x or index not in self._parts:
            self._x = None
            self._parts.clear()
            out = multiply(x, self._packed, self._bias)
            self._parts.update(enumerate(out.split(self._widths, -1)))
            self._x = x
        part = self._parts.pop(index)
        if not self._parts:
            self._x = None
        return part


class MergedLinear(PackedLinear):
    """Computes what one of several `nn.Linear` computes, and for the others too."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, packed: Tensor, product: _Product, index: int
    ) -> None:
        super().__init__(weight, bias, packed)
        self._product = product
        self._index = index

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), not contiguous."""
        return self._product.part(self._index, x)


@torch.no_grad()
def merged(linears: list[nn.Linear]) -> list[MergedLinear]:
    """What takes the places of layers that read the same. They lose their weights, so that of three
    copies no more than two are there at once.
    """
    shapes = [torch.empty_like(linear.weight, device="meta") for linear in linears]
    widths = [len(shape) for shape in shapes]
    bias = None
    if any(linear.bias is not None for linear in linears):
        bias = torch.cat(
            [
                linear.weight.new_zeros(width) if linear.bias is None else linear.bias
                for linear, width in zip(linears, widths, strict=True)
            ]
        )
    weight = torch.cat([linear.weight for linear in linears])
    for linear in linears:
        del linear.weight
    packed = pack(weight)
    product = _Product(packed, bias, widths)
    biases = [None] * len(linears) if bias is None else bias.split(widths)
    return [
        MergedLinear(shape, part if linear.bias is not None else None, packed, product, index)
        for index, (linear, shape, part) in enumerate(zip(linears, shapes, biases, strict=True))
    ]


@torch.no_grad()
def merge_linears(model: PreTrainedModel, dtype: torch.dtype) -> set[nn.Module]:
    """Replaces the `nn.Linear` of this dtype that read the same input, some at a time.

    Returns:
        Modules that their parent did not call in the trial where it ran itself: it may compute with
        their weights on its own, as LongCat's router does. Empty if the model cannot run so.
    """
    seen = _Seen()
    places = {place.linear: place for place in _candidates(model, dtype)}
    # what inference mode makes has no versions
    if not _runs_with(dict.fromkeys(modules_of_text(model), seen.note), model, torch.no_grad):
        return set()
    found = seen.siblings(places)
    if found and _takes_parts(model, found):
        for siblings in found:
            layers = merged([place.linear for place in siblings])
            for place, layer in zip(siblings, layers, strict=True):
                setattr(place.parent, place.name, layer)
    return seen.passed_over()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a layer is in a model."""

    parent: nn.Module
    name: str
    linear: nn.Linear


class _Seen:
    """What was called in a trial, and with what."""

    def __init__(self) -> None:
        self._calls: dict[nn.Module, list[tuple[Tensor, int]]] = {}
        """Of plain layers: what they read, and its version, which tells whether somebody has
        written to it between two calls."""
        self._called: list[nn.Module] = []

    def note(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        """A hook."""
        self._called.append(module)
        if type(module) is nn.Linear:
            self._calls.setdefault(module, []).append((args[0], args[0]._version))

    def siblings(self, places: Mapping[nn.Linear, _Place]) -> list[list[_Place]]:
        """Layers of one parent that were called once each, with the same input."""
        found: dict[tuple[nn.Module, int, int], list[_Place]] = {}
        for linear, place in places.items():
            if len(calls := self._calls.get(linear, [])) == 1:
                [(x, version)] = calls
                found.setdefault((place.parent, id(x), version), []).append(place)
        return [siblings for siblings in found.values() if len(siblings) > 1]

    def passed_over(self) -> set[nn.Module]:
        """Children that were not called of parents that were."""
        called = set(self._called)
        return {child for parent in called for child in parent.children()} - called


def _candidates(model: nn.Module, dtype: torch.dtype) -> list[_Place]:
    """Layers that may read the same as another one, going by their shapes."""
    # a weight with two names is an embedding's too, or of a layer that has two parents
    names = Counter(id(each) for _, each in model.named_parameters(remove_duplicate=False))
    found = []
    for parent in model.modules():
        places = [
            _Place(parent, name, child)
            for name, child in parent.named_children()
            if is_plain(child, dtype)
            and names[id(child.weight)] == 1
            and not (child._forward_hooks or child._forward_pre_hooks)
        ]
        sizes = Counter(place.linear.in_features for place in places)
        found += [place for place in places if sizes[place.linear.in_features] > 1]
    return found


def _takes_parts(model: PreTrainedModel, found: list[list[_Place]]) -> bool:
    """Whether the model runs with outputs that lie in wider ones, as they would."""
    hooks: dict[nn.Module, _Hook] = {}
    for siblings in found:
        widths = [place.linear.out_features for place in siblings]
        for index, place in enumerate(siblings):
            hooks[place.linear] = partial(_as_part, widths, index)
    return _runs_with(hooks, model)


def _as_part(
    widths: list[int], index: int, module: nn.Module, args: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    part = output.new_empty(*output.shape[:-1], sum(widths)).split(widths, -1)[index]
    return part.copy_(output)


def _runs_with(
    hooks: Mapping[nn.Module, _Hook],
    model: PreTrainedModel,
    mode: type[AbstractContextManager[None]] | None = None,
) -> bool:
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        return runs(model, mode)
    finally:
        for handle in handles:
            handle.remove()
