"""Reads safetensors files into numpy, bfloat16 too. Knows tensors by name, not by meaning.

The format: 8 bytes with the length of a header, the header as JSON, then the tensors' bytes
(https://github.com/huggingface/safetensors#format). The package `safetensors` has no bfloat16 for
numpy, and whoever serves without torch has nothing else to read it with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_HEADER_BYTES = 100_000_000
"""As the reference implementation has it."""
_BFLOAT16 = "BF16"
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", _BFLOAT16: "<u2"}
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1} | {
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}


class DamagedFile(Exception):
    """A file is no safetensors file, or not all of one."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as the header describes it."""

    dtype: str
    """The format's own name: "F32", "BF16"."""
    shape: tuple[int, ...]
    path: Path
    begin: int
    """Where its bytes begin in the file."""

    @property
    def is_floating(self) -> bool:
        """Whether `read` can read it."""
        return self.dtype in _FLOATS

    @property
    def num_bytes(self) -> int:
        """In the file."""
        return _SIZES[self.dtype] * prod(self.shape)

    def read(self) -> NDArray[np.float32]:
        """The numbers, float32, of `shape`.

        Raises:
            DamagedFile: the file has become shorter.
            OSError: it cannot be read.
        """
        stored = np.dtype(_FLOATS[self.dtype])
        flat = np.fromfile(self.path, stored, prod(self.shape), offset=self.begin)
        if flat.size != prod(self.shape):
            raise DamagedFile("it ends before its last tensor")
        if self.dtype == _BFLOAT16:
            # a bfloat16 is the upper half of a float32
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        return flat.astype(np.float32, copy=False).reshape(self.shape)


def read_safetensors(path: Path) -> Mapping[str, StoredTensor]:
    """The tensors of a file, by name; reads and checks the header only.

    Raises:
        DamagedFile: says what is wrong.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
            raise DamagedFile("its header is longer than the file")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise DamagedFile("its header is no JSON") from error
    if not isinstance(header, dict):
        raise DamagedFile("its header is no JSON object")
    header.pop("__metadata__", None)
    return {name: _tensor(path, size, 8 + length, name, told) for name, told in header.items()}


def _tensor(path: Path, size: int, data: int, name: str, told: Any) -> StoredTensor:
    try:
        dtype, shape, (begin, end) = told["dtype"], told["shape"], told["data_offsets"]
        tensor = StoredTensor(dtype, tuple(shape), path, data + begin)
        whole = all(type(number) is int and number >= 0 for number in (*shape, begin, end))
        fits = whole and end - begin == tensor.num_bytes and data + end <= size
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedFile(f"its header makes no sense at {name[:120]}") from error
    if not fits:
        raise DamagedFile(f"its tensor {name[:120]} is not within the file")
    return tensor
