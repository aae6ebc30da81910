"""Steps of one model, padded to shapes that warm-up has had compiled. Knows no device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.sampler import most_probable
from tgi_backend_torch.shapes.adapters import StackedAdapters
from tgi_backend_torch.shapes.attention import BlockAttention, FusedAttention, Rows
from tgi_backend_torch.shapes.buckets import Buckets, Shape
from tgi_backend_torch.shapes.compiler import Compiler
from tgi_backend_torch.shapes.glances import Glance, Glances, Looks
from tgi_backend_torch.shapes.inputs import Inputs, Sight, fill, show
from tgi_backend_torch.shapes.pictures import Pictures
from tgi_core.contract import Progress, Step
from tgi_core.errors import Unsupported, UnsupportedModel


class _Forward(nn.Module):
    """What is compiled: nothing in it depends on the numbers, only on the shapes."""

    def __init__(self, model: FlatModel, attention: BlockAttention) -> None:
        super().__init__()
        self._model = model
        self._attention = attention
        self.adapters: StackedAdapters | None = None
        self.pictures: Pictures | None = None
        self.glances: Glances | None = None

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        blocks: Tensor,
        offsets: Tensor,
        tables: Tensor,
        wanted: Tensor,
        places: Tensor,
        *sight: Tensor,
    ) -> Tensor:
        if self.adapters is not None:
            self.adapters.use(places)
        seen, on_axes = None, positions
        if self.pictures is not None:
            shown, on_axes, both_ways = sight
            self.pictures.use(shown)
            seen = both_ways if self.pictures.is_two_way else None
        if self.glances is not None:
            self.glances.use(*sight)
        self._attention.use(
            Rows(positions=positions, blocks=blocks, offsets=offsets, tables=tables, seen=seen)
        )
        # here, where it is compiled with the rest: who reads them wants float32
        return self._model(tokens, on_axes, wanted).float()


class ShapedComputing:
    """Satisfies `Computing`, for rows of one token, or one row of more."""

    def __init__(
        self,
        model: FlatModel,
        cache: PagedCache,
        buckets: Buckets,
        to_device: Callable[[NDArray[Any]], Tensor],
        compiler: Compiler,
        fused: FusedAttention | None = None,
    ) -> None:
        """
        Args:
            model: its forward is compiled.
            cache: what its layers write to.
            buckets: the shapes.
            to_device: brings an array to the device.
            compiler: of the device.
            fused: its kernel for attention.
        """
        self.attention = BlockAttention(cache, fused)
        self._cache = cache
        self._buckets = buckets
        self._to_device = to_device
        self._compiler = compiler
        self._traced = _Forward(model, self.attention)
        self._forward = compiler.compiled(self._traced)

    @property
    def adapters(self) -> StackedAdapters | None:
        """What rows may have; to be set before warm-up."""
        return self._traced.adapters

    @adapters.setter
    def adapters(self, stacks: StackedAdapters) -> None:
        self._traced.adapters = stacks

    @property
    def pictures(self) -> Pictures | None:
        """What has the vectors of images, if the model takes any; to be set before warm-up."""
        return self._traced.pictures

    @pictures.setter
    def pictures(self, pictures: Pictures) -> None:
        self._traced.pictures = pictures

    @property
    def glances(self) -> Glances | None:
        """What has layers look at images aside, if the model has any; to be set before warm-up."""
        return self._traced.glances

    @glances.setter
    def glances(self, glances: Glances) -> None:
        self._traced.glances = glances
        self._buckets = dataclasses.replace(self._buckets, aside=glances.widths)

    @property
    def compiler(self) -> Compiler:
        """The device's."""
        return self._compiler

    @property
    def cache(self) -> PagedCache:
        """What layers write to."""
        return self._cache

    def wait(self) -> None:
        """Starts what was called outside of steps, and waits for the device."""
        self._compiler.wait()

    def warm_up(self, progress: Progress) -> None:
        """Runs every shape.

        Raises:
            UnsupportedModel: one cannot be compiled.
        """
        shapes = self._buckets.shapes
        for done, shape in enumerate(shapes):
            progress("compiling shapes", done, len(shapes), "shapes")
            try:
                self._run(shape, _empty(shape, self._cache.padding_block))
                self._compiler.wait()
            except RuntimeError as error:  # no vendor has a class for it
                raise UnsupportedModel(
                    f"{shape} cannot be compiled ({error}): give --max-batch-size, "
                    "--max-step-tokens and --max-total-tokens if it is the memory that does not "
                    f"suffice; {self._compiler.advice}"
                ) from error
        progress("compiling shapes", len(shapes), len(shapes), "shapes")

    def logits(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """See `Computing.logits`; one row for each of the shape's, those of the step first."""
        if self.glances is None:
            return self._compute(step, tables)
        for glance in self.glances.glances(step):
            logits = self._compute(glance.step, tables, glance)
        return logits

    def hidden(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """No shape is compiled for it."""
        raise Unsupported("embeddings")

    def most_probable(self, logits: Tensor) -> Tensor:
        """By torch; tokens are chosen on the host."""
        return most_probable(logits)

    def keep(self, ids: Tensor) -> None:
        """Tokens are chosen on the host."""

    def _compute(
        self, step: Step, tables: NDArray[np.int32], glance: Glance | None = None
    ) -> Tensor:
        shape = self._buckets.shape_for(
            step.num_rows,
            int(step.n.max()),
            int((step.past + step.n).max()),
            0 if glance is None else glance.width,
        )
        inputs = fill(step, tables, shape, BLOCK_TOKENS, self._cache.padding_block)
        return self._run(shape, inputs, step, glance)

    def _run(
        self, shape: Shape, inputs: Inputs, step: Step | None = None, glance: Glance | None = None
    ) -> Tensor:
        """Runs a step; None: all is padding."""
        parts: list[Inputs | Sight | Looks] = [inputs]
        if self.pictures is not None:
            parts.append(show(step, inputs.positions, self.pictures.num_axes))
        if self.glances is not None and shape.aside:
            parts.append(self.glances.looks(glance, shape))
        arrays = [getattr(part, x.name) for part in parts for x in dataclasses.fields(part)]
        logits = self._forward(*(self._to_device(array) for array in arrays))
        self._compiler.launch()
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
        places=np.zeros(shape.rows, np.int64),
    )
