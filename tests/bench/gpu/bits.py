"""Times a layer of an 8B model in 4 bits by each way to multiply it, for few rows and many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from tgi_backend_cuda import groups
from tgi_backend_cuda.chip import nvidia_chip
from tgi_backend_cuda.groups import Groups
from tgi_backend_cuda.marlin import Marlin
from tgi_backend_torch.quant.float8 import to_float8
from tgi_backend_torch.quant.grouped import grouped
from tgi_backend_torch.quant.kernels import scales_and_offsets
from tgi_backend_torch.quant.linear import Room
from torch.nn import functional

from tests.bench.gpu.limits import Limits, seconds

_OUTPUTS, _INPUTS, _GROUP = 14336, 4096, 128
_ROWS = (1, 2, 4, 8, 16, 64, 256, 1024, 4096)


def ways(limits: Limits) -> Iterator[str]:
    """A line for each number of rows; what a way cannot do is said once."""
    half = dict(device="cuda", dtype=torch.bfloat16)
    weight = grouped(
        torch.randint(0, 16, (_OUTPUTS, _INPUTS), device="cuda", dtype=torch.uint8),
        torch.rand(_OUTPUTS, _INPUTS // _GROUP, **half) * 0.01,
        None,
        4,
        torch.bfloat16,
    )
    room, chip = Room(), nvidia_chip()
    times: dict[str, Callable[[torch.Tensor], object]] = {
        "dense, 16 bits": partial(functional.linear, weight=torch.randn(_OUTPUTS, _INPUTS, **half)),
        "unpacked": partial(weight.product, room=room),
    }
    try:
        marlin = Marlin(chip.architecture.multiprocessors).ordered(weight)
        assert marlin is not None, "it takes such a weight"
        times["Marlin"] = partial(marlin.product, room=room)
    except Exception as error:
        yield f"  Marlin: {error}"
    ours = Groups(arch=chip.architecture, float8=chip.reads_float8).ordered(weight)
    assert ours is not None, "it takes such a weight"
    times["ours"] = partial(ours.product, room=room)
    times["ours, unpacked"] = partial(ours.unpacked_product, room=room)
    pairs = (weight.single[:, ::2] << 4) | weight.single[:, 1::2]
    packed, both = torch._convert_weight_to_int4pack(pairs, 8), scales_and_offsets(weight)
    times["torch's int4"] = lambda x: torch._weight_int4pack_mm(x, packed, _GROUP, both)
    by_rows = Groups(arch=chip.architecture, float8=True).ordered(
        to_float8(torch.randn(_OUTPUTS, _INPUTS, **half), torch.bfloat16)
    )
    assert by_rows is not None, "it takes such a weight"
    times["ours, fp8"] = partial(by_rows.product, room=room)
    yield (
        f"{_OUTPUTS} x {_INPUTS} in 4 bits, groups of {_GROUP}, bfloat16; reading it takes "
        f"{sum(each.nbytes for each in weight.tensors) / limits.bytes_s * 1e6:.0f} us:"
    )
    for rows in _ROWS:
        x = torch.randn(rows, _INPUTS, **half)
        took = {
            name: seconds(partial(multiplied, x), repeats=20) * 1e6
            for name, multiplied in times.items()
        }
        told = ", ".join(f"{name} {each:.0f} us" for name, each in took.items())
        yield f"  {rows:5} rows: {told}"
    for numbers in (1 << 13, 1 << 14, 1 << 15):
        for warps in (4, 8):
            groups._NUMBERS, groups._WARPS = numbers, warps
            took = {
                rows: seconds(partial(ours.product, x[:rows], room=room), repeats=20) * 1e6
                for rows in (1, 2, 4, 8)
            }
            told = ", ".join(f"{rows} rows {each:.0f} us" for rows, each in took.items())
            yield f"  ours, programs of {numbers} numbers, {warps} warps: {told}"
