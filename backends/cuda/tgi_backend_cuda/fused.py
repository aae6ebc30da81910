"""Replaces what modules do between matrix products by our kernels, where a trial shows the same.

Products that read the same input become one, and what a layer adds to its input is added where it
is computed. The weights stay where they were, as parts of the merged ones, so adapters find their
layers; a layer that an adapter has hooked computes as before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from tgi_backend_torch.attention import BoundLayer, Scoring
from tgi_backend_torch.replaced import Asked, Call, calls_of, is_alike, is_rms_norm, take
from torch import Tensor, nn
from transformers import PreTrainedModel

from tgi_backend_cuda.attention import TritonAttention
from tgi_backend_cuda.kernels.begin import angles
from tgi_backend_cuda.kernels.fused import rms_norm
from tgi_backend_cuda.launch import Turning, turn_tokens
from tgi_backend_cuda.products import Products, hooked, merged, share
from tgi_backend_cuda.tiles import Architecture

_ROUTER_NUMBERS = 1 << 16
_STEADY = ("default", "linear", "llama3", "yarn")
"""Kinds of rotary positions whose frequencies do not depend on a step."""


@dataclass(slots=True, kw_only=True)
class Fused:
    """How many modules were replaced."""

    norms: int = 0
    rotaries: int = 0
    mlps: int = 0
    routers: int = 0
    experts: int = 0
    attentions: int = 0
    layers: int = 0


def fuse(model: PreTrainedModel, arch: Architecture) -> Fused:
    """Replaces the `forward` of modules, in place."""
    counts = Fused()
    products = Products(arch)
    # what a module holds is called before it
    for call in calls_of(model, _may_be_fused):
        if _fuse_norm(call, arch):
            counts.norms += 1
        elif _fuse_rotary(call):
            counts.rotaries += 1
        elif _fuse_mlp(call, products):
            counts.mlps += 1
        elif _fuse_router(call, products):
            counts.routers += 1
        elif _fuse_experts(call, products):
            counts.experts += 1
        elif _fuse_attention(call, products, arch):
            counts.attentions += 1
        elif _fuse_layer(call):
            counts.layers += 1
    return counts


def _may_be_fused(module: nn.Module) -> bool:
    kinds = (is_rms_norm, _is_rotary, _is_mlp, _is_router, _is_experts, _is_attention, _is_layer)
    return any(is_one(module) for is_one in kinds)


def _is_rotary(module: nn.Module) -> bool:
    """Whether its angles are products of positions and numbers that stay as they are."""
    return (
        isinstance(getattr(module, "inv_freq", None), Tensor)
        and isinstance(getattr(module, "attention_scaling", None), float)
        and getattr(module, "rope_type", None) in _STEADY
    )


def _is_mlp(module: nn.Module) -> bool:
    return _has_linears(module, "gate_proj", "up_proj", "down_proj")


def _is_router(module: nn.Module) -> bool:
    """Whose weights one program can hold."""
    weight = getattr(module, "weight", None)
    return (
        isinstance(weight, nn.Parameter)
        and weight.dim() == 2
        and weight.numel() <= _ROUTER_NUMBERS
        and isinstance(getattr(module, "top_k", None), int)
    )


def _is_experts(module: nn.Module) -> bool:
    """With weights (experts, 2 * inner, size) and (experts, size, inner)."""
    both, down = (getattr(module, name, None) for name in ("gate_up_proj", "down_proj"))
    if not all(isinstance(weight, nn.Parameter) and weight.dim() == 3 for weight in (both, down)):
        return False
    experts, size, inner = down.shape
    return both.shape == (experts, 2 * inner, size)


def _is_attention(module: nn.Module) -> bool:
    return _has_linears(module, "q_proj", "k_proj", "v_proj", "o_proj") and isinstance(
        getattr(module, "head_dim", None), int
    )


def _is_layer(module: nn.Module) -> bool:
    parts = {name for name, _ in module.named_children()}
    return parts == {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}


def _has_linears(module: nn.Module, *names: str) -> bool:
    return all(type(getattr(module, name, None)) is nn.Linear for name in names)


@torch.no_grad()
def _fuse_norm(call: Call, arch: Architecture) -> bool:
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
        rms_norm[(x.numel() // size,)](
            out,
            x,
            weight,
            epsilon,
            SIZE=size,
            PAD=pad,
            EARLY=arch.early,
            num_warps=warps,
            **arch.launch,
        )
        return out

    return take(call, forward, lambda found: is_alike(found, call.result))


@torch.no_grad()
def _fuse_rotary(call: Call) -> bool:
    module: Any = call.module
    if not _is_rotary(module):
        return False
    original, scaling = module.forward, module.attention_scaling
    frequencies = module.inv_freq.float().contiguous()
    half = len(frequencies)

    def forward(x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        if position_ids.dim() != 2 or len(position_ids) != 1:
            result: tuple[Tensor, Tensor] = original(x, position_ids)
            return result
        cos, sin = (x.new_empty(1, position_ids.shape[1], 2 * half) for _ in range(2))
        angles[(position_ids.shape[1],)](
            cos,
            sin,
            position_ids.contiguous(),
            frequencies,
            scaling,
            HALF=half,
            HALF_PAD=triton.next_power_of_2(half),
            num_warps=1,
        )
        return cos, sin

    def alike(found: tuple[Tensor, Tensor]) -> bool:
        return all(is_alike(*pair) for pair in zip(found, call.result, strict=True))

    return take(call, forward, alike)


@torch.no_grad()
def _fuse_mlp(call: Call, products: Products) -> bool:
    module: Any = call.module
    if not _is_mlp(module):
        return False
    original, gate, up = module.forward, module.gate_proj, module.up_proj
    weight, bias = merged(gate, up)

    def forward(x: Tensor, norm: Any = None, into: Tensor | None = None) -> Tensor:
        if hooked(gate, up):
            result: Tensor = original(x if norm is None else norm(x))
            return result if into is None else into + result
        active = products.gated(x, weight, bias, norm=norm)
        return products.layer(module.down_proj, active, into)

    taken = _take(call, forward, lambda call, found: is_alike(found, call.result))
    if taken:
        share(weight, bias, gate, up)
    return taken


@torch.no_grad()
def _fuse_router(call: Call, products: Products) -> bool:
    module: Any = call.module
    if not _is_router(module):
        return False
    original, num_choices = module.forward, module.top_k
    order = _order_of_router(call.result, len(module.weight), num_choices)
    if order is None:
        return False
    dtypes = [x.dtype for x in call.result]

    def forward(hidden_states: Tensor) -> tuple[Tensor, ...]:
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        if not products.is_short(flat):
            result: tuple[Tensor, ...] = original(hidden_states)
            return result
        logits, scores = (dtypes[place] for place in order[:2])
        found = products.router(flat, module.weight, num_choices, logits, scores)
        return tuple(found[order.index(place)] for place in range(3))

    def alike(call: Call, found: tuple[Tensor, ...]) -> bool:
        logits, scores, chosen = (call.result[place] for place in order)
        our_logits, our_scores, ours = (found[place] for place in order)
        # of two that are as good as equal either may be chosen
        pairs = (
            (our_logits, logits),
            (our_scores, scores),
            (logits.gather(1, ours), logits.gather(1, chosen)),
        )
        return all(is_alike(*pair) for pair in pairs)

    return _take(call, forward, alike)


def _order_of_router(result: Any, num_experts: int, num_choices: int) -> Sequence[int] | None:
    """Where a router gives logits, scores and its choice; None if that cannot be told.

    An index that is no expert's would end a GPU's process, so nothing is tried that may be one.
    """
    if not isinstance(result, tuple) or num_experts == num_choices:
        return None
    if not all(isinstance(x, Tensor) and x.dim() == 2 for x in result):
        return None
    kinds = [(x.is_floating_point(), x.shape[-1]) for x in result]
    wanted = [(True, num_experts), (True, num_choices), (False, num_choices)]
    return [kinds.index(kind) for kind in wanted] if sorted(kinds) == sorted(wanted) else None


@torch.no_grad()
def _fuse_experts(call: Call, products: Products) -> bool:
    module: Any = call.module
    if not _is_experts(module):
        return False
    original = module.forward

    def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        if not products.is_short(hidden_states):
            result: Tensor = original(hidden_states, top_k_index, top_k_weights)
            return result
        return products.experts(
            hidden_states, module.gate_up_proj, module.down_proj, top_k_index, top_k_weights
        )

    return _take(call, forward, lambda call, found: is_alike(found, call.result))


@torch.no_grad()
def _fuse_attention(call: Call, products: Products, arch: Architecture) -> bool:
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
    weight, bias = merged(*parts)
    heads, kv_heads = parts[0].out_features // dim, parts[1].out_features // dim

    def forward(
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        norm: Any = None,
        into: Tensor | None = None,
        **rest: Any,
    ) -> tuple[Tensor, None]:
        if hooked(*parts):
            result: Tensor = original(
                hidden_states=hidden_states if norm is None else norm(hidden_states),
                position_embeddings=position_embeddings,
                **rest,
            )[0]
            return (result if into is None else into + result), None
        flat = products.linear(hidden_states, weight, bias, norm=norm).flatten(0, -2)
        cos, sin = (x.reshape(-1, dim).contiguous() for x in position_embeddings)
        turning = Turning(cos=cos, sin=sin, heads=heads, kv_heads=kv_heads)
        layer: BoundLayer = module.tgi_layer
        out = _attend(layer, flat, turning, scoring, arch)
        out = out.reshape(*hidden_states.shape[:-1], -1)
        return products.layer(module.o_proj, out, into), None

    def alike(call: Call, found: tuple[Tensor, None]) -> bool:
        *ours, _ = seen.asked[0]
        pairs = zip([*ours, found[0]], [*expected, call.result[0]], strict=True)
        return all(is_alike(one, other[: len(one)]) for one, other in pairs)

    taken = _take(call, forward, alike)
    if taken:
        share(weight, bias, *parts)
    del module.tgi_layer
    return taken


def _attend(
    layer: BoundLayer, x: Tensor, turning: Turning, scoring: Scoring, arch: Architecture
) -> Tensor:
    attention, heads, kv_heads = layer.attention, turning.heads, turning.kv_heads
    if isinstance(attention, TritonAttention):
        return attention.turn_and_attend(layer.index, x, turning, scoring)
    turn_tokens(x, turning, arch)
    query, key, value = x.unflatten(-1, (-1, turning.dim)).split((heads, kv_heads, kv_heads), 1)
    return attention.attend(layer.index, query, key, value, scoring)


@torch.no_grad()
def _fuse_layer(call: Call) -> bool:
    """Attention and MLP normalize what they get, and add to it what they give."""
    module: Any = call.module
    if not _is_layer(module):
        return False
    before, between = module.input_layernorm, module.post_attention_layernorm
    if not (is_rms_norm(before) and is_rms_norm(between)):
        return False

    whole, original = _is_mlp(module.mlp), module.forward

    def forward(hidden_states: Tensor, *args: Any, **rest: Any) -> Tensor:
        if hooked(module.self_attn, module.mlp):
            result: Tensor = original(hidden_states, *args, **rest)
            return result
        hidden, _ = module.self_attn(hidden_states, norm=before, into=hidden_states, **rest)
        if not whole:  # experts, say
            return hidden + module.mlp(between(hidden))
        out: Tensor = module.mlp(hidden, norm=between, into=hidden)
        return out

    module.self_attn.tgi_layer = BoundLayer(Asked(), 0)  # type: ignore[arg-type]
    taken = _take(call, forward, lambda call, found: is_alike(found, call.result))
    del module.self_attn.tgi_layer
    return taken


def _take(call: Call, forward: Callable[..., Any], alike: Callable[[Call, Any], bool]) -> bool:
    """As `take`, if the first token alone gives the same too: other kernels compute it."""
    one, whole = _beginning(call, 1), _beginning(call, None)
    try:
        fits = alike(one, forward(*one.args, **one.kwargs))
    except Exception:  # see `take`
        return False
    return fits and take(whole, forward, lambda found: alike(whole, found))


def _beginning(call: Call, num_tokens: int | None) -> Call:
    """Copies of all tensors, for a replaced module may write to what it was given."""
    given = call.args[0] if call.args else call.kwargs["hidden_states"]

    def cut(x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(map(cut, x))
        if not isinstance(x, Tensor):
            return x
        of_tokens = x.dim() > 1 and x.shape[-2] == given.shape[-2]
        return (x[..., :num_tokens, :] if of_tokens else x).clone()

    kwargs = {name: cut(x) for name, x in call.kwargs.items()}
    return replace(call, args=cut(call.args), kwargs=kwargs, result=cut(call.result))
