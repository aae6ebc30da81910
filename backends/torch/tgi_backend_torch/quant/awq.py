"""AWQ's format, as AutoAWQ writes it for its GEMM kernel (Lin et al., 2023, arXiv 2306.00978).

Numbers and zero points are packed along the outputs, eight to a word, in the order that the kernel
liked: first the even ones, then the odd ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tgi_backend_torch.quant.bits import WORD, unpack
from tgi_backend_torch.quant.grouped import even, grouped
from tgi_backend_torch.quant.stored import ReadLayer, Stored
from tgi_core.errors import UnsupportedModel

_BITS = 4
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where in its word each of eight outputs is."""


@dataclass(frozen=True, slots=True)
class AwqFormat:
    """Satisfies `Format`."""

    group_size: int | None
    """Inputs in a group; None: all."""
    name = "awq"
    marks = ("qweight",)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> AwqFormat:
        """From what config.json says, in the words of transformers or of AutoAWQ.

        Raises:
            UnsupportedModel: it is a variant that is not read.
        """
        bits = told.get("bits", told.get("w_bit", _BITS))
        size = told.get("group_size", told.get("q_group_size", 128))
        version = str(told.get("version", told.get("format", "gemm"))).lower()
        if bits != _BITS or version != "gemm" or not told.get("zero_point", True):
            raise UnsupportedModel(
                f"AWQ of {bits} bits in the version {version!r} is not read; 4 bits with zero "
                "points in 'gemm' are. Versions made for other kernels run on NVIDIA GPUs."
            )
        return cls(group_size=size if isinstance(size, int) and size > 0 else None)

    def read(self, stored: Stored, dtype: torch.dtype) -> ReadLayer:
        """See `Format.read`."""
        outputs, inputs = stored.shape
        size = self.group_size or inputs
        groups = -(-inputs // size)
        columns = outputs * _BITS // WORD
        numbers = _unpack(stored.take("qweight", inputs, columns, dtype=torch.int32))
        zeros = _unpack(stored.take("qzeros", groups, columns, dtype=torch.int32))
        scales = stored.take("scales", groups, outputs)
        weight = grouped(
            numbers.t(),
            even(scales.t(), size, inputs),
            even(zeros.t(), size, inputs),
            _BITS,
            dtype,
        )
        return ReadLayer(weight=weight)


def _unpack(words: Tensor) -> Tensor:
    return unpack(words, _BITS).unflatten(1, (-1, len(_PLACES)))[..., _PLACES].flatten(1)
