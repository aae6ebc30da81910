"""Steps of one model as HPU graphs: padded to a shape that warm-up has recorded, and replayed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.forward import FlatModel
from torch import Tensor, nn

from tgi_backend_gaudi import habana
from tgi_backend_gaudi.attention import BlockAttention, Rows
from tgi_backend_gaudi.buckets import Buckets, Shape
from tgi_backend_gaudi.inputs import Inputs, fill
from tgi_core.contract import Progress, Step
from tgi_core.errors import Unsupported, UnsupportedModel


class _Forward(nn.Module):
    """What is recorded: nothing in it depends on the numbers, only on the shapes."""

    def __init__(self, model: FlatModel, attention: BlockAttention) -> None:
        super().__init__()
        self._model = model
        self._attention = attention

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        blocks: Tensor,
        offsets: Tensor,
        tables: Tensor,
        wanted: Tensor,
    ) -> Tensor:
        self._attention.use(
            Rows(positions=positions, blocks=blocks, offsets=offsets, tables=tables)
        )
        # here, where it is a part of the graph: who reads them wants float32
        return self._model(tokens, positions, wanted).float()


class BucketComputing:
    """Satisfies `Computing`, for rows of one token, or one row of more."""

    def __init__(
        self,
        model: FlatModel,
        cache: PagedCache,
        buckets: Buckets,
        to_device: Callable[[NDArray[Any]], Tensor],
        *,
        graphs: bool,
    ) -> None:
        """
        Args:
            model: its forward is recorded.
            cache: what its layers write to.
            buckets: the shapes to record.
            to_device: brings an array to the device.
            graphs: False computes operation by operation, in the same shapes.
        """
        self.attention = BlockAttention(cache)
        self._cache = cache
        self._buckets = buckets
        self._to_device = to_device
        forward = _Forward(model, self.attention)
        self._forward: nn.Module = habana.as_graphs(forward) if graphs else forward

    def warm_up(self, progress: Progress) -> None:
        """Records a graph for each shape.

        Raises:
            UnsupportedModel: one cannot be recorded.
        """
        shapes = self._buckets.shapes
        for done, shape in enumerate(shapes):
            progress("recording graphs", done, len(shapes), "graphs")
            try:
                self._run(_empty(shape, self._cache.padding_block))
                habana.synchronize()
            except RuntimeError as error:  # Habana's PyTorch has no class for it
                raise UnsupportedModel(
                    f"{shape} cannot be recorded ({error}): give --max-batch-size, "
                    "--max-step-tokens and --max-total-tokens if it is the memory that does not "
                    "suffice, and --backend-option graphs=off if it is the model's own code."
                ) from error
        progress("recording graphs", len(shapes), len(shapes), "graphs")

    def logits(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """See `Computing.logits`; one row for each of the shape's, those of the step first."""
        shape = self._buckets.shape_for(
            step.num_rows, int(step.n.max()), int((step.past + step.n).max())
        )
        return self._run(fill(step, tables, shape, BLOCK_TOKENS, self._cache.padding_block))

    def hidden(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """There is no graph for it."""
        raise Unsupported("embeddings")

    def keep(self, ids: Tensor) -> None:
        """Tokens are chosen on the host."""

    def _run(self, inputs: Inputs) -> Tensor:
        arrays = (getattr(inputs, field.name) for field in dataclasses.fields(inputs))
        # a copy: the next prompt of this step may be of the same shape, and so write there too
        logits: Tensor = self._forward(*(self._to_device(array) for array in arrays)).clone()
        habana.flush()
        return logits


def _empty(shape: Shape, padding_block: int) -> Inputs:
    """A step of nothing but padding."""
    flat = np.zeros(shape.rows * shape.tokens, np.int64)
    return Inputs(
        tokens=flat,
        positions=flat,
        blocks=flat + padding_block,
        offsets=flat,
        tables=np.full((shape.rows, shape.blocks), padding_block, np.int64),
        wanted=np.arange(shape.rows, dtype=np.int64) * shape.tokens,
    )
