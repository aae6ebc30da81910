"""Attention over the cache by our kernels: what the layers of a model call.

Tokens that see what comes after them, as those of some images do, are left to torch's attention.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from tgi_backend_torch.attention import Scoring, SdpaAttention
from tgi_backend_torch.cache import PagedCache
from tgi_backend_torch.layout import StepLayout
from tgi_backend_torch.wide_cache import wide
from torch import Tensor

from tgi_backend_cuda.launch import (
    Pages,
    Rows,
    Turning,
    attend_rows,
    store_tokens,
    turn_and_store_tokens,
    turn_tokens,
)
from tgi_backend_cuda.short_rows import attend_turning
from tgi_backend_cuda.tiles import Architecture
from tgi_core.contract import Step


class TritonAttention:
    """Satisfies `Attention`, and may be captured: nothing in it depends on the step's numbers."""

    def __init__(self, cache: PagedCache, arch: Architecture, dtype: torch.dtype) -> None:
        """
        Args:
            cache: keys and values.
            arch: chooses tiles.
            dtype: what attention is computed in; some models rotate their queries in float32.
        """
        self._pages = [Pages(keys=keys, values=values) for keys, values in cache.layers]
        self._cache = wide(cache, dtype)
        self._gathered = SdpaAttention(self._cache)
        self._dtype = dtype
        self._arch = arch
        self._arrived = torch.zeros(
            arch.most_programs, dtype=torch.int32, device=self._pages[0].keys.device
        )
        self._rows: Rows | None = None

    def use(self, rows: Rows) -> None:
        """Takes the rows of the forward that follows."""
        self._rows = rows

    def use_both_ways(self, step: Step, tables: NDArray[np.int32]) -> None:
        """Takes a step whose tokens see one another; it cannot be captured."""
        self._rows = None
        # the kernels clear nothing: they read no further than a row is long
        self._gathered.begin(StepLayout(step, tables, self._cache, cleared=False))

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """See `Attention.attend`."""
        rows = self._rows
        if rows is None:
            return self._gathered.attend(layer, query, key, value, scoring)
        store_tokens(self._pages[layer], key, value, rows.cells, self._arch)
        return self._attend(layer, query, rows, scoring)

    def turn_and_attend(self, layer: int, x: Tensor, turning: Turning, scoring: Scoring) -> Tensor:
        """The same of queries, keys and values side by side that are yet to be rotated.

        x (T, (heads + 2 kv_heads) * dim) may be written to.
        """
        rows, heads, kv_heads = self._rows, turning.heads, turning.kv_heads
        query, key, value = x.unflatten(-1, (-1, turning.dim)).split((heads, kv_heads, kv_heads), 1)
        if rows is None:
            turn_tokens(x, turning, self._arch)
            return self._gathered.attend(layer, query, key, value, scoring)
        if x.dtype == self._dtype:
            out = attend_turning(
                self._pages[layer],
                x,
                turning,
                rows,
                self._arch,
                self._arrived,
                scaling=scoring.scaling,
                window=scoring.window,
                softcap=scoring.softcap,
                sinks=scoring.sinks,
            )
            if out is not None:
                return out
        turn_and_store_tokens(self._pages[layer], x, turning, rows.cells, self._arch)
        return self._attend(layer, query, rows, scoring)

    def _attend(self, layer: int, query: Tensor, rows: Rows, scoring: Scoring) -> Tensor:
        return attend_rows(
            self._pages[layer],
            query.to(self._dtype),
            rows,
            self._arch,
            scaling=scoring.scaling,
            window=scoring.window,
            softcap=scoring.softcap,
            sinks=scoring.sinks,
        )
