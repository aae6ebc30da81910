"""Attention over the cache by our kernels: what the layers of a model call."""

from __future__ import annotations

import torch
from tgi_backend_torch.attention import Scoring
from torch import Tensor

from tgi_backend_cuda.launch import Pages, Rows, attend_rows, store_tokens
from tgi_backend_cuda.tiles import Architecture


class TritonAttention:
    """Satisfies `Attention`, and may be captured: nothing in it depends on the step's numbers."""

    def __init__(self, pages: list[Pages], arch: Architecture, dtype: torch.dtype) -> None:
        """
        Args:
            pages: of each layer.
            arch: chooses tiles.
            dtype: what attention is computed in; some models rotate their queries in float32.
        """
        self._pages = pages
        self._dtype = dtype
        self._arch = arch
        self._rows: Rows | None = None

    def use(self, rows: Rows) -> None:
        """Takes the rows of the forward that follows."""
        self._rows = rows

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """See `Attention.attend`."""
        rows, pages = self._rows, self._pages[layer]
        assert rows is not None, "use comes first"
        store_tokens(pages, key, value, rows.cells)
        return attend_rows(
            pages,
            query.to(self._dtype),
            rows,
            self._arch,
            scaling=scoring.scaling,
            window=scoring.window,
            softcap=scoring.softcap,
            sinks=scoring.sinks,
        )
