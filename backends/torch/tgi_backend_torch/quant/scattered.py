"""Some columns of a weight in groups, each of which names its group: what one rank has of columns
that lie in the order of activations, where the groups that it sees are of any size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from tgi_backend_torch.quant.grouped import GroupedWeight
from tgi_backend_torch.quant.linear import Room, by_slabs


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatteredWeight:
    """Satisfies `FewBits`: `(number - zero) * scale`."""

    columns: GroupedWeight
    """Their numbers, and scales and zeros of all groups of the layer."""
    groups: Tensor
    """int64 (inputs,): which is each column's."""

    @property
    def shape(self) -> tuple[int, int]:
        """See `FewBits`."""
        return self.columns.shape

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `FewBits`."""
        return (*self.columns.tensors, self.groups)

    @property
    def grain(self) -> int:
        """See `InSlabs`."""
        return 1

    def rows(self, begin: int, end: int, room: Tensor) -> Tensor:
        """See `InSlabs`."""
        columns = self.columns
        slab = columns.unpacked(begin, end, room)
        if columns.zeros is None:
            slab.sub_(columns.middle)
        else:
            slab.sub_(columns.zeros[begin:end, :, 0].index_select(1, self.groups))
        return slab.mul_(columns.scales[begin:end, :, 0].index_select(1, self.groups))

    def product(self, x: Tensor, room: Room) -> Tensor:
        """See `FewBits`."""
        return by_slabs(self, x, room)


def scattered(weight: GroupedWeight, places: Tensor) -> ScatteredWeight:
    """Some columns of a weight.

    Args:
        weight: all of it.
        places: int64 (n,), which columns.
    """
    groups = places // (weight.shape[1] // weight.scales.shape[1])
    return ScatteredWeight(columns=weight.choose(places), groups=groups)
