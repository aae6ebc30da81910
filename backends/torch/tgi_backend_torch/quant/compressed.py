"""compressed-tensors, as llm-compressor writes it: packed integers, plain int8, and FP8.

Each group of layers has a scheme of its own. Activations are not rounded, whatever it says of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tgi_backend_torch.quant.bits import WORD, unpack
from tgi_backend_torch.quant.float8 import FLOAT8
from tgi_backend_torch.quant.fp8 import read_float8
from tgi_backend_torch.quant.grouped import GroupedWeight, even, grouped
from tgi_backend_torch.quant.int8 import Int8Weight
from tgi_backend_torch.quant.stored import ReadLayer, Stored, order_of
from tgi_core.errors import BadModel, UnsupportedModel

_BITS = (2, 4, 8)
_EVERY_LAYER = "Linear"
_FORMATS = {
    "dense",
    "pack-quantized",
    "int-quantized",
    "float-quantized",
    "naive-quantized",
    "mixed-precision",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scheme:
    """How some layers' weights are held."""

    targets: tuple[str, ...]
    bits: int
    symmetric: bool
    group_size: int | None
    block: tuple[int, int] | None

    def is_for(self, layer: str) -> bool:
        """Whether its targets name the layer, or match it, or are all."""
        return any(
            target in (_EVERY_LAYER, layer)
            or (target.startswith("re:") and re.match(target[3:], layer))
            for target in self.targets
        )


@dataclass(frozen=True, slots=True)
class CompressedFormat:
    """Satisfies `Format`."""

    schemes: tuple[_Scheme, ...]
    name = "compressed-tensors"
    marks = ("weight_packed", "weight_scale")

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> CompressedFormat:
        """From what config.json says.

        Raises:
            UnsupportedModel: it is a format that is not read, or makes no sense.
        """
        groups = told.get("config_groups")
        if not isinstance(groups, dict) or not groups:
            raise UnsupportedModel("compressed-tensors without config_groups says nothing.")
        names = {told.get("format"), *(g.get("format") for g in groups.values() if _is_dict(g))}
        if strange := sorted(str(name) for name in names - _FORMATS - {None}):
            raise UnsupportedModel(
                f"compressed-tensors in the format {', '.join(strange)} is not read here: it is "
                "made for NVIDIA GPUs (marlin and 2:4 sparsity from Ampere on, FP4 from Blackwell "
                "on)."
            )
        return cls(tuple(_scheme(group) for group in groups.values()))

    def read(self, stored: Stored, dtype: torch.dtype) -> ReadLayer:
        """See `Format.read`."""
        scheme = next((s for s in self.schemes if s.is_for(stored.name)), None)
        if scheme is None:
            if len(self.schemes) > 1:
                raise BadModel(f"config.json has no group of layers that {stored.name} is of.")
            scheme = self.schemes[0]
        if "weight_packed" in stored.tensors:
            return _packed(stored, scheme, dtype)
        numbers = stored.take("weight", *stored.shape)
        if numbers.dtype in FLOAT8.values():
            return ReadLayer(weight=read_float8(stored, scheme.block, dtype))
        return ReadLayer(weight=_plain(stored, numbers, scheme, dtype))


def _packed(stored: Stored, scheme: _Scheme, dtype: torch.dtype) -> ReadLayer:
    outputs, inputs = stored.shape
    bits = scheme.bits
    words = stored.take("weight_packed", outputs, -(-inputs * bits // WORD), dtype=torch.int32)
    numbers = unpack(words, bits)[:, :inputs]
    size, scales = _scales(stored, scheme)
    order = order_of(stored, "weight_g_idx", size, "weight_g_idx" in stored.tensors)
    if order is not None:
        numbers = numbers[:, order]
    weight = grouped(numbers, even(scales, size, inputs), _zeros(stored, scheme, size), bits, dtype)
    return ReadLayer(weight=weight, order=order)


def _plain(
    stored: Stored, numbers: Tensor, scheme: _Scheme, dtype: torch.dtype
) -> Int8Weight | GroupedWeight:
    if numbers.dtype != torch.int8:
        raise BadModel(f"{stored.name}.weight is {numbers.dtype}, and should be of 8 bits.")
    size, scales = _scales(stored, scheme)
    if scheme.symmetric and scales.shape[1] == 1:
        return Int8Weight(numbers=numbers.contiguous(), scales=scales.to(dtype))
    unsigned = (numbers.int() + 128).to(torch.uint8)
    scales = even(scales, size, stored.shape[1])
    return grouped(unsigned, scales, _zeros(stored, scheme, size), 8, dtype)


def _zeros(stored: Stored, scheme: _Scheme, size: int) -> Tensor | None:
    """Zero points of numbers without sign, (outputs, groups); None if all are the middle."""
    if scheme.symmetric:
        return None
    outputs, inputs = stored.shape
    zeros = stored.take("weight_zero_point")
    if zeros.dtype == torch.int32:
        zeros = unpack(zeros.t(), scheme.bits).t()[:outputs]
    else:
        zeros = zeros.int() + (1 << (scheme.bits - 1))
    if zeros.numel() == 1:
        zeros = zeros.reshape(1, 1).expand(outputs, 1)
    return even(zeros, size, inputs)


def _scales(stored: Stored, scheme: _Scheme) -> tuple[int, Tensor]:
    """Inputs in a group, and the scales, (outputs, groups)."""
    outputs, inputs = stored.shape
    size = scheme.group_size or inputs
    scales = stored.take("weight_scale")
    if scales.numel() == 1:
        scales = scales.reshape(1, 1).expand(outputs, 1)
    if scales.shape != (outputs, -(-inputs // size)):
        raise BadModel(
            f"{stored.name}.weight_scale is of shape {tuple(scales.shape)}, for {outputs} outputs "
            f"and groups of {size} of {inputs} inputs."
        )
    return size, scales


def _scheme(group: object) -> _Scheme:
    weights = group.get("weights") if isinstance(group, dict) else None
    targets = group.get("targets") if isinstance(group, dict) else None
    if not isinstance(weights, dict) or not isinstance(targets, list):
        raise UnsupportedModel("a group of compressed-tensors has no targets, or no weights.")
    for target in map(str, targets):
        if target.startswith("re:"):
            _check_pattern(target[3:])
    bits, size = weights.get("num_bits"), weights.get("group_size")
    block = weights.get("block_structure")
    if bits not in _BITS:
        raise UnsupportedModel(f"compressed-tensors of {bits} bits is not read; {_BITS} are.")
    return _Scheme(
        targets=tuple(str(target) for target in targets),
        bits=bits,
        symmetric=bool(weights.get("symmetric", True)),
        group_size=size if isinstance(size, int) and size > 0 else None,
        block=(int(block[0]), int(block[1]))
        if isinstance(block, list) and len(block) == 2
        else None,
    )


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UnsupportedModel(
            f"compressed-tensors names layers by {pattern!r}, which is no regular expression "
            f"({error})."
        ) from error


def _is_dict(value: object) -> bool:
    return isinstance(value, dict)
