"""Adds adapters to the layers of a model, to each token that of its row. Knows no files.

A layer is hooked only while some adapter changes it. What the hook adds is added to the tokens of
rows that have the adapter; it touches no other token, so the base model's rows stay the same to
the bit.

Of a layer that is cut among ranks each has a part of the adapter as well. Its hook comes before the
one that adds up what the ranks have, or joins it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from tgi_backend_torch.linear import PackedLinear
from tgi_backend_torch.pieces import Pieces
from tgi_backend_torch.quant.linear import FewBitsLinear
from tgi_core.contract import LinearShape, LoraAdapter, Step
from tgi_core.errors import BadAdapter


def linear_shape(module: nn.Module) -> LinearShape | None:
    """The shape of a layer of a kind that adapters can change; None for others."""
    if isinstance(module, Conv1D):
        return LinearShape(*module.weight.shape)
    if isinstance(module, (nn.Linear, PackedLinear, FewBitsLinear)):
        outputs, inputs = module.weight.shape
        return LinearShape(inputs, outputs)
    return None


@dataclass(frozen=True, slots=True)
class _LowRank:
    """What an adapter adds to one layer: x @ down @ up."""

    down: Tensor
    """(inputs, rank)."""
    up: Tensor
    """(rank, outputs), the scale included."""


@dataclass(frozen=True, slots=True)
class PlacedAdapter:
    """An adapter where the model computes, in its dtype."""

    layers: Mapping[str, _LowRank]
    """By name of the layer."""


def placed(
    adapter: LoraAdapter,
    pieces: Mapping[str, Pieces],
    dtype: torch.dtype,
    device: torch.device,
) -> PlacedAdapter:
    """Brings an adapter, or one rank's part of it, to a device.

    Args:
        adapter: all of it.
        pieces: what is kept of the weights of layers that are cut, as (outputs, inputs), by name.
        dtype: what the layers compute in.
        device: where they are.

    Raises:
        BadAdapter: its numbers are too large for the dtype.
    """
    layers = {}
    for module, weights in adapter.layers.items():
        down, up = (torch.from_numpy(side).to(dtype) for side in (weights.down, weights.up))
        if not (down.isfinite().all() and up.isfinite().all()):
            raise BadAdapter(f"its weights for {module} are too large for {dtype}")
        piece = pieces.get(module)
        if piece is not None and piece.dim == 0:
            up = piece.of(up.t()).t()
        elif piece is not None:
            down = piece.of(down.t()).t()
        layers[module] = _LowRank(_copied(down, device), _copied(up, device))
    return PlacedAdapter(layers)


def _copied(part: Tensor, device: torch.device) -> Tensor:
    """Never a view of a whole that would have to be kept."""
    return part.to(device, copy=True, memory_format=torch.contiguous_format)


@dataclass(slots=True)
class _Layer:
    """A layer that adapters change."""

    weights: dict[int, _LowRank] = field(default_factory=dict)
    """By place of the adapter."""
    hook: RemovableHandle | None = None


class AdapterBank:
    """The adapters of one model, each at its place."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        device: torch.device,
        pieces: Mapping[str, Pieces] | None = None,
    ) -> None:
        """
        Args:
            modules: the layers that adapters may change, by name.
            device: where they are.
            pieces: see `placed`.
        """
        self._modules = modules
        self.pieces = pieces or {}
        self._device = device
        self._layers: dict[str, _Layer] = {}
        self._num_tokens = 0
        # which tokens of the step have the adapter of a place
        self._tokens: list[tuple[int, Tensor]] = []

    def shapes(self) -> dict[str, LinearShape]:
        """Of all layers that adapters may change, as they are before they are cut."""
        shapes = {name: linear_shape(module) for name, module in self._modules.items()}
        return {
            name: _whole(shape, self.pieces.get(name))
            for name, shape in shapes.items()
            if shape is not None
        }

    def put(self, place: int, adapter: PlacedAdapter | None) -> None:
        """Replaces what is at a place."""
        for name, layer in tuple(self._layers.items()):
            if layer.weights.pop(place, None) is not None and not layer.weights:
                if layer.hook is not None:
                    layer.hook.remove()
                del self._layers[name]
        for name, weights in adapter.layers.items() if adapter is not None else ():
            layer = self._layers.setdefault(name, _Layer())
            if layer.hook is None:
                hook = self._hook(layer)
                layer.hook = self._modules[name].register_forward_hook(hook, prepend=True)
            layer.weights[place] = weights

    def begin(self, step: Step) -> None:
        """Tells which token of the next forward has which adapter."""
        self._num_tokens, self._tokens = step.num_tokens, []
        if step.adapter is None:
            return
        places = np.repeat(step.adapter, step.n)
        for place in np.unique(places).tolist():
            if place:
                tokens = torch.from_numpy(np.flatnonzero(places == place)).to(self._device)
                self._tokens.append((place, tokens))

    def _hook(self, layer: _Layer) -> Any:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if not self._tokens:
                return
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            if len(x) != self._num_tokens:
                raise RuntimeError(f"a layer with an adapter sees {len(x)} of the step's tokens")
            # a view: what is added is added to the output itself
            flat = output.view(-1, output.shape[-1])
            for place, tokens in self._tokens:
                weights = layer.weights.get(place)
                if weights is not None:
                    flat.index_add_(0, tokens, x[tokens] @ weights.down @ weights.up)

        return add


def _whole(shape: LinearShape, piece: Pieces | None) -> LinearShape:
    if piece is None:
        return shape
    return (
        LinearShape(shape.inputs, piece.width)
        if piece.dim == 0
        else LinearShape(piece.width, shape.outputs)
    )
