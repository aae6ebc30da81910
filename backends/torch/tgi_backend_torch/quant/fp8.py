"""Checkpoints in FP8: with a scale for each square of a weight, each output, or the whole.

DeepSeek's and Qwen's (`weight_scale_inv`, squares of 128), FBGEMM's and AutoFP8's (`weight_scale`).
Activations are not rounded, so `input_scale` and its kin are not needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tgi_backend_torch.quant.float8 import FLOAT8, Float8Weight
from tgi_backend_torch.quant.grouped import even
from tgi_backend_torch.quant.stored import ReadLayer, Stored
from tgi_core.errors import BadModel, UnsupportedModel

_INVERSE = "weight_scale_inv"
_SCALE = "weight_scale"


@dataclass(frozen=True, slots=True)
class Fp8Format:
    """Satisfies `Format`."""

    block: tuple[int, int] | None
    """Outputs and inputs that share a scale; None: as the scales' shape says."""
    name = "fp8"
    marks = (_INVERSE, _SCALE)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Fp8Format:
        """From what config.json says.

        Raises:
            UnsupportedModel: it makes no sense.
        """
        block = told.get("weight_block_size")
        if block is None:
            return cls(None)
        if not (
            isinstance(block, list) and len(block) == 2 and all(_is_size(size) for size in block)
        ):
            raise UnsupportedModel(f"weight_block_size is {block!r}, and should be two sizes.")
        return cls((block[0], block[1]))

    def read(self, stored: Stored, dtype: torch.dtype) -> ReadLayer:
        """See `Format.read`."""
        return ReadLayer(weight=read_float8(stored, self.block, dtype))


def read_float8(stored: Stored, block: tuple[int, int] | None, dtype: torch.dtype) -> Float8Weight:
    """A weight of 8 bits and its scales.

    Raises:
        BadModel: they do not fit each other.
    """
    numbers = stored.take("weight", *stored.shape)
    if numbers.dtype not in FLOAT8.values():
        raise BadModel(f"{stored.name}.weight is {numbers.dtype}, and should be of 8 bits.")
    scales = stored.take(_INVERSE if _INVERSE in stored.tensors else _SCALE)
    return Float8Weight(
        numbers=numbers.contiguous(), scales=_spread(stored, scales.float(), block).to(dtype)
    )


def _spread(stored: Stored, scales: Tensor, block: tuple[int, int] | None) -> Tensor:
    """(outputs, groups, 1)."""
    outputs, inputs = stored.shape
    if scales.numel() == 1:
        return scales.reshape(1, 1, 1).expand(outputs, 1, 1)
    if block is None:
        if scales.numel() != outputs:
            raise BadModel(f"{stored.name} has {outputs} outputs, and {scales.numel()} scales.")
        return scales.reshape(outputs, 1, 1)
    high, wide = block
    if scales.shape != (-(-outputs // high), -(-inputs // wide)):
        raise BadModel(
            f"{stored.name} of shape {stored.shape} has scales of shape {tuple(scales.shape)} for "
            f"blocks of {high} x {wide}."
        )
    return even(scales.repeat_interleave(high, 0)[:outputs], wide, inputs).unsqueeze(-1)


def _is_size(size: object) -> bool:
    return isinstance(size, int) and size > 0
