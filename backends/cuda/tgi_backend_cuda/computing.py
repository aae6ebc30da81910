"""Steps of one model as graphs: padded to a bucket, sent in one copy, replayed in one call.

What the last step sampled stays in a buffer here, and tokens that name it are looked up on the
device. Steps that no graph holds run as they are, one launch after another.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import torch
import triton
from numpy.typing import NDArray
from tgi_backend_torch.cache import BLOCK_TOKENS
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.sampler import most_probable
from torch import Tensor

from tgi_backend_cuda.attention import TritonAttention
from tgi_backend_cuda.buckets import Buckets
from tgi_backend_cuda.driver import CannotCapture, Driver, Graph
from tgi_backend_cuda.greedy import find_best_tokens
from tgi_backend_cuda.inputs import Inputs, Shape, fill
from tgi_backend_cuda.kernels.begin import look_up
from tgi_backend_cuda.staging import Staging
from tgi_backend_cuda.tiles import Architecture
from tgi_core.contract import Progress, Step

logger = logging.getLogger(__name__)

_LOOKED_UP = 1024
"""Tokens of one program."""


class GraphComputing:
    """Satisfies `Computing`, with a model whose layers call `attention`."""

    def __init__(
        self,
        model: FlatModel,
        attention: TritonAttention,
        driver: Driver,
        arch: Architecture,
        *,
        vocab_size: int,
        dtype: torch.dtype,
        max_rows: int,
        max_tokens: int,
        max_blocks: int,
        num_axes: int,
        buckets: Buckets | None,
    ) -> None:
        """
        Args:
            model: its forward is captured.
            attention: what its layers call.
            driver: the device.
            arch: chooses how kernels are launched.
            vocab_size: width of a row of logits.
            dtype: of the logits.
            max_rows: most rows in a step.
            max_tokens: most tokens in a step.
            max_blocks: most blocks of a sequence.
            num_axes: of the model's rotary positions.
            buckets: what to capture; None: nothing.
        """
        self._model = model
        self.attention = attention
        self._driver = driver
        self._arch = arch
        self._buckets = buckets
        self._graphs: dict[Shape, Graph] = {}
        self._num_axes = num_axes
        largest = Shape(
            tokens=max_tokens + max_rows,
            rows=max_rows + 1,
            outputs=max_tokens,
            decode=False,
            axes=num_axes,
        )
        device = driver.torch_device
        self._buffer = torch.zeros(
            largest.num_numbers(max_blocks), dtype=torch.int32, device=device
        )
        self._staging = Staging(driver, self._buffer)
        self._logits = torch.zeros(max_rows, vocab_size, dtype=dtype, device=device)
        # a graph is padded to as many rows as there may be, be there tokens for them or not
        num_sampled = max(max_tokens, max_rows)
        self._sampled = torch.zeros(num_sampled, 2, dtype=torch.int32, device=device)
        """First what the last step sampled; a graph puts the most probable tokens there."""
        self._num_found = 0

    def warm_up(self, progress: Progress) -> None:
        """Captures a graph for each bucket.

        A model that cannot be captured runs without graphs; the log says why.
        """
        shapes: Sequence[Shape] = self._buckets.shapes if self._buckets is not None else ()
        for done, shape in enumerate(shapes):
            progress("capturing graphs", done, len(shapes), "graphs")
            inputs = Inputs.of(self._buffer, shape)
            # all tokens are the padding's: nothing is stored, and attention gives zeros
            self._buffer[: shape.tables].zero_()
            inputs.rows.cells.fill_(-1)
            inputs.rows.begins[1:].fill_(shape.tokens)
            try:
                self._graphs[shape] = self._driver.capture(lambda inputs=inputs: self._fill(inputs))
            except CannotCapture as error:
                logger.warning("the model runs without graphs, and slower: %s", error)
                self._graphs.clear()
                self._buckets = None
                break
        progress("capturing graphs", len(shapes), len(shapes), "graphs")

    @property
    def num_graphs(self) -> int:
        """Graphs that were captured."""
        return len(self._graphs)

    def logits(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """Appends the step's tokens to their sequences.

        Args:
            step: the rows.
            tables: int32 (R, blocks), the block table of each.

        Returns:
            (L, vocab): those of `step.out`. Overwritten by the next step.
        """
        # images and adapters are what hooks add to the model: they were not there in the capture
        sees = step.images or self._model.looks_aside
        is_plain = step.adapter is None and not sees and step.two_way is None
        shape = self._buckets.shape_for(step) if self._buckets and is_plain else None
        graph = self._graphs.get(shape) if shape is not None else None
        if shape is None or graph is None:
            inputs = self._send_as_it_is(step, tables)
            self._num_found = 0
            return self._compute(inputs)
        self._send(step, tables, shape)
        graph.replay()
        self._num_found = len(step.out)
        return self._logits[: len(step.out)]

    def hidden(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """The same, up to the hidden states of all tokens: (T, size)."""
        inputs = self._send_as_it_is(step, tables)
        return self._model.hidden(inputs.tokens.long(), inputs.positions.long())

    def most_probable(self, logits: Tensor) -> Tensor:
        """What the graph found on its way, if it was one."""
        if self._num_found:
            return self._sampled[: self._num_found]
        return most_probable(logits)

    def keep(self, ids: Tensor) -> None:
        """Remembers what was sampled for the outputs of the last step, int32 (L,)."""
        if ids.data_ptr() != self._sampled.data_ptr():
            self._sampled[: len(ids), 0].copy_(ids)

    def _send(self, step: Step, tables: NDArray[np.int32], shape: Shape) -> None:
        numbers = fill(self._staging.next(), step, tables, shape, BLOCK_TOKENS)
        self._staging.send(numbers)

    def _send_as_it_is(self, step: Step, tables: NDArray[np.int32]) -> Inputs:
        shape = Shape.of(step, self._num_axes)
        self._send(step, tables, shape)
        num_single = 0 if shape.decode else int(np.argmax(step.n > 1))
        inputs = Inputs.of(self._buffer, shape, num_single)
        if step.two_way is None:
            self.attention.use(inputs.rows)
        else:
            self.attention.use_both_ways(step, tables)
        return inputs

    def _compute(self, inputs: Inputs) -> Tensor:
        tokens = torch.empty_like(inputs.tokens, dtype=torch.int64)
        look_up[(triton.cdiv(len(tokens), _LOOKED_UP),)](
            tokens, inputs.tokens, self._sampled, len(tokens), SIZE=_LOOKED_UP, num_warps=4
        )
        return self._model(tokens, inputs.positions.long(), inputs.outputs.long())

    @torch.inference_mode()
    def _fill(self, inputs: Inputs) -> None:
        self.attention.use(inputs.rows)
        logits = self._compute(inputs).contiguous()
        find_best_tokens(self._sampled, self._logits, logits, self._arch)
