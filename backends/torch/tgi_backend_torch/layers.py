"""What the layers of a model keep, and transformers' Cache over our pages and slots.

A model writes and reads through `Cache`; one is made for each call, and looks to the model like the
cache of a batch that `generate` has padded at the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import cache_utils
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

from tgi_backend_torch.cache import LayerShape, PagedCache
from tgi_core.errors import UnsupportedModel

_KNOWN = {
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    getattr(cache_utils, "DummyLayer", DynamicLayer),  # of a layer that keeps nothing: from 5.23 on
}


@dataclass(frozen=True, slots=True)
class StateShape:
    """One tensor that a layer keeps of a whole sequence, however long."""

    name: str
    """Attribute of transformers' layer that holds it: `conv_states` or `recurrent_states`."""
    index: int
    """Which of several."""
    shape: tuple[int, ...]
    """Without the batch."""
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Of one sequence."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class KeptLayer:
    """What one layer keeps of a sequence."""

    kind: type
    """transformers' class of it."""
    cell: LayerShape | None
    """Of each token; None if it has no attention."""
    states: tuple[StateShape, ...]
    """Of the sequence."""
    num_states: int
    """How many of each kind it could keep."""
    sliding: bool


def kept_layers(cache: Cache) -> tuple[KeptLayer, ...]:
    """What a model keeps, from a cache that it has filled.

    Raises:
        UnsupportedModel: a layer keeps something that we do not know.
    """
    return tuple(_kept(layer) for layer in cache.layers)


def _kept(layer: Any) -> KeptLayer:
    kind = type(layer)
    if kind not in _KNOWN:
        raise UnsupportedModel(
            f"a layer keeps its past in a {kind.__name__}; the torch backend knows keys and "
            "values, and recurrent states."
        )
    keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
    cell = None
    if keys is not None and values is not None:
        cell = LayerShape(kv_heads=keys.shape[1], key_dim=keys.shape[3], value_dim=values.shape[3])
        if values.shape[1] != keys.shape[1]:
            raise UnsupportedModel("a layer has different numbers of key and value heads.")
    states = tuple(
        StateShape(name, index, tuple(state.shape[1:]), state.dtype)
        for name in ("conv_states", "recurrent_states")
        for index, state in getattr(layer, name, {}).items()
        if state is not None
    )
    return KeptLayer(
        kind,
        cell,
        states,
        len(getattr(layer, "conv_states", ())),
        bool(getattr(layer, "is_sliding", False)),
    )


class StateSlots:
    """The recurrent states of all sequences, a slot each."""

    def __init__(
        self, layers: Sequence[KeptLayer], max_sequences: int, device: torch.device
    ) -> None:
        self._pools = [
            {
                state: torch.zeros((max_sequences, *state.shape), dtype=state.dtype, device=device)
                for state in layer.states
            }
            for layer in layers
        ]

    @property
    def num_bytes(self) -> int:
        """Memory that they take."""
        return sum(pool.nbytes for pools in self._pools for pool in pools.values())

    def load(self, index: int, layer: Any, seqs: Tensor) -> None:
        """Puts copies of the states of sequences, int64 (B,), into transformers' layer."""
        for state, pool in self._pools[index].items():
            copy = pool.index_select(0, seqs)
            getattr(layer, state.name)[state.index] = copy
            getattr(layer, f"is_{state.name}_initialized")[state.index] = True
            if state.name == "conv_states":
                layer.conv_kernel_size[state.index] = copy.shape[-1]
            layer.has_previous_state[state.index] = True
            layer.device, layer.dtype = copy.device, copy.dtype

    def of(self, name: str) -> list[Tensor]:
        """All states of one kind, themselves."""
        return [
            pool for pools in self._pools for state, pool in pools.items() if state.name == name
        ]

    def disturb(self, name: str) -> None:
        """Makes all states of one kind other ones, to see whether that makes a difference."""
        for pool in self.of(name):
            pool.add_(1)

    def store(self, cache: Cache, seqs: Tensor) -> None:
        """Keeps what a call has made of the states of sequences, int64 (B,)."""
        for pools, layer in zip(self._pools, cache.layers, strict=True):
            for state, pool in pools.items():
                pool.index_copy_(0, seqs, getattr(layer, state.name)[state.index])


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a call finds keys and values, and puts new ones; see `padding.Batch`."""

    pages: PagedCache
    new_cells: Tensor
    """int64 (B * n,)"""
    cells: Tensor | None
    """int64 (B, W); None if there is nothing but the new ones."""
    num_past: int
    """W - n, as the model sees it."""


class _Paged:
    """Takes the place of what transformers' layer does with keys and values."""

    seen: Seen
    index: int
    """Among the layers of the pages."""

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        """(B, heads, n, dim) each -> (B, heads, W, dim) each."""
        seen, pages = self.seen, self.seen.pages
        flat = [x.transpose(1, 2).flatten(0, 1).to(pages.dtype) for x in (keys, values)]
        pages.write(self.index, seen.new_cells, *flat)
        if seen.cells is None:
            return keys, values
        held = pages.read_cells(self.index, seen.cells)
        return tuple(
            x.transpose(1, 2).to(new.dtype) for x, new in zip(held, (keys, values), strict=True)
        )

    def get_seq_length(self) -> int:
        return self.seen.num_past

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.seen.num_past + query_length, 0


class _PagedLayer(_Paged, DynamicLayer):
    """Attention."""


class _PagedSlidingLayer(_PagedLayer):
    """Attention in a window, which the model's own mask enforces: nothing is dropped."""

    is_sliding = True


class _PagedHybridLayer(_Paged, LinearAttentionAndFullAttentionLayer):
    """Attention beside a recurrent state."""


def cache_over(layers: Sequence[KeptLayer], seen: Seen) -> Cache:
    """The cache of one call: pages for attention, and no states yet."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = None
    num_paged = 0
    for layer in layers:
        if layer.cell is None:
            cache.layers.append(layer.kind(number_of_states=layer.num_states))
            continue
        kind = _PagedSlidingLayer if layer.sliding else _PagedLayer
        paged: Any = _PagedHybridLayer(layer.num_states) if layer.num_states else kind()
        paged.seen, paged.index = seen, num_paged
        cache.layers.append(paged)
        num_paged += 1
    return cache
