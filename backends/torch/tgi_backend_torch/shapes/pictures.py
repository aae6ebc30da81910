"""Vectors of images in steps of few shapes.

They are brought to one buffer on the device before a step, each to the place of its token there;
in the step a mask says which tokens have theirs in it. So neither how many images a prompt has nor
how they were cut is a shape. Knows no tower.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tgi_backend_torch.shapes.buckets import powers
from tgi_backend_torch.shapes.compiler import Compiler
from tgi_backend_torch.vision import num_axes
from tgi_core.contract import Capabilities, Step, TwoWay

_LEAST_VECTORS = 64


class _Put(nn.Module):
    """What is compiled: vectors to their places."""

    def __init__(self, buffer: Tensor) -> None:
        super().__init__()
        self._buffer = buffer

    def forward(self, places: Tensor, vectors: Tensor) -> Tensor:
        self._buffer.index_copy_(0, places, vectors)
        # what is compiled gives something
        return places + 1


class Pictures:
    """Satisfies `Splice`, for a forward that is compiled."""

    def __init__(
        self,
        model: PreTrainedModel,
        limits: Capabilities,
        to_device: Callable[[NDArray[Any]], Tensor],
        compiler: Compiler,
    ) -> None:
        """
        Args:
            model: its embedding is hooked.
            limits: of its steps and sequences.
            to_device: brings an array to the device.
            compiler: of the device.
        """
        embedding: Any = model.get_input_embeddings()
        self.num_axes = num_axes(model.config)
        self.is_two_way = limits.two_way is not TwoWay.NONE
        self._trash = limits.max_step_tokens
        # as wide as the text: an embedding may be narrower than what comes of it
        width = model.config.get_text_config().hidden_size
        self._buffer = torch.zeros((self._trash + 1, width), dtype=model.dtype, device=model.device)
        self._buckets = powers(_LEAST_VECTORS, limits.max_sequence_tokens)
        self._to_device = to_device
        self._compiler = compiler
        self._put = compiler.compiled(_Put(self._buffer))
        self._shown: Tensor | None = None
        embedding.register_forward_hook(self._splice)
        # else a device that collects operations makes the buffer where it is first used
        compiler.wait()

    def warm_up(self) -> None:
        """Compiles how vectors get to their places."""
        for num in self._buckets:
            vectors = self._buffer.new_zeros((num, self._buffer.shape[1]))
            self._compiler.wait()
            self._put(self._to_device(np.full(num, self._trash, np.int64)), vectors)
            self._compiler.wait()

    def padded(self, vectors: Tensor) -> Tensor:
        """(bucket, hidden): the vectors of an image, and zeros. Compiles for each number."""
        bucket = self._buckets[bisect_left(self._buckets, len(vectors))]
        made = functional.pad(vectors.to(self._buffer.dtype), (0, 0, 0, bucket - len(vectors)))
        self._compiler.wait()
        return made

    def begin(self, step: Step) -> None:
        """Brings the vectors of a step to their places."""
        for image in step.images:
            places = np.full(len(image.encoded), self._trash, np.int64)
            places[image.skip : image.skip + len(image.at)] = image.at
            self._put(self._to_device(places), image.encoded)
            self._compiler.launch()

    def use(self, shown: Tensor) -> None:
        """Takes the mask of the forward that follows, int64 (T,): 1 where a token is a vector's."""
        self._shown = shown

    def _splice(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Runs after the embedding; output (1, T, hidden)."""
        shown = self._shown
        assert shown is not None, "use comes first"
        return torch.where(shown[:, None] != 0, self._buffer[: len(shown)], output)
