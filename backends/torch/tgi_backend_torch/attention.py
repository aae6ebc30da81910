"""Attention of a flat batch over the paged cache, and its connection to transformers.

transformers calls `attend` in every layer with the new queries, keys and values; the layer finds
its place in the cache by the `BoundLayer` that the runner has put on the module. Nothing is global
but the name under which transformers finds the function.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from tgi_backend_torch.cache import PagedCache
from tgi_backend_torch.layout import Group, StepLayout
from tgi_backend_torch.wide_cache import WideCache
from tgi_core.errors import UnsupportedModel

IMPLEMENTATION = "tgi_paged"
"""Name of `attend` in transformers' table of attention functions."""

_PLAIN_SCORES = 1 << 24
"""Most scores that the plain path holds at once: 64 MiB."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a layer turns queries and keys into weights."""

    scaling: float
    """What scores are multiplied by."""
    window: int | None = None
    """A token sees itself and this many - 1 before it; None: all before it."""
    softcap: float | None = None
    """Scores are squeezed into (-softcap, softcap); None: they are not."""
    sinks: Tensor | None = None
    """(heads,): a score per head that takes its share of the softmax, and adds nothing."""

    @property
    def is_common(self) -> bool:
        """Whether fused kernels can do it."""
        return self.softcap is None and self.sinks is None


class Attention(Protocol):
    """Computes attention over one cache, layer by layer."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """Stores the new keys and values, and attends to all that each query may see.

        Args:
            layer: index into the cache's layers.
            query: (T, heads, key_dim).
            key: (T, kv_heads, key_dim).
            value: (T, kv_heads, value_dim).
            scoring: of this layer.

        Returns:
            (T, heads, value_dim).
        """
        ...


class BoundLayer:
    """One layer of one model's attention; lives on its module as `tgi_layer`."""

    def __init__(self, attention: Attention, index: int) -> None:
        self.attention = attention
        self.index = index


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls.

    Tensors are (B, heads, L, dim), the result (B, L, heads, value_dim); the B * L tokens are those
    of the flat batch in order, whichever of the two is 1.

    Raises:
        UnsupportedModel: attention is not causal, or has a mask or bias of its own. A trial finds
            that out when the model is loaded.
    """
    # some models say False for a single token, for which it makes no difference
    if is_causal is None or query.shape[2] == 1:
        is_causal = getattr(module, "is_causal", True)
    if not is_causal or attention_mask is not None or position_bias is not None:
        raise UnsupportedModel(
            f"{type(module).__name__} wants attention that is not causal, or that has a mask or "
            "a bias of its own; the torch backend computes causal attention."
        )
    layer: BoundLayer = module.tgi_layer  # type: ignore[assignment]
    out = layer.attention.attend(
        layer.index,
        *(x.transpose(1, 2).flatten(0, 1) for x in (query, key, value)),
        Scoring(
            query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap, s_aux
        ),
    )
    return out.unflatten(0, (query.shape[0], query.shape[2])), None


# No mask function goes with it, so transformers makes no mask of the whole batch.
AttentionInterface.register(IMPLEMENTATION, attend)


class SdpaAttention:
    """Attention with torch's scaled_dot_product_attention over gathered pages."""

    def __init__(self, cache: PagedCache | WideCache) -> None:
        self._cache = cache
        self._layout: StepLayout | None = None

    def begin(self, layout: StepLayout) -> None:
        """Takes the layout of the step that follows."""
        self._layout = layout

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """See `Attention.attend`."""
        layout, cache = self._layout, self._cache
        assert layout is not None, "begin comes first"
        query, key, value = query.to(cache.dtype), key.to(cache.dtype), value.to(cache.dtype)
        key, value = cache.write(layer, layout.cells, key, value)
        if layout.stale_cells is not None:
            cache.clear(layer, layout.stale_cells)
        groups = layout.groups(scoring.window)
        out = query.new_empty(query.shape[0], query.shape[1], value.shape[2])
        for group in groups:
            if group.is_fresh:
                keys, values = key[group.tokens][None], value[group.tokens][None]
            else:
                keys, values = (
                    x.view(group.num_rows, -1, *x.shape[1:])[:, group.cells]
                    for x in cache.read(layer, group.blocks)
                )
            compute = _one_long_row if group.num_rows == 1 and group.num_new > 1 else _short_rows
            tokens = group.tokens
            # these calls take less than indexing with a tensor does, 180 times a step
            of_group = query[tokens] if isinstance(tokens, slice) else query.index_select(0, tokens)
            result = compute(group, of_group, keys.transpose(1, 2), values.transpose(1, 2), scoring)
            if isinstance(tokens, slice):
                out[tokens] = result
            else:
                out.index_copy_(0, tokens, result)
        return out


def _short_rows(
    group: Group, query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring
) -> Tensor:
    """Rows of few tokens: all queries that share a KV head become one longer query.

    query (rows * n, heads, dim), keys (rows, kv_heads, cells, dim) -> like query.
    """
    rows, n = group.num_rows, group.num_new
    tokens, heads, _ = query.shape
    kv_heads = keys.shape[1]
    fold = heads // kv_heads
    if n == 1:
        query = query.view(rows, kv_heads, fold, -1)
    else:
        query = query.reshape(rows, n, kv_heads, fold, -1).permute(0, 2, 3, 1, 4).flatten(2, 3)
    mask = group.mask(fold) if group.needs_mask else None
    sinks = None
    if scoring.sinks is not None:
        sinks = scoring.sinks.view(kv_heads, fold, 1).expand(-1, -1, n).reshape(kv_heads, -1, 1)
    if scoring.is_common:
        out = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scoring.scaling
        )
    else:
        out = _plain(query, keys, values, mask, scoring, sinks)
    if n == 1:
        return out.flatten(1, 2)
    out = out.reshape(rows, kv_heads, fold, n, -1).permute(0, 3, 1, 2, 4)
    return out.reshape(tokens, heads, -1)


def _one_long_row(
    group: Group, query: Tensor, keys: Tensor, values: Tensor, scoring: Scoring
) -> Tensor:
    """One row of many tokens: KV heads take the place of the batch, and keys are not repeated.

    query (n, heads, dim), keys (1, kv_heads, cells, dim) -> like query.
    """
    n, heads, _ = query.shape
    kv_heads = keys.shape[1]
    fold = heads // kv_heads
    query = query.reshape(n, kv_heads, fold, -1).permute(1, 2, 0, 3)
    keys, values = (x.transpose(0, 1).expand(-1, fold, -1, -1) for x in (keys, values))
    sinks = None if scoring.sinks is None else scoring.sinks.view(kv_heads, fold, 1, 1)
    if scoring.is_common:
        out = functional.scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=None if group.is_fresh else group.mask(1),
            is_causal=group.is_fresh,
            scale=scoring.scaling,
        )
    else:
        out = _plain(query, keys, values, group.mask(1), scoring, sinks)
    return out.permute(2, 0, 1, 3).reshape(n, heads, -1)


def _plain(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None,
    scoring: Scoring,
    sinks: Tensor | None,
) -> Tensor:
    """Attention for what the fused kernel lacks; softmax in float32, as transformers does it.

    query (B, H, n, dim); sinks broadcast to (B, H, n, 1).
    """
    at_once = max(1, _PLAIN_SCORES // (query.shape[0] * query.shape[1] * keys.shape[2]))
    pieces = []
    for begin in range(0, query.shape[2], at_once):
        part = slice(begin, begin + at_once)
        scores = (query[:, :, part] @ keys.transpose(2, 3)).float() * scoring.scaling
        if scoring.softcap is not None:
            scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
        if mask is not None:
            scores = scores + (mask if mask.shape[2] == 1 else mask[:, :, part])
        if sinks is not None:
            sink = (sinks if sinks.shape[-2] == 1 else sinks[..., part, :]).float()
            scores = torch.cat((scores, sink.expand(*scores.shape[:-1], 1)), -1)
        weights = scores.softmax(-1)[..., : keys.shape[2]]
        pieces.append(weights.to(values.dtype) @ values)
    return torch.cat(pieces, 2)
