"""Linear layers, by a kernel of ours where a step has few tokens, else by torch."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor, nn
from torch.nn import functional

from tgi_backend_cuda.kernels.fused import silu_and_multiply
from tgi_backend_cuda.kernels.stream import multiply
from tgi_backend_cuda.tiles import Architecture

_COLUMNS = 1024
"""Numbers that one program of an activation takes."""


class Products:
    """Products with weights (outputs, size), contiguous, on one kind of chip."""

    def __init__(self, arch: Architecture) -> None:
        self._arch = arch

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *,
        norm: nn.Module | None = None,
        into: Tensor | None = None,
    ) -> Tensor:
        """From x (..., size) to (..., outputs).

        With `norm`, an RMS norm, x is normalized before. With `into`, of the result's shape, the
        result is added to it, in its place or in another; only what is returned counts.
        """
        if self._is_short(x):
            return self._stream(x, weight, bias, len(weight), norm=norm, into=into)
        if norm is not None:
            x = norm(x)
        if into is None:
            return functional.linear(x, weight, bias)
        if bias is not None or not into.is_contiguous():
            return into + functional.linear(x, weight, bias)
        into.flatten(0, -2).addmm_(x.flatten(0, -2), weight.t())
        return into

    def layer(self, module: Any, x: Tensor, into: Tensor | None = None) -> Tensor:
        """The same by a layer, whose hooks are heeded."""
        if not hooked(module):
            return self.linear(x, module.weight, module.bias, into=into)
        out: Tensor = module(x)
        return out if into is None else into + out

    def gated(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, *, norm: nn.Module | None = None
    ) -> Tensor:
        """From x (..., size) to silu(gate) * value (..., half of the outputs).

        The first half of the weights makes gates, the other one values. For `norm` see `linear`.
        """
        size = len(weight) // 2
        if self._is_short(x):
            return self._stream(x, weight, bias, size, paired=True, norm=norm)
        both = functional.linear(x if norm is None else norm(x), weight, bias)
        active = both.new_empty(*both.shape[:-1], size)
        grid = (both.numel() // (2 * size), triton.cdiv(size, _COLUMNS))
        silu_and_multiply[grid](active, both, SIZE=size, COLUMNS=_COLUMNS, num_warps=4)
        return active

    def _is_short(self, x: Tensor) -> bool:
        stream = self._arch.stream
        if stream is None or not x.is_contiguous():
            return False
        tokens = x.numel() // x.shape[-1]
        # tiles are powers of two
        return tokens <= stream.most_tokens and tokens & (tokens - 1) == 0

    def _stream(
        self,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        num_outputs: int,
        *,
        paired: bool = False,
        norm: Any = None,
        into: Tensor | None = None,
    ) -> Tensor:
        arch, stream = self._arch, self._arch.stream
        assert stream is not None
        size = x.shape[-1]
        pad = triton.next_power_of_2(size)
        rows = max(1, stream.numbers // (2 * pad if paired else pad))
        out = x.new_empty(*x.shape[:-1], num_outputs)
        multiply[(triton.cdiv(num_outputs, rows),)](
            out,
            x,
            weight,
            out if bias is None else bias,
            out if into is None else into,
            out if norm is None else norm.weight,
            0.0 if norm is None else norm.variance_epsilon,
            num_outputs,
            SIZE=size,
            PAD=pad,
            TOKENS=x.numel() // size,
            ROWS=rows,
            NORMED=norm is not None,
            PAIRED=paired,
            BIASED=bias is not None,
            ADDED=into is not None,
            EARLY=arch.early,
            num_warps=stream.warps,
            **arch.launch,
        )
        return out


def merged(*linears: Any) -> tuple[Tensor, Tensor | None]:
    """The weights of several layers in one, (all outputs, size), and their biases."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias for linear in linears]
    if all(bias is None for bias in biases):
        return weight, None
    given = [
        weight.new_zeros(linear.out_features) if bias is None else bias.detach()
        for linear, bias in zip(linears, biases, strict=True)
    ]
    return weight, torch.cat(given)


def share(weight: Tensor, bias: Tensor | None, *linears: Any) -> None:
    """Lets the layers use their parts of the merged weights, so that none is there twice."""
    begin = 0
    for linear in linears:
        end = begin + linear.out_features
        linear.weight = nn.Parameter(weight[begin:end], requires_grad=False)
        if linear.bias is not None and bias is not None:
            linear.bias = nn.Parameter(bias[begin:end], requires_grad=False)
        begin = end


def hooked(*modules: nn.Module) -> bool:
    """Whether something else than the layer itself has a part in what it gives."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)
