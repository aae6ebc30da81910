"""Marlin's format: 4 bits in the order of IST-DASLab's kernel (Frantar et al., arXiv 2408.11743).

Sixteen inputs of sixteen outputs are a tile, and four tiles side by side 128 words: each word has
what one thread of a warp multiplies in one tile, as `mma.m16n8k16` wants it. Scales lie as threads
need them too. Here both are put back, so that any device reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tgi_backend_torch.quant.bits import WORD, unpack
from tgi_backend_torch.quant.grouped import grouped
from tgi_backend_torch.quant.stored import ReadLayer, Stored
from tgi_core.errors import BadModel, UnsupportedModel

_BITS = 4
_TILE = 16
_OUTPUTS = 64
"""Of four tiles."""


def is_marlin(told: Mapping[str, Any]) -> bool:
    """Whether a checkpoint that calls itself GPTQ's is in this format: later and older words."""
    return told.get("checkpoint_format") == "marlin" or told.get("is_marlin_format") is True


@dataclass(frozen=True, slots=True)
class MarlinFormat:
    """Satisfies `Format`. How many groups there are is seen by their scales."""

    name = "marlin"
    marks = ("B",)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> MarlinFormat:
        """From what config.json says.

        Raises:
            UnsupportedModel: it is a variant that is not read.
        """
        bits, version = told.get("bits", _BITS), told.get("checkpoint_format", "marlin")
        if bits != _BITS or version not in ("marlin", "gptq"):
            raise UnsupportedModel(
                f"Marlin of {bits} bits in the format {version!r} is not read; 4 bits in 'marlin' "
                "are. 2:4 sparsity (marlin_24) runs on NVIDIA GPUs from Ampere on: serve the GPTQ "
                "checkpoint that it was made of."
            )
        return cls()

    def read(self, stored: Stored, dtype: torch.dtype) -> ReadLayer:
        """See `Format.read`."""
        outputs, inputs = stored.shape
        words = stored.take(
            "B", inputs // _TILE, outputs * _TILE * _BITS // WORD, dtype=torch.int32
        )
        scales = stored.take("s", -1, outputs)
        if inputs % _TILE or outputs % _OUTPUTS or len(scales) == 0 or inputs % len(scales):
            raise BadModel(
                f"{stored.name} has {inputs} inputs, {outputs} outputs and {len(scales)} groups, "
                f"which make no tiles of {_TILE} x {_OUTPUTS}."
            )
        # of a word's place: column, row; of four tiles; of a number in it: odd row, halves
        parts = unpack(words, _BITS).view(inputs // _TILE, -1, 8, 4, 4, 2, 2, 2)
        numbers = parts.permute(1, 4, 6, 2, 0, 7, 3, 5).reshape(outputs, inputs)
        return ReadLayer(weight=grouped(numbers, reordered(scales).t(), None, _BITS, dtype))


def reordered(scales: Tensor) -> Tensor:
    """(groups, outputs) from the order of outputs to that of threads or back, which is the same: a
    thread takes every eighth, and every fourth pair if there is one group.
    """
    if len(scales) == 1:
        return scales.reshape(-1, 4, 4, 2).transpose(1, 2).reshape(1, -1)
    return scales.reshape(len(scales), -1, 8, 8).transpose(2, 3).flatten(1)
