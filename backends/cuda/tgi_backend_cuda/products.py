"""Linear layers, by a kernel of ours where a step has few tokens, else by torch."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor, nn
from torch.nn import functional

from tgi_backend_cuda.kernels.fused import silu_and_multiply
from tgi_backend_cuda.kernels.stream import choose, multiply, multiply_chosen
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
        if self.is_short(x):
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
        if self.is_short(x):
            return self._stream(x, weight, bias, size, paired=True, norm=norm)
        both = functional.linear(x if norm is None else norm(x), weight, bias)
        active = both.new_empty(*both.shape[:-1], size)
        grid = (both.numel() // (2 * size), triton.cdiv(size, _COLUMNS))
        silu_and_multiply[grid](active, both, SIZE=size, COLUMNS=_COLUMNS, num_warps=4)
        return active

    def experts(
        self, x: Tensor, gate_up: Tensor, down: Tensor, chosen: Tensor, weights: Tensor
    ) -> Tensor:
        """What the chosen experts make of a few tokens (see `is_short`), added up.

        Args:
            x: (T, size).
            gate_up: (experts, 2 * inner, size), gates and then values.
            down: (experts, size, inner).
            chosen: int64 (T, K).
            weights: (T, K), what each expert counts.
        """
        num_tokens, num_choices = chosen.shape
        active = self._stream_chosen(x, gate_up, chosen, num_choices, paired=True)
        made = self._stream_chosen(active, down, chosen, 1)
        weighted = made.view(num_tokens, num_choices, -1) * weights[..., None].to(x.dtype)
        return weighted.sum(1)

    def router(
        self,
        x: Tensor,
        weight: Tensor,
        num_choices: int,
        logits_dtype: torch.dtype,
        scores_dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (T, experts) of x (T, size), the scores (T, K) of the K most probable experts,
        which add up to one, and which they are, int64 (T, K).
        """
        arch, num_tokens = self._arch, len(x)
        num_experts, size = weight.shape
        logits = x.new_empty(num_tokens, num_experts, dtype=logits_dtype)
        scores = x.new_empty(num_tokens, num_choices, dtype=scores_dtype)
        chosen = x.new_empty(num_tokens, num_choices, dtype=torch.int64)
        choose[(num_tokens,)](
            logits,
            scores,
            chosen,
            x,
            weight,
            SIZE=size,
            PAD=triton.next_power_of_2(size),
            EXPERTS=num_experts,
            EXPERTS_PAD=triton.next_power_of_2(num_experts),
            CHOICES=num_choices,
            EARLY=arch.early,
            num_warps=8,
            **arch.launch,
        )
        return logits, scores, chosen

    def is_short(self, x: Tensor) -> bool:
        """Whether the tokens of x (..., size) are so few that our kernels are faster."""
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
        pad, num_tokens = triton.next_power_of_2(size), x.numel() // size
        rows, warps = stream.program(pad, 2 if paired else 1)
        num_blocks = triton.cdiv(num_outputs, rows)
        num_programs = arch.multiprocessors * stream.resident_warps // warps
        looped = num_tokens == 1 and rows > 1 and num_blocks > num_programs * stream.rounds
        if looped:
            # half of the weights are under way while the other half is computed
            rows //= 2
            num_blocks = triton.cdiv(num_outputs, rows)
        else:
            num_programs = num_blocks
        out = x.new_empty(*x.shape[:-1], num_outputs)
        multiply[(num_programs,)](
            out,
            x,
            weight,
            out if bias is None else bias,
            out if into is None else into,
            out if norm is None else norm.weight,
            0.0 if norm is None else norm.variance_epsilon,
            num_outputs,
            num_blocks,
            SIZE=size,
            PAD=pad,
            TOKENS=num_tokens,
            ROWS=rows,
            NORMED=norm is not None,
            PAIRED=paired,
            BIASED=bias is not None,
            ADDED=into is not None,
            LOOPED=looped,
            EARLY=arch.early,
            num_warps=warps,
            maxnreg=stream.registers,
            **arch.launch,
        )
        return out

    def _stream_chosen(
        self, x: Tensor, weight: Tensor, chosen: Tensor, shared: int, *, paired: bool = False
    ) -> Tensor:
        arch, stream = self._arch, self._arch.stream
        assert stream is not None
        size = x.shape[-1]
        pad = triton.next_power_of_2(size)
        rows, warps = stream.program(pad, 2 if paired else 1)
        num_outputs = weight.shape[1] // 2 if paired else weight.shape[1]
        out = x.new_empty(chosen.numel(), num_outputs)
        multiply_chosen[(triton.cdiv(num_outputs, rows), chosen.numel())](
            out,
            x,
            weight,
            chosen.contiguous(),
            num_outputs,
            SIZE=size,
            PAD=pad,
            ROWS=rows,
            SHARED=shared,
            PAIRED=paired,
            EARLY=arch.early,
            num_warps=warps,
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
