"""GPTQ's format, as AutoGPTQ and GPTQModel write it (Frantar et al., 2022, arXiv 2210.17323).

Numbers are packed along the inputs, zero points along the outputs. In the first version of the
format the zero points are stored less one, and 0 wraps around. With activation order the columns of
a group are not side by side; they are put so here, and the inputs are reordered when computing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tgi_backend_torch.quant.bits import WORD, unpack
from tgi_backend_torch.quant.grouped import even, grouped
from tgi_backend_torch.quant.stored import ReadLayer, Stored, order_of
from tgi_core.errors import UnsupportedModel

_BITS = (2, 3, 4, 8)


@dataclass(frozen=True, slots=True)
class GptqFormat:
    """Satisfies `Format`."""

    bits: int
    group_size: int | None
    """Inputs in a group; None: all."""
    orders: bool
    """Whether columns may belong to any group."""
    zeros_less_one: bool
    name = "gptq"
    marks = ("qweight",)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> GptqFormat:
        """From what config.json says.

        Raises:
            UnsupportedModel: it is a variant that is not read.
        """
        bits, size = told.get("bits", 4), told.get("group_size", -1)
        version = told.get("checkpoint_format", "gptq")
        if bits not in _BITS or version not in ("gptq", "gptq_v2"):
            raise UnsupportedModel(
                f"GPTQ of {bits} bits in the format {version!r} is not read; {_BITS} bits in "
                "'gptq' and 'gptq_v2', and 4 in 'marlin', are. Formats made for other kernels, "
                "such as marlin_24, run on NVIDIA GPUs from Ampere on."
            )
        return cls(
            bits=bits,
            group_size=size if isinstance(size, int) and size > 0 else None,
            orders=bool(told.get("desc_act", False)),
            zeros_less_one=version == "gptq",
        )

    def read(self, stored: Stored, dtype: torch.dtype) -> ReadLayer:
        """See `Format.read`."""
        outputs, inputs = stored.shape
        size = self.group_size or inputs
        groups = -(-inputs // size)
        words = stored.take("qweight", inputs * self.bits // WORD, outputs, dtype=torch.int32)
        numbers = unpack(words.t(), self.bits)
        scales = stored.take("scales", groups, outputs).t()
        packed = stored.take("qzeros", groups, outputs * self.bits // WORD, dtype=torch.int32)
        zeros = unpack(packed, self.bits).t()
        if self.zeros_less_one:
            zeros = (zeros + 1) & ((1 << self.bits) - 1)
        order = order_of(stored, "g_idx", size, self.orders)
        if order is not None:
            numbers = numbers[:, order]
        weight = grouped(
            numbers, even(scales, size, inputs), even(zeros, size, inputs), self.bits, dtype
        )
        return ReadLayer(weight=weight, order=order)
