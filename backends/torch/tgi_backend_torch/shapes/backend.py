"""The StepBackend: the torch backend's, in the shapes that its device has compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgi_backend_torch.quant.formats import refuse_quantized
from tgi_backend_torch.ranks import RankedBackend
from tgi_backend_torch.shapes.flat import FlatBackend
from tgi_backend_torch.shapes.parts import part_of
from tgi_core.contract import (
    AdapterRows,
    BackendStats,
    Capabilities,
    Fork,
    Image,
    LoadRequest,
    LogitsRows,
    PendingLogits,
    Progress,
    ReadImage,
    Step,
)
from tgi_core.errors import Unsupported


class ShapedBackend:
    """Satisfies `StepBackend` and `EncodesImages`, and `HoldsAdapters` once a model is loaded that
    may have some.

    Device packages pass what computes, on a device whose `computing` is a `ShapedComputing`.
    """

    read_adapter: Callable[[Path], object]
    set_adapter: Callable[[int, object | None], None]

    def __init__(self, flat: FlatBackend | RankedBackend) -> None:
        """`flat`: one rank alone, or several, each of which is a `FlatBackend`."""
        self._torch = flat

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """As `TorchBackend.load`.

        Forks are at whole blocks: to copy a part of one would be an operation of its own for every
        pair of blocks, each to be compiled.

        Raises:
            UnsupportedModel: the torch backend would pad every batch to a shape of its own; or
                weights are in few bits, which was tried on no compiler.
        """
        refuse_quantized(
            request.model.path, request.quantize, "a device that compiles shapes runs models"
        )
        capabilities = self._torch.load(request, progress)
        if capabilities.adapters is AdapterRows.ROW:
            self.read_adapter, self.set_adapter = self._torch.read_adapter, self._torch.set_adapter
        return replace(
            capabilities,
            fork=Fork.BLOCK,
            mixed=False,
            draft_lengths=(),
            logits=LogitsRows.LAST,
            embedding=None,
        )

    def warm_up(self, progress: Progress) -> None:
        """Compiles all shapes; after it nothing is compiled."""
        self._torch.warm_up(progress)

    def reserve(self, seq: int, length: int) -> bool:
        """Takes blocks."""
        return self._torch.reserve(seq, length)

    def fork(self, src: int, dst: int, length: int) -> bool:
        """Shares blocks."""
        return self._torch.fork(src, dst, length)

    def truncate(self, seq: int, length: int) -> None:
        """Gives blocks back."""
        self._torch.truncate(seq, length)

    def release(self, seq: int) -> None:
        """Gives all blocks back."""
        self._torch.release(seq)

    def step(self, step: Step) -> PendingLogits:
        """One call for rows of one token; else one for each row. See `StepBackend.step`."""
        if step.num_rows > self._torch.limits.max_rows:
            raise Unsupported("rows", f"{step.num_rows} rows are more than any shape has")
        if step.num_tokens > self._torch.limits.max_step_tokens:
            raise Unsupported("tokens", f"{step.num_tokens} tokens are more than any shape has")
        if step.num_tokens == step.num_rows:
            return _Padded((self._torch.step(step),), step.out)
        ends = step.row_begins()
        parts = [
            self._torch.step(part_of(step, row, *ends[row : row + 2].tolist()))
            for row in range(step.num_rows)
        ]
        return _Padded(tuple(parts), np.searchsorted(ends[1:] - 1, step.out).astype(np.int32))

    def read_image(self, image: Image) -> ReadImage:
        """As `TorchBackend.read_image`."""
        return self._torch.read_image(image)

    def encode_image(self, pixels: Any) -> Any:
        """As `FlatBackend.encode_image`."""
        return self._torch.encode_image(pixels)

    def stats(self) -> BackendStats:
        """Cells in use, and the memory of the cache."""
        return self._torch.stats()

    def close(self) -> None:
        """Drops model and cache."""
        self._torch.close()


@dataclass(frozen=True, slots=True)
class _Padded:
    """Satisfies PendingLogits: wanted rows are taken out on the host, where nothing is compiled."""

    parts: tuple[PendingLogits, ...]
    wanted: NDArray[np.int32]

    def numpy(self) -> NDArray[np.float32]:
        """float32 (L, vocab)."""
        return np.concatenate([part.numpy() for part in self.parts])[self.wanted]
