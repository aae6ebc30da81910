"""Marlin's kernels for weights in few bits, which need a GPU, on the CPU.

They have the signatures of kernels-community/vllm-quantization, version 0, refuse what those
refuse, and look for each number where a GPU's thread would. Only rounding is not theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from tests.quantized import marlin_places, marlin_scale_places

_BITS = {"uint4": 4, "uint4b8": 4, "uint8b128": 8, "float8_e4m3fn": 8}
_ZERO = {"uint4b8": 8, "uint8b128": 128}
_SHIFTED = {torch.float16: 2.0**8, torch.bfloat16: 2.0**120}


def check(holds: bool, what: str) -> None:
    if not holds:
        raise RuntimeError(what)


@dataclass(slots=True)
class MarlinLibrary:
    """What `get_kernel` gives."""

    wrong: bool = False
    """Multiplies by other numbers."""
    multiprocessors: int = 132
    multiplied: int = 0

    scalar_types = SimpleNamespace(**{name: name for name in _BITS})

    def gptq_marlin_repack(
        self, b_q_weight: Tensor, perm: Tensor, size_k: int, size_n: int, num_bits: int
    ) -> Tensor:
        check(size_k % 16 == 0 and size_n % 64 == 0, "tiles are 16 x 64")
        check(num_bits in (4, 8) and perm.dtype == torch.int32 and len(perm) == 0, "no order")
        check(b_q_weight.dtype == torch.int32 and b_q_weight.is_contiguous(), "int32")
        check(b_q_weight.shape == (size_k * num_bits // 32, size_n), "words of GPTQ")
        words = b_q_weight.numpy().view(np.uint32)
        k = np.arange(size_k)[:, None] * num_bits
        numbers = (words[k[:, 0] // 32] >> (k % 32).astype(np.uint32)) & ((1 << num_bits) - 1)
        row, word, shift = marlin_places(size_k, size_n, num_bits)
        out = np.zeros((size_k // 16, size_n * 16 * num_bits // 32), np.uint32)
        np.bitwise_or.at(out, (row, word), numbers << shift.astype(np.uint32))
        return torch.from_numpy(out.view(np.int32))

    def gptq_marlin_gemm(
        self,
        a: Tensor,
        c: Tensor | None,
        b_q_weight: Tensor,
        b_scales: Tensor,
        global_scale: Tensor | None,
        b_zeros: Tensor | None,
        g_idx: Tensor | None,
        perm: Tensor | None,
        workspace: Tensor,
        b_q_type: str,
        size_m: int,
        size_n: int,
        size_k: int,
        is_k_full: bool = True,
        use_atomic_add: bool = False,
        use_fp32_reduce: bool = False,
        is_zp_float: bool = False,
    ) -> Tensor:
        bits, groups = _BITS[b_q_type], len(b_scales)
        size = size_k // groups
        float8 = b_q_type.startswith("float8")
        check(a.shape == (size_m, size_k) and a.is_contiguous(), "a")
        check(a.dtype in _SHIFTED and b_scales.dtype == a.dtype, "16 bits")
        check(b_q_weight.shape == (size_k // 16, size_n * 16 * bits // 32), "b_q_weight")
        check(b_scales.shape == (groups, size_n) and b_scales.is_contiguous(), "b_scales")
        check(groups == 1 or size in ((128,) if float8 else (32, 64, 128)), "groups")
        check(size_n % 64 == 0 and size_k % 128 == 0, "no tile fits")
        check((b_zeros is not None) == (b_q_type == "uint4"), "zeros")
        check(
            workspace.dtype == torch.int32 and len(workspace) >= self.multiprocessors, "workspace"
        )
        check(not workspace.any(), "locks are taken")
        check(c is None and global_scale is None and g_idx is None and perm is None, "not here")
        check(is_k_full and not use_atomic_add and use_fp32_reduce and not is_zp_float, "flags")
        self.multiplied += 1
        row, word, shift = marlin_places(size_k, size_n, bits)
        words = b_q_weight.numpy().view(np.uint32)
        numbers = (words[row, word] >> shift.astype(np.uint32)) & ((1 << bits) - 1)
        scales = b_scales.float()[:, marlin_scale_places(size_n, groups)]
        if float8:
            as_bytes = torch.from_numpy(numbers.astype(np.uint8))
            values = as_bytes.view(torch.float8_e4m3fn).float()
            scales = scales / _SHIFTED[a.dtype]
        else:
            zeros = _ZERO.get(b_q_type)
            values = torch.from_numpy(numbers.astype(np.float32))
            values -= zeros if zeros is not None else spread(zeros_of(b_zeros, size_n), size)
        if self.wrong:
            values = values.roll(1, 0)
        return (a.float() @ (values * spread(scales, size))).to(a.dtype)


def spread(values: Tensor, size: int) -> Tensor:
    return values.repeat_interleave(size, 0)


def zeros_of(words: Tensor, size_n: int) -> Tensor:
    """int32 (groups, outputs / 8) -> (groups, outputs)."""
    check(words.shape[1] == size_n // 8 and words.dtype == torch.int32, "b_zeros")
    place = marlin_scale_places(size_n, 2)  # as scales of many groups, also for one
    nibble = (place % 8 // 2) + 4 * (place % 2)
    numbers = words.numpy().view(np.uint32)[:, place // 8] >> (4 * nibble).astype(np.uint32)
    return torch.from_numpy((numbers & 15).astype(np.float32))


def hub(library: MarlinLibrary) -> ModuleType:
    """The package `kernels`, with one kernel on its hub."""
    module = ModuleType("kernels")

    def get_kernel(repo_id: str, *, revision: str | None = None, version: int | None = None):
        check(repo_id == "kernels-community/vllm-quantization", f"no such kernel: {repo_id}")
        check(revision is None and version == 0, "a version or a revision must be given")
        return library

    module.get_kernel = get_kernel
    return module
