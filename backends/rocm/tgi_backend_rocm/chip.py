"""What AMD's GPUs can do, by the name of their architecture.

torch calls the device "cuda" here too, and its graphs, streams and events are HIP's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from tgi_backend_cuda.chip import Chip
from tgi_backend_cuda.tiles import Architecture, Tile


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """One generation."""

    decode: Tile
    prefill: Tile
    fp8: Mapping[str, torch.dtype]
    """MI300 reads fp8 of its own kind ("fnuz": no infinities, one zero, another bias); what comes
    after it reads everybody's."""
    extra: tuple[tuple[str, int], ...]


# A wave is 64 threads wide on CDNA, so four of them are as many as eight warps. Its compute units
# have 64 KiB of shared memory, 160 on gfx950; with more than one stage a wide head does not fit.
_WAVES = (("waves_per_eu", 2), ("matrix_instr_nonkdim", 16))
_CDNA_DECODE = Tile(rows=16, keys=64, warps=2, stages=1)
_CDNA_PREFILL = Tile(rows=128, keys=64, warps=4, stages=1)

_KINDS: Mapping[str, _Kind] = {
    "gfx90a": _Kind(decode=_CDNA_DECODE, prefill=_CDNA_PREFILL, fp8={}, extra=_WAVES),
    "gfx942": _Kind(
        decode=_CDNA_DECODE,
        prefill=_CDNA_PREFILL,
        fp8={
            "fp8_e4m3fn": torch.float8_e4m3fnuz,
            "fp8_e4m3fnuz": torch.float8_e4m3fnuz,
        },
        extra=_WAVES,
    ),
    "gfx950": _Kind(
        decode=Tile(rows=16, keys=64, warps=2, stages=2),
        prefill=Tile(rows=128, keys=64, warps=4, stages=2),
        fp8={"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2},
        extra=_WAVES,
    ),
    # RDNA: 32 threads to a wave, and no matrix instruction to choose
    "gfx11": _Kind(
        decode=Tile(rows=16, keys=32, warps=4, stages=1),
        prefill=Tile(rows=64, keys=32, warps=4, stages=1),
        fp8={},
        extra=(),
    ),
}


def describe(name: str, arch: str, multiprocessors: int, total_bytes: int) -> Chip | None:
    """What a GPU can do.

    Args:
        name: the maker's.
        arch: as ROCm names it, such as "gfx942:sramecc+:xnack-".
        multiprocessors: compute units.
        total_bytes: of its memory.

    Returns:
        None for an architecture that nobody has looked at.
    """
    base = arch.partition(":")[0]
    kind = _KINDS.get(base) or _KINDS.get(base[:5])
    if kind is None:
        return None
    return Chip(
        name=name,
        architecture=Architecture(
            name=base,
            multiprocessors=multiprocessors,
            decode=kind.decode,
            prefill=kind.prefill,
            extra=kind.extra,
        ),
        total_bytes=total_bytes,
        dtypes=frozenset({torch.float32, torch.float16, torch.bfloat16}),
        cache_dtypes=kind.fp8,
    )


def amd_chip(index: int = 0) -> Chip | None:
    """Asks torch about an AMD GPU."""
    properties = torch.cuda.get_device_properties(index)
    return describe(
        properties.name,
        properties.gcnArchName,
        properties.multi_processor_count,
        properties.total_memory,
    )


def known() -> tuple[str, ...]:
    """Architectures that have a row."""
    return tuple(_KINDS)
