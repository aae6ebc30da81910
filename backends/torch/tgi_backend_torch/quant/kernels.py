"""The CPU's own kernels for a few rows, where torch has them: they read the weight as it is kept.

In bfloat16 with AVX-512, one thread, a layer of 2048 x 2048 (dense: 0.9 ms): 4 bits take 0.3 ms
for a row, 0.6 for 4, 2.5 for 16; 8 bits 0.4, 0.7 and 2.7. Unpacking takes 5 and 2 ms, whatever the
rows. In float32 the kernels are plain loops (12 and 6 ms a row). So where a model computes in
float32 and nobody asked for it, as where a CPU emulates bfloat16, inputs are rounded for the
kernels, which emulate nothing: on Cascade Lake 4 bits take 0.6 ms for a row, 1.0 for 4, 3.6 for 16,
in place of 9, 14 and 16 ms (dense: 1.8, 3.6, 7.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tgi_backend_torch.quant.grouped import GroupedWeight, finer
from tgi_backend_torch.quant.int8 import Int8Weight
from tgi_backend_torch.quant.linear import FewBits, Room, by_slabs, few_bits_linears

_FEW_ROWS_OF_4_BITS = {torch.bfloat16: 24, torch.float32: 64}
_FEW_ROWS_OF_8_BITS = {torch.bfloat16: 10, torch.float32: 32}
"""By what the model computes in."""
_GROUP_SIZES = (32, 64, 128, 256)
_OUTPUTS = 64
"""That the kernel of 4 bits packs together: the first half of them in the low halves of bytes."""


def choose_kernels(model: nn.Module, dtype: torch.dtype, *, exact: bool = True) -> None:
    """Rearranges weights for the kernels, in place, where this CPU has them.

    Without `exact` also in a model that computes in float32: see above.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return
    if dtype != torch.bfloat16 and (exact or dtype != torch.float32):
        return
    for _, layer in few_bits_linears(model):
        if isinstance(layer.held, GroupedWeight):
            layer.held = for_4_bits(layer.held)
        elif isinstance(layer.held, Int8Weight):
            scales = layer.held.scales.to(torch.bfloat16)
            layer.held = Int8Kernel(weight=replace(layer.held, scales=scales))


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Kernel:
    """Satisfies `FewBits`."""

    weight: Int8Weight

    @property
    def shape(self) -> tuple[int, int]:
        """See `FewBits`."""
        return self.weight.shape

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `FewBits`."""
        return self.weight.tensors

    @property
    def grain(self) -> int:
        """See `InSlabs`."""
        return self.weight.grain

    def rows(self, begin: int, end: int, room: Tensor) -> Tensor:
        """See `InSlabs`."""
        return self.weight.rows(begin, end, room)

    def product(self, x: Tensor, room: Room) -> Tensor:
        """By torch's kernel, for a few rows."""
        if len(x) > _FEW_ROWS_OF_8_BITS[x.dtype]:
            return by_slabs(self, x, room)
        numbers, scales = self.weight.numbers, self.weight.scales.view(-1)
        return torch._weight_int8pack_mm(x.to(scales.dtype), numbers, scales).to(x.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Int4Kernel:
    """Satisfies `FewBits`: `(number - 8) * scale + offset`."""

    packed: Tensor
    """uint8 (outputs, inputs / 2), in truth (outputs / 64, inputs, 32): see `_OUTPUTS`."""
    scales_and_offsets: Tensor
    """bfloat16 (groups, outputs, 2)."""

    @property
    def shape(self) -> tuple[int, int]:
        """See `FewBits`."""
        outputs, columns = self.packed.shape
        return outputs, columns * 2

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
        inputs = self.shape[1]
        tiles = (end - begin) // _OUTPUTS
        packed = self.packed[begin:end].view(tiles, inputs, _OUTPUTS // 2).transpose(0, 1)
        slab = room[: (end - begin) * inputs].view(inputs, tiles, 2, _OUTPUTS // 2)
        slab[:, :, 0] = packed & 15
        slab[:, :, 1] = packed >> 4
        columns = slab.view(len(self.scales_and_offsets), -1, end - begin)
        scales, offsets = self.scales_and_offsets[:, None, begin:end].unbind(-1)
        columns.sub_(8).mul_(scales).add_(offsets)
        return columns.view(inputs, end - begin).t()

    def product(self, x: Tensor, room: Room) -> Tensor:
        """By torch's kernel, for a few rows."""
        if len(x) > _FEW_ROWS_OF_4_BITS[x.dtype]:
            return by_slabs(self, x, room)
        both = self.scales_and_offsets
        size = self.shape[1] // len(both)
        out: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x.to(both.dtype), self.packed, size, both
        )
        return out.to(x.dtype)


def for_4_bits(weight: GroupedWeight) -> FewBits:
    """The same weight for the kernel; itself if the kernel does not take it."""
    both = scales_and_offsets(weight)
    if both is None or weight.shape[0] % _OUTPUTS:
        return weight
    return Int4Kernel(
        packed=torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.single.int(), 1),
        scales_and_offsets=both.to(torch.bfloat16),
    )


def scales_and_offsets(weight: GroupedWeight) -> Tensor | None:
    """(groups, outputs, 2), so that a number stands for `(number - 8) * scale + offset`: the terms
    of torch's kernels for 4 bits on every device. None if they take no such groups.
    """
    scales = finer(weight.scales[..., 0], weight.shape[1], _GROUP_SIZES)
    if scales is None or not weight.halves:
        return None
    zeros = torch.full_like(weight.scales, weight.middle) if weight.zeros is None else weight.zeros
    offsets = ((8 - zeros.float()) * weight.scales.float())[..., 0].to(scales.dtype)
    offsets = offsets.repeat_interleave(scales.shape[1] // offsets.shape[1], 1)
    return torch.stack((scales, offsets), -1).transpose(0, 1).contiguous()
