"""Times a layer of an 8B model in few bits by each way to multiply it, for few rows and many.

In graphs, for a launch takes the host longer than some of these take the device, and of several
copies in turn, for one would stay in the L2 cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from tgi_backend_cuda.chip import nvidia_chip
from tgi_backend_cuda.groups import Groups, GroupsWeight
from tgi_backend_cuda.marlin import Marlin
from tgi_backend_torch.quant.float8 import to_float8
from tgi_backend_torch.quant.grouped import GroupedWeight, grouped
from tgi_backend_torch.quant.kernels import scales_and_offsets
from tgi_backend_torch.quant.linear import FewBits, Room
from torch import Tensor
from torch.nn import functional

from tests.bench.gpu.limits import Limits, seconds

_OUTPUTS, _INPUTS, _GROUP = 14336, 4096, 128
_ROWS = (1, 2, 4, 8, 16, 64, 256, 1024, 4096)
_COPIES = 5
_HALF = dict(device="cuda", dtype=torch.bfloat16)

Way = Callable[[Tensor], object]


def ways(limits: Limits) -> Iterator[str]:
    """A line for each number of rows; what a way cannot do is said once."""
    weights = [_weight() for _ in range(_COPIES)]
    room, chip = Room(), nvidia_chip()
    kernel = Groups(arch=chip.architecture, float8=chip.reads_float8)
    ours = [_taken(kernel.ordered(weight)) for weight in weights]
    times: dict[str, Sequence[Way]] = {
        "dense, 16 bits": [_dense() for _ in range(_COPIES)],
        "unpacked in slabs": [lambda x: weights[0].product(x, room)],
        "ours": _products(ours, room),
        "ours, unpacked": [lambda x, each=each: each.unpacked_product(x, room) for each in ours],
        "torch's int4": [_int4(weight) for weight in weights],
    }
    if chip.reads_float8:
        float8 = [to_float8(torch.randn(_OUTPUTS, _INPUTS, **_HALF), torch.bfloat16)] * 2
        times["ours, fp8"] = _products([_taken(kernel.ordered(each)) for each in float8], room)
    try:
        marlin = Marlin(chip.architecture.multiprocessors)
        times["Marlin"] = _products([_taken(marlin.ordered(weight)) for weight in weights], room)
    except Exception as error:
        yield f"  Marlin: {error}"
    yield (
        f"{_OUTPUTS} x {_INPUTS} in 4 bits, groups of {_GROUP}, bfloat16; reading it takes "
        f"{sum(each.nbytes for each in weights[0].tensors) / limits.bytes_s * 1e6:.0f} us:"
    )
    for rows in _ROWS:
        x = torch.randn(rows, _INPUTS, **_HALF)
        told = ", ".join(f"{name} {_us(each, x):.0f} us" for name, each in times.items())
        yield f"  {rows:5} rows: {told}"


def _us(ways: Sequence[Way], x: Tensor) -> float:
    """Microseconds of each, in turn."""
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.inference_mode():
        ways[0](x)
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            for way in ways:
                way(x)
    return seconds(graph.replay, repeats=10) / len(ways) * 1e6


def _weight() -> GroupedWeight:
    return grouped(
        torch.randint(0, 16, (_OUTPUTS, _INPUTS), device="cuda", dtype=torch.uint8),
        torch.rand(_OUTPUTS, _INPUTS // _GROUP, **_HALF) * 0.01,
        None,
        4,
        torch.bfloat16,
    )


def _dense() -> Way:
    weight = torch.randn(_OUTPUTS, _INPUTS, **_HALF)
    return lambda x: functional.linear(x, weight)


def _int4(weight: GroupedWeight) -> Way:
    pairs = (weight.single[:, ::2] << 4) | weight.single[:, 1::2]
    packed, both = torch._convert_weight_to_int4pack(pairs, 8), scales_and_offsets(weight)
    return lambda x: torch._weight_int4pack_mm(x, packed, _GROUP, both)


def _products(weights: Sequence[FewBits], room: Room) -> list[Way]:
    return [lambda x, each=each: each.product(x, room) for each in weights]


def _taken(weight: FewBits | GroupsWeight | None) -> GroupsWeight:
    assert weight is not None, "it takes such a weight"
    return weight  # type: ignore[return-value]
