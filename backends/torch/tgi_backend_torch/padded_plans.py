"""Plans for families whose modules compute attention, or what they have instead, by themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tgi_backend_torch.own_plan import OwnPlan
from tgi_core.errors import UnsupportedModel

_H = "transformer.h.*"
_BLOCKS = "transformer.blocks.*"
_MIXER = "backbone.layers.*.mixer"
_T5_ATTENTION = (
    "encoder.block.*.layer.*.SelfAttention",
    "decoder.block.*.layer.*.SelfAttention",
    "decoder.block.*.layer.*.EncDecAttention",
)
_T5_FEED_FORWARD = (
    "encoder.block.*.layer.*.DenseReluDense",
    "decoder.block.*.layer.*.DenseReluDense",
)

_BLOOM = OwnPlan(
    layers={
        f"{_H}.self_attention.query_key_value": "colwise",
        f"{_H}.self_attention.dense": "rowwise",
        f"{_H}.mlp.dense_h_to_4h": "colwise",
        f"{_H}.mlp.dense_4h_to_h": "rowwise",
    },
    counts={f"{_H}.self_attention.num_heads": f"{_H}.self_attention.dense"},
    by_head={f"{_H}.self_attention": ("alibi",)},
)

_MPT = OwnPlan(
    layers={
        f"{_BLOCKS}.attn.Wqkv": "qkv_colwise",
        f"{_BLOCKS}.attn.out_proj": "rowwise",
        f"{_BLOCKS}.ffn.up_proj": "colwise",
        f"{_BLOCKS}.ffn.down_proj": "rowwise",
    },
    counts={f"{_BLOCKS}.attn.n_heads": f"{_BLOCKS}.attn.out_proj"},
    by_head={f"{_BLOCKS}.attn": ("position_bias",)},
)

_T5 = OwnPlan(
    layers={
        **{f"{each}.{name}": "colwise" for each in _T5_ATTENTION for name in "qkv"},
        **{f"{each}.o": "rowwise" for each in _T5_ATTENTION},
        # a column for each head
        **{f"{each}.relative_attention_bias.weight": "rowwise" for each in _T5_ATTENTION},
        **{
            f"{each}.{name}": "colwise"
            for each in _T5_FEED_FORWARD
            for name in ("wi", "wi_0", "wi_1")
        },
        **{f"{each}.wo": "rowwise" for each in _T5_FEED_FORWARD},
    },
    counts={
        f"{each}.{count}": f"{each}.q"
        for each in _T5_ATTENTION
        for count in ("n_heads", "inner_dim")
    },
)

_MAMBA = OwnPlan(
    layers={
        # the channels, and then as many gates
        f"{_MIXER}.in_proj": "packed_colwise",
        f"{_MIXER}.conv1d.weight": "colwise",
        f"{_MIXER}.conv1d.bias": "colwise",
        f"{_MIXER}.x_proj": "rowwise",
        f"{_MIXER}.dt_proj": "colwise",
        f"{_MIXER}.A_log": "colwise",
        f"{_MIXER}.D": "colwise",
        f"{_MIXER}.out_proj": "rowwise",
    },
    counts={
        f"{_MIXER}.{count}": f"{_MIXER}.conv1d"
        for count in (
            "intermediate_size",
            "conv1d.groups",
            "conv1d.in_channels",
            "conv1d.out_channels",
        )
    },
)


def padded_plan(config: Any, size: int) -> OwnPlan | None:
    """See `own_plan`."""
    match config.model_type:
        case "bloom":
            return _bloom(config)
        case "falcon":
            return _falcon(config, size)
        case "mpt":
            return _MPT
        case "t5" | "mt5" | "umt5":
            return _T5
        case "mamba" | "falcon_mamba":
            return _MAMBA
    return None


def _bloom(config: Any) -> OwnPlan:
    if config.slow_but_exact and config.pretraining_tp > 1:
        raise UnsupportedModel(
            "with slow_but_exact in config.json BLOOM adds up parts of its layers by itself: leave "
            "out --num-shard, or set slow_but_exact to false there."
        )
    return _BLOOM


def _falcon(config: Any, size: int) -> OwnPlan:
    """The 7B has one key and value behind all queries; the larger ones one behind each of some
    groups of queries; RW has one behind each query, and ALiBi.
    """
    attention, heads = f"{_H}.self_attention", config.num_attention_heads
    counts = {f"{attention}.num_heads": f"{attention}.dense"}
    joint = "qkv_groups" if config.new_decoder_architecture else "colwise"
    if config.multi_query and not config.new_decoder_architecture:
        joint = "qkv_colwise"
        if heads % size and heads > size:
            # the 7B has 71
            feed_forward = {
                name: style for name, style in _BLOOM.layers.items() if name.startswith(f"{_H}.mlp")
            }
            return OwnPlan(
                layers=feed_forward,
                whole=f"attention, whose {heads} heads {size} ranks cannot share evenly",
            )
    else:
        counts[f"{attention}.num_kv_heads"] = f"{attention}.query_key_value"
    return replace(
        _BLOOM,
        layers={**_BLOOM.layers, f"{attention}.query_key_value": joint},
        counts=counts,
        by_head={attention: ("alibi", "attention_mask")} if config.alibi else {},
    )
