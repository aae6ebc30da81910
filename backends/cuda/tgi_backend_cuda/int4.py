"""torch's own product with weights of 4 bits in groups: NVIDIA's GPUs from Ampere on, AMD's CDNA.

In bfloat16. It unpacks the weight anew for every 16 rows, so many rows go another way: a slab is
unpacked, from the order in which matrix instructions want it, and multiplied as any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tgi_backend_torch.quant.bits import unpack
from tgi_backend_torch.quant.grouped import GroupedWeight
from tgi_backend_torch.quant.kernels import scales_and_offsets
from tgi_backend_torch.quant.linear import FewBits, Room, by_slabs
from torch import Tensor

Unpack = Callable[[Tensor], Tensor]
"""int32 (outputs / 8, inputs / 16 / tiles, 32, tiles / 2) -> uint8 (outputs, inputs)."""

_FEW_ROWS = 128
"""What others measured on an A6000 lets unpacking pay from there on; here nobody has."""
_OUTPUTS, _INPUTS = 16, 16
"""Of a tile; NVIDIA's has 8 outputs."""
_TILES = (8, 4, 2)
"""How many may lie together, along the inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int4Weight:
    """Satisfies `InSlabs`: `(number - 8) * scale + offset`."""

    packed: Tensor
    """See `Unpack`."""
    scales_and_offsets: Tensor
    """bfloat16 (groups, outputs, 2)."""
    unpack: Unpack

    @property
    def shape(self) -> tuple[int, int]:
        """See `FewBits`."""
        eights, tiles, _, half = self.packed.shape
        return eights * 8, tiles * half * 2 * _INPUTS

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `FewBits`."""
        return self.packed, self.scales_and_offsets

    @property
    def grain(self) -> int:
        """See `InSlabs`."""
        return _OUTPUTS

    def rows(self, begin: int, end: int, room: Tensor) -> Tensor:
        """See `InSlabs`."""
        slab = room[: (end - begin) * self.shape[1]].view(end - begin, -1)
        slab.copy_(self.unpack(self.packed[begin // 8 : end // 8]))
        scales, offsets = self.scales_and_offsets[:, begin:end].transpose(0, 1).unbind(-1)
        groups = slab.view(end - begin, scales.shape[1], -1)
        groups.sub_(8).mul_(scales.unsqueeze(-1)).add_(offsets.unsqueeze(-1))
        return slab

    def product(self, x: Tensor, room: Room) -> Tensor:
        """By torch's kernel, for a few rows."""
        if len(x) > _FEW_ROWS:
            return by_slabs(self, x, room)
        size = self.shape[1] // len(self.scales_and_offsets)
        return torch._weight_int4pack_mm(x.contiguous(), self.packed, size, self.scales_and_offsets)


@dataclass(frozen=True, slots=True)
class Int4:
    """Satisfies `Kernel`."""

    unpack: Unpack
    name = "torch's int4"

    def ordered(self, weight: FewBits) -> Int4Weight | None:
        """See `Kernel.ordered`."""
        outputs, inputs = weight.shape
        tiles = next((each for each in _TILES if inputs % (each * _INPUTS) == 0), None)
        if not isinstance(weight, GroupedWeight) or outputs % _OUTPUTS or tiles is None:
            return None
        both = scales_and_offsets(weight)
        if both is None or both.dtype != torch.bfloat16:
            return None
        numbers = weight.single
        pairs = (numbers[:, ::2] << 4) | numbers[:, 1::2]
        return Int4Weight(
            packed=torch._convert_weight_to_int4pack(pairs, tiles),
            scales_and_offsets=both,
            unpack=self.unpack,
        )


def unpack_nvidia(packed: Tensor) -> Tensor:
    """A thread of 32 has pairs of inputs of one output, eight apart; see `Unpack`."""
    outputs, tiles, _, half = packed.shape
    parts = unpack(packed.view(outputs, -1), 4).view(outputs, tiles, 8, 4, half, 2, 4)
    return parts.permute(0, 2, 1, 4, 6, 3, 5).reshape(outputs * 8, -1)


def unpack_amd(packed: Tensor) -> Tensor:
    """A thread of 64 has four inputs of one of sixteen outputs, from each of two tiles; `Unpack`
    says the shape, which is NVIDIA's: what is in it lies otherwise.
    """
    eights, tiles, _, half = packed.shape
    parts = unpack(packed.view(eights, -1), 4).view(eights // 2, tiles, 4, 16, half, 2, 2, 2)
    return parts.permute(0, 3, 1, 4, 6, 2, 7, 5).reshape(eights * 8, -1)
