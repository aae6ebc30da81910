"""Replaces what modules do between matrix products by our kernels, where a trial shows the same.

Products that read the same input become one. The weights stay where they were, as parts of the
merged ones, so adapters find their layers; a layer that an adapter has hooked computes as before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from tgi_backend_torch.attention import BoundLayer
from tgi_backend_torch.replaced import Asked, Call, calls_of, is_alike, is_rms_norm, take
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tgi_backend_cuda.kernels.fused import rms_norm, rotate, silu_and_multiply

_COLUMNS = 1024
"""Numbers that one program of an activation takes."""


@dataclass(slots=True, kw_only=True)
class Fused:
    """How many modules were replaced."""

    norms: int = 0
    mlps: int = 0
    attentions: int = 0


def fuse(model: PreTrainedModel) -> Fused:
    """Replaces the `forward` of modules, in place."""
    counts = Fused()
    for call in calls_of(model, lambda m: is_rms_norm(m) or _is_mlp(m) or _is_attention(m)):
        if _fuse_norm(call):
            counts.norms += 1
        elif _fuse_mlp(call):
            counts.mlps += 1
        elif _fuse_attention(call):
            counts.attentions += 1
    return counts


def _is_mlp(module: nn.Module) -> bool:
    return _has_linears(module, "gate_proj", "up_proj", "down_proj")


def _is_attention(module: nn.Module) -> bool:
    return _has_linears(module, "q_proj", "k_proj", "v_proj", "o_proj") and isinstance(
        getattr(module, "head_dim", None), int
    )


def _has_linears(module: nn.Module, *names: str) -> bool:
    return all(type(getattr(module, name, None)) is nn.Linear for name in names)


@torch.no_grad()
def _fuse_norm(call: Call) -> bool:
    module = call.module
    if not is_rms_norm(module):
        return False
    epsilon: float = module.variance_epsilon  # type: ignore[assignment]
    weight: Tensor = module.weight  # type: ignore[assignment]
    # a kernel that is handed less than it reads does not fail, it reads on
    if call.args[0].shape[-1] != len(weight):
        return False

    def forward(x: Tensor) -> Tensor:
        x = x.contiguous()
        out = torch.empty_like(x)
        size = x.shape[-1]
        pad = triton.next_power_of_2(size)
        warps = min(16, max(1, pad // 512))
        rms_norm[(x.numel() // size,)](out, x, weight, epsilon, SIZE=size, PAD=pad, num_warps=warps)
        return out

    return take(call, forward, lambda found: is_alike(found, call.result))


@torch.no_grad()
def _fuse_mlp(call: Call) -> bool:
    module: Any = call.module
    if not _is_mlp(module):
        return False
    original, gate, up = module.forward, module.gate_proj, module.up_proj
    weight, bias = _merged(gate, up)
    size = gate.out_features

    def forward(x: Tensor) -> Tensor:
        if _hooked(gate, up):
            result: Tensor = original(x)
            return result
        both = functional.linear(x, weight, bias)
        active = both.new_empty(*both.shape[:-1], size)
        grid = (both.numel() // (2 * size), triton.cdiv(size, _COLUMNS))
        silu_and_multiply[grid](active, both, SIZE=size, COLUMNS=_COLUMNS, num_warps=4)
        out: Tensor = module.down_proj(active)
        return out

    taken = take(call, forward, lambda found: is_alike(found, call.result))
    if taken:
        _share(weight, bias, gate, up)
    return taken


@torch.no_grad()
def _fuse_attention(call: Call) -> bool:
    module: Any = call.module
    if not _is_attention(module) or "position_embeddings" not in call.kwargs:
        return False
    original, parts = module.forward, (module.q_proj, module.k_proj, module.v_proj)
    dim: int = module.head_dim
    if any(x.shape[-1] != dim for x in call.kwargs["position_embeddings"]):
        return False  # only a part of each head is rotated
    seen = Asked()
    module.tgi_layer = BoundLayer(seen, 0)  # type: ignore[arg-type]
    original(*call.args, **call.kwargs)
    *expected, scoring = seen.asked[0]
    weight, bias = _merged(*parts)
    heads, kv_heads = parts[0].out_features // dim, parts[1].out_features // dim
    turned = heads + kv_heads

    def forward(
        hidden_states: Tensor, position_embeddings: tuple[Tensor, Tensor], **rest: Any
    ) -> tuple[Tensor, None]:
        if _hooked(*parts):
            result: tuple[Tensor, None] = original(
                hidden_states=hidden_states, position_embeddings=position_embeddings, **rest
            )
            return result
        flat = functional.linear(hidden_states, weight, bias).flatten(0, -2)
        cos, sin = (x.reshape(-1, dim).contiguous() for x in position_embeddings)
        rotate[(len(flat),)](
            flat,
            cos,
            sin,
            flat.stride(0),
            DIM=dim,
            HEADS=turned,
            HEADS_PAD=triton.next_power_of_2(turned),
            HALF_PAD=triton.next_power_of_2(dim // 2),
            num_warps=4,
        )
        query, key, value = flat.unflatten(-1, (-1, dim)).split((heads, kv_heads, kv_heads), 1)
        layer: BoundLayer = module.tgi_layer
        out = layer.attention.attend(layer.index, query, key, value, scoring)
        return module.o_proj(out.reshape(*hidden_states.shape[:-1], -1)), None

    def alike(found: tuple[Tensor, None]) -> bool:
        *ours, _ = seen.asked[0]
        pairs = zip([*ours, found[0]], [*expected, call.result[0]], strict=True)
        return all(is_alike(one, other) for one, other in pairs)

    taken = take(call, forward, alike)
    if taken:
        _share(weight, bias, *parts)
    del module.tgi_layer
    return taken


def _merged(*linears: Any) -> tuple[Tensor, Tensor | None]:
    """The weights of several layers in one, (all outputs, inputs), and their biases."""
    weight = torch.cat([linear.weight.detach() for linear in linears])
    biases = [linear.bias for linear in linears]
    if all(bias is None for bias in biases):
        return weight, None
    given = [
        weight.new_zeros(linear.out_features) if bias is None else bias.detach()
        for linear, bias in zip(linears, biases, strict=True)
    ]
    return weight, torch.cat(given)


def _share(weight: Tensor, bias: Tensor | None, *linears: Any) -> None:
    """Lets the layers use their parts of the merged weights, so that none is there twice."""
    begin = 0
    for linear in linears:
        end = begin + linear.out_features
        linear.weight = nn.Parameter(weight[begin:end], requires_grad=False)
        if linear.bias is not None and bias is not None:
            linear.bias = nn.Parameter(bias[begin:end], requires_grad=False)
        begin = end


def _hooked(*modules: nn.Module) -> bool:
    return any(module._forward_hooks for module in modules)
