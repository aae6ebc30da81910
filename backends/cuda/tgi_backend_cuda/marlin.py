"""Marlin's kernels for weights of 4 and 8 bits (Frantar et al., arXiv 2408.11743), from Ampere on.

vLLM's, as the package `kernels` brings them from the Hugging Face hub. They multiply any number of
rows and allocate with torch alone, so graphs hold them; the locks that their programs add up by are
all free again at their end, and one set of them serves all layers, which run in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tgi_backend_torch.quant.bits import pack
from tgi_backend_torch.quant.float8 import Float8Weight
from tgi_backend_torch.quant.grouped import GroupedWeight, finer
from tgi_backend_torch.quant.int8 import Int8Weight
from tgi_backend_torch.quant.linear import FewBits, Room
from tgi_backend_torch.quant.marlin import reordered
from torch import Tensor

_REPOSITORY, _VERSION = "kernels-community/vllm-quantization", 0
_INPUTS, _OUTPUTS = 128, 64
"""Of the tiles that it has for any number of rows."""
_GROUP_SIZES = (32, 64, 128)
_FLOAT8_GROUP_SIZES = (128,)
_FLOAT8_EXPONENT = {torch.float16: 2.0**8, torch.bfloat16: 2.0**120}
"""The kernel widens floats of 8 bits by shifting them, and leaves their exponents too small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """A weight in the kernel's terms."""

    kind: str
    """As the library calls the numbers."""
    bits: int
    numbers: Tensor
    """uint8 (outputs, inputs)."""
    scales: Tensor | None
    """(outputs, groups); None if there are no such groups."""
    zeros: Tensor | None = None
    """Likewise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MarlinWeight:
    """Satisfies `FewBits`."""

    shape: tuple[int, int]
    words: Tensor
    """int32 (inputs / 16, outputs * 2 or 4)."""
    scales: Tensor
    """(groups, outputs), reordered."""
    zeros: Tensor | None
    """int32 (groups, outputs / 8), reordered."""
    locks: Tensor
    """int32, zeros between two calls."""
    library: Any
    kind: Any

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """See `FewBits`."""
        zeros = () if self.zeros is None else (self.zeros,)
        return (self.words, self.scales, *zeros)

    def product(self, x: Tensor, room: Room) -> Tensor:
        """Adds up in float32."""
        outputs, inputs = self.shape
        out: Tensor = self.library.gptq_marlin_gemm(
            a=x.contiguous(),
            c=None,
            b_q_weight=self.words,
            b_scales=self.scales,
            global_scale=None,
            b_zeros=self.zeros,
            g_idx=None,
            perm=None,
            workspace=self.locks,
            b_q_type=self.kind,
            size_m=len(x),
            size_n=outputs,
            size_k=inputs,
            is_k_full=True,
            use_atomic_add=False,
            use_fp32_reduce=True,
            is_zp_float=False,
        )
        return out


class Marlin:
    """Satisfies `Kernel`."""

    name = "Marlin"

    def __init__(self, multiprocessors: int) -> None:
        self._multiprocessors = multiprocessors
        self._library: Any = None
        self._locks: Tensor | None = None

    def library(self) -> Any:
        """Fetched when it is first asked for.

        Raises:
            ImportError: the package `kernels` is not installed.
            Exception: whatever it raises where the hub has nothing for this machine.
        """
        if self._library is None:
            try:
                from kernels import get_kernel
            except ImportError as error:
                raise ImportError(
                    "the package kernels is not installed (pip install 'tgi-backend-cuda[marlin]')"
                ) from error
            self._library = get_kernel(_REPOSITORY, version=_VERSION)
        return self._library

    def ordered(self, weight: FewBits) -> MarlinWeight | None:
        """See `Kernel.ordered`; and `library` for what it raises."""
        outputs, inputs = weight.shape
        given = _given(weight) if not outputs % _OUTPUTS and not inputs % _INPUTS else None
        if given is None or given.scales is None:
            return None
        library, device = self.library(), given.numbers.device
        if self._locks is None:
            self._locks = torch.zeros(self._multiprocessors, dtype=torch.int32, device=device)
        return MarlinWeight(
            shape=(outputs, inputs),
            words=library.gptq_marlin_repack(
                b_q_weight=_words(given.numbers, given.bits),
                perm=torch.empty(0, dtype=torch.int32, device=device),
                size_k=inputs,
                size_n=outputs,
                num_bits=given.bits,
            ),
            scales=reordered(given.scales.t()).contiguous(),
            zeros=None if given.zeros is None else _zeros(given.zeros.t()),
            locks=self._locks,
            library=library,
            kind=getattr(library.scalar_types, given.kind),
        )


def _given(weight: FewBits) -> _Given | None:
    inputs = weight.shape[1]
    match weight:
        case GroupedWeight():
            return _of_groups(weight)
        case Int8Weight(numbers=numbers, scales=scales):
            # as numbers without a sign, 128 more
            return _Given(
                kind="uint8b128", bits=8, numbers=numbers.view(torch.uint8) ^ 128, scales=scales
            )
        case Float8Weight(numbers=numbers) if numbers.dtype == torch.float8_e4m3fn:
            scales = weight.scales.float() * _FLOAT8_EXPONENT[weight.scales.dtype]
            return _Given(
                kind="float8_e4m3fn",
                bits=8,
                numbers=numbers.view(torch.uint8),
                scales=_grouped(scales.to(weight.scales.dtype), inputs, _FLOAT8_GROUP_SIZES),
            )
        case _:
            return None


def _of_groups(weight: GroupedWeight) -> _Given | None:
    middle, inputs = weight.middle, weight.shape[1]
    zeros = weight.zeros
    if zeros is not None and bool((zeros == middle).all()):
        zeros = None  # as GPTQ's files have them where they are symmetric
    if zeros is None and middle in (8, 128):
        kind, bits = ("uint4b8", 4) if middle == 8 else ("uint8b128", 8)
    elif middle <= 8:
        kind, bits = "uint4", 4
        zeros = torch.full_like(weight.scales, middle) if zeros is None else zeros
    else:
        return None  # it has no zero points of 8 bits
    return _Given(
        kind=kind,
        bits=bits,
        numbers=weight.single,
        scales=_grouped(weight.scales, inputs, _GROUP_SIZES),
        zeros=None if zeros is None else _grouped(zeros, inputs, _GROUP_SIZES),
    )


def _grouped(values: Tensor, inputs: int, sizes: tuple[int, ...]) -> Tensor | None:
    """(outputs, groups, 1) -> (outputs, groups) as the kernel has them, which may be one."""
    flat = values[..., 0]
    return flat if flat.shape[1] == 1 else finer(flat, inputs, sizes)


def _words(numbers: Tensor, bits: int) -> Tensor:
    """uint8 (outputs, inputs) -> int32 (inputs / 8 or 4, outputs), as GPTQ's files have them."""
    if bits == 4:
        numbers = numbers[:, ::2] | (numbers[:, 1::2] << 4)
    return numbers.contiguous().view(torch.int32).t().contiguous()


def _zeros(zeros: Tensor) -> Tensor:
    """(groups, outputs) -> int32 (groups, outputs / 8): reordered as scales of many groups are, and
    in each word the even ones first.
    """
    ordered = zeros.reshape(len(zeros), -1, 8, 8).transpose(2, 3)
    return pack(ordered.reshape(len(zeros), -1, 4, 2).transpose(2, 3).reshape(len(zeros), -1), 4)
