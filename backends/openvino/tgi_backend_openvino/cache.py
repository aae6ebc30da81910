"""The KV cache: tensors of blocks that OpenVINO reads and writes, and we copy.

Knows no sequences. The memory is ours; OpenVINO is given tensors that share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from tgi_core.contract import BlockCopy


class BlockCache:
    """One array for each cache input of a compiled model: (blocks, kv heads, tokens, bytes)."""

    def __init__(self, inputs: Sequence[ov.ConstOutput], num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._tensors: list[tuple[str, ov.Tensor]] = []
        self._arrays: list[NDArray[np.uint8]] = []
        # memory that is never used costs nothing: the system gives a page when it is written
        self._is_clean = np.zeros(num_blocks, np.bool_)
        for port in inputs:
            shape, dtype = _block_shape(port), port.get_element_type()
            array = np.empty((num_blocks, _block_bytes(port)), np.uint8)
            self._arrays.append(array)
            tensor = ov.Tensor(array, ov.Shape([num_blocks, *shape]), dtype)
            self._tensors.append((port.get_any_name(), tensor))

    def request_of(self, compiled: ov.CompiledModel) -> ov.InferRequest:
        """A request of a compiled model that reads and writes this cache."""
        request = compiled.create_infer_request()
        for name, tensor in self._tensors:
            request.set_tensor(name, tensor)
        return request

    @property
    def num_bytes(self) -> int:
        """What the blocks take that have been used."""
        return int(self._is_clean.sum()) * sum(array.shape[1] for array in self._arrays)

    def clean(self, blocks: NDArray[np.int32]) -> None:
        """Writes zeros into blocks that have never been used.

        Attention reads whole blocks: over pages that were never written it takes twice as long,
        and over what happens to lie in memory, such as denormal numbers, twelve times.
        """
        fresh = blocks[~self._is_clean[blocks]]
        if len(fresh):
            for array in self._arrays:
                array[fresh] = 0
            self._is_clean[fresh] = True

    def copy(self, copies: Iterable[BlockCopy]) -> None:
        """Copies whole blocks, in all layers."""
        for copy in copies:
            self._is_clean[copy.dst] = True
            for array in self._arrays:
                array[copy.dst] = array[copy.src]


def block_bytes(inputs: Iterable[ov.ConstOutput]) -> int:
    """Memory of one block in all layers, keys and values."""
    return sum(_block_bytes(port) for port in inputs)


def block_tokens(value_cache: ov.ConstOutput) -> int:
    """Tokens in a block, as the plugin wants them; GPUs keep keys in another order than values."""
    return _block_shape(value_cache)[1]


def _block_shape(port: ov.ConstOutput) -> list[int]:
    """(kv heads, tokens, numbers): numbers of scales are among them if the cache is quantized."""
    return [size.get_length() for size in list(port.get_partial_shape())[1:]]


def _block_bytes(port: ov.ConstOutput) -> int:
    return int(np.prod(_block_shape(port))) * port.get_element_type().bitwidth // 8
