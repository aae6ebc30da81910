"""What bitsandbytes writes: 4 bits by a table, with scales that may be quantized once more, or 8.

Columns of 8 bits that bitsandbytes would compute in 16 (LLM.int8, arXiv 2208.07339) need no care
here: activations are not rounded at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tgi_backend_torch.quant.codebook import codebook
from tgi_backend_torch.quant.int8 import Int8Weight
from tgi_backend_torch.quant.stored import ReadLayer, Stored
from tgi_core.errors import BadModel

_STATE = "weight.quant_state.bitsandbytes__"
_BLOCK = 64
_NESTED_BLOCK = 256


@dataclass(frozen=True, slots=True)
class BnbFormat:
    """Satisfies `Format`."""

    name = "bitsandbytes"
    marks = ("weight.absmax", "SCB")

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> BnbFormat:
        """All that matters is beside the tensors."""
        return cls()

    def read(self, stored: Stored, dtype: torch.dtype) -> ReadLayer:
        """See `Format.read`."""
        outputs, inputs = stored.shape
        if "SCB" in stored.tensors:
            numbers = stored.take("weight", outputs, inputs, dtype=torch.int8)
            scales = (stored.take("SCB", outputs) / 127).to(dtype).unsqueeze(1)
            return ReadLayer(weight=Int8Weight(numbers=numbers.contiguous(), scales=scales))
        state = _state(stored)
        block = int(state.get("blocksize", _BLOCK))
        packed = stored.take("weight", dtype=torch.uint8)
        if packed.numel() * 2 != outputs * inputs:
            raise BadModel(f"{stored.name}.weight holds {packed.numel() * 2} numbers of 4 bits.")
        weight = codebook(
            packed.reshape(outputs, inputs // 2),
            stored.take("weight.quant_map", 16),
            _scales(stored, state),
            block,
            dtype,
        )
        return ReadLayer(weight=weight)


def _scales(stored: Stored, state: Mapping[str, Any]) -> Tensor:
    """float32 (blocks,)."""
    scales = stored.take("weight.absmax", -1)
    if "weight.nested_absmax" not in stored.tensors:
        return scales.float()
    block = int(state.get("nested_blocksize", _NESTED_BLOCK))
    table = stored.take("weight.nested_quant_map", 256)
    outer = stored.take("weight.nested_absmax", -1).repeat_interleave(block)[: len(scales)]
    return table[scales.long()] * outer + float(state.get("nested_offset", 0.0))


def _state(stored: Stored) -> Mapping[str, Any]:
    """What bitsandbytes says of a weight: JSON, as a tensor of bytes."""
    for suffix in stored.tensors:
        if suffix.startswith(_STATE):
            try:
                state = json.loads(stored.text(suffix) or "{}")
            except (ValueError, RecursionError) as error:
                raise BadModel(f"{stored.name}.{suffix} is no JSON ({error}).") from error
            if isinstance(state, dict):
                return state
    raise BadModel(f"the weights lack {stored.name}.{_STATE}nf4 or fp4.")
