"""What one GPU can do, read once from its driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tgi_backend_cuda.tiles import Architecture, nvidia

_AMPERE = (8, 0)
_FP8_FROM = (8, 9)
"""Older chips have no instruction that reads fp8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """One GPU."""

    name: str
    """As its maker calls it."""
    architecture: Architecture
    total_bytes: int
    dtypes: frozenset[torch.dtype]
    """What it computes in at full speed, or at all."""
    cache_dtypes: Mapping[str, torch.dtype]
    """What keys and values can be kept in besides the model's dtype, by the operator's word."""
    marlin: bool = False
    """Whether Marlin's kernels are made for it."""

    @property
    def reads_float8(self) -> bool:
        """Whether its instructions read e4m3 as checkpoints have it."""
        return torch.float8_e4m3fn in self.cache_dtypes.values()


def nvidia_chip(index: int = 0) -> Chip:
    """Asks torch about an NVIDIA GPU."""
    properties = torch.cuda.get_device_properties(index)
    capability = (properties.major, properties.minor)
    return describe(
        properties.name, capability, properties.multi_processor_count, properties.total_memory
    )


def describe(
    name: str, capability: tuple[int, int], multiprocessors: int, total_bytes: int
) -> Chip:
    """What an NVIDIA GPU of this compute capability can do."""
    dtypes = {torch.float32, torch.float16}
    if capability >= _AMPERE:
        dtypes.add(torch.bfloat16)
    fp8 = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}
    return Chip(
        name=name,
        architecture=nvidia(capability, multiprocessors),
        total_bytes=total_bytes,
        dtypes=frozenset(dtypes),
        cache_dtypes=fp8 if capability >= _FP8_FROM else {},
        marlin=capability >= _AMPERE,
    )
