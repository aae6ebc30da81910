"""Plans for families whose modules compute attention, or what they have instead, by themselves.

What a plan cannot cut by heads or channels each rank computes whole; of its matrices the ranks have
parts all the same, and join what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tgi_backend_torch.own_plan import OwnPlan
from tgi_core.errors import UnsupportedModel

_H = "transformer.h.*"
_BLOCKS = "transformer.blocks.*"
_LAYERS = "model.layers.*"
_ATTENTION = f"{_LAYERS}.self_attn"


def fused(block: str, attention: str, count: str, *by_head: str) -> OwnPlan:
    """As BLOOM: with the queries of each head lie its keys and values."""
    attention = f"{block}.{attention}"
    return OwnPlan(
        layers={
            f"{attention}.query_key_value": "colwise",
            f"{attention}.dense": "rowwise",
            f"{block}.mlp.dense_h_to_4h": "colwise",
            f"{block}.mlp.dense_4h_to_h": "rowwise",
        },
        counts={f"{attention}.{count}": f"{attention}.dense"},
        by_head={attention: by_head} if by_head else {},
    )


_BLOOM = fused(_H, "self_attention", "num_heads", "alibi")

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


def _separate(attention: str, out: str = "out_proj") -> dict[str, str]:
    """Queries, keys and values in a matrix each."""
    return {
        **{f"{attention}.{name}_proj": "colwise" for name in "qkv"},
        f"{attention}.{out}": "rowwise",
    }


def _gpt(attention: str, count: str, up: str, down: str) -> OwnPlan:
    return OwnPlan(
        layers={**_separate(attention), f"{_H}.mlp.{up}": "colwise", f"{_H}.mlp.{down}": "rowwise"},
        counts={f"{attention}.{count}": f"{attention}.q_proj"},
    )


_CODEGEN = OwnPlan(
    layers={
        # four blocks of queries, values and keys, wherever a head is
        f"{_H}.attn.qkv_proj": "colwise_gather_output",
        f"{_H}.attn.out_proj": "colwise_gather_output",
        f"{_H}.mlp.fc_in": "colwise",
        f"{_H}.mlp.fc_out": "rowwise",
    },
    whole="attention",
)


def _t5() -> OwnPlan:
    own = [f"{stack}.block.*.layer.*.SelfAttention" for stack in ("encoder", "decoder")]
    attention = [*own, "decoder.block.*.layer.*.EncDecAttention"]
    feed_forward = [f"{stack}.block.*.layer.*.DenseReluDense" for stack in ("encoder", "decoder")]
    inner, counts = ("wi", "wi_0", "wi_1"), ("n_heads", "inner_dim")
    return OwnPlan(
        layers={
            **{f"{each}.{name}": "colwise" for each in attention for name in "qkv"},
            **{f"{each}.o": "rowwise" for each in attention},
            # a column for each head
            **{f"{each}.relative_attention_bias.weight": "rowwise" for each in own},
            **{f"{each}.{name}": "colwise" for each in feed_forward for name in inner},
            **{f"{each}.wo": "rowwise" for each in feed_forward},
        },
        counts={f"{each}.{count}": f"{each}.q" for each in attention for count in counts},
    )


def _fc(*stacks: str, crossed: str | None = None) -> OwnPlan:
    """As BART: stacks of layers, one of which looks at what an encoder makes."""
    attention = [f"{stack}.self_attn" for stack in stacks]
    if crossed is not None:
        attention.append(f"{crossed}.encoder_attn")
    counts = ("num_heads", "embed_dim")
    return OwnPlan(
        layers={
            **{name: style for each in attention for name, style in _separate(each).items()},
            **{f"{stack}.fc1": "colwise" for stack in stacks},
            **{f"{stack}.fc2": "rowwise" for stack in stacks},
        },
        counts={f"{each}.{count}": f"{each}.q_proj" for each in attention for count in counts},
    )


_ENCODER, _DECODER = "model.encoder.layers.*", "model.decoder.layers.*"


def _mamba(mixer: str) -> OwnPlan:
    """Cut by channels."""
    counts = ("intermediate_size", "conv1d.groups", "conv1d.in_channels", "conv1d.out_channels")
    return OwnPlan(
        layers={
            # the channels, and then as many gates
            f"{mixer}.in_proj": "packed_colwise",
            f"{mixer}.conv1d.weight": "colwise",
            f"{mixer}.conv1d.bias": "colwise",
            f"{mixer}.x_proj": "rowwise",
            f"{mixer}.dt_proj": "colwise",
            f"{mixer}.A_log": "colwise",
            f"{mixer}.D": "colwise",
            f"{mixer}.out_proj": "rowwise",
        },
        counts={f"{mixer}.{count}": f"{mixer}.conv1d" for count in counts},
    )


def _joined(mixer: str) -> dict[str, str]:
    """Of one whose channels have a norm, or keys, in common."""
    return {f"{mixer}.{name}": "colwise_gather_output" for name in ("in_proj", "out_proj")}


def _hybrid(
    more: Mapping[str, str], out: str = "o_proj", whole: str = "the recurrent layers"
) -> OwnPlan:
    """Some layers have attention; of the others what transformers says holds, too."""
    groups = (f"{_ATTENTION}.q_proj", f"{_ATTENTION}.k_proj")
    return OwnPlan(
        layers={**_separate(_ATTENTION, out), **more},
        ratios={f"{_ATTENTION}.num_key_value_groups": groups},
        whole=whole,
    )


def _nemotron() -> OwnPlan:
    """Each layer has one of: attention, a recurrent mixer, a feed-forward part, experts."""
    mixer = f"{_LAYERS}.mixer"
    feed_forward = (mixer, f"{mixer}.shared_experts")
    return OwnPlan(
        layers={
            **_separate(mixer, "o_proj"),
            **_joined(mixer),
            **{f"{each}.up_proj": "colwise" for each in feed_forward},
            **{f"{each}.down_proj": "rowwise" for each in feed_forward},
        },
        whole="the recurrent layers",
    )


def _jamba() -> OwnPlan:
    mixers = _mamba(f"{_LAYERS}.mamba")
    hybrid = _hybrid({**mixers.layers, **_GATED}, whole="")
    return replace(hybrid, counts=mixers.counts)


_GATED = {
    f"{_LAYERS}.feed_forward.gate_proj": "colwise",
    f"{_LAYERS}.feed_forward.up_proj": "colwise",
    f"{_LAYERS}.feed_forward.down_proj": "rowwise",
}
_LFM2 = {
    **_joined(f"{_LAYERS}.conv"),
    f"{_LAYERS}.feed_forward.w1": "colwise",
    f"{_LAYERS}.feed_forward.w3": "colwise",
    f"{_LAYERS}.feed_forward.w2": "rowwise",
}
_GRANITE = {
    **_joined(f"{_LAYERS}.mamba"),
    f"{_LAYERS}.shared_mlp.input_linear": "packed_colwise",
    f"{_LAYERS}.shared_mlp.output_linear": "rowwise",
}
_LIKE_BART = (
    "bart",
    "blenderbot",
    "blenderbot-small",
    "m2m_100",
    "mbart",
    "mvp",
    "pegasus",
    "plbart",
)

_PLANS = {
    "mpt": _MPT,
    "codegen": _CODEGEN,
    "gptj": _gpt(f"{_H}.attn", "num_attention_heads", "fc_in", "fc_out"),
    "gpt_neox_japanese": fused("gpt_neox_japanese.layers.*", "attention", "num_attention_heads"),
    "gpt_neo": _gpt(f"{_H}.attn.attention", "num_heads", "c_fc", "c_proj"),
    **dict.fromkeys(("t5", "mt5", "umt5"), _t5()),
    **dict.fromkeys(_LIKE_BART, _fc(_ENCODER, _DECODER, crossed=_DECODER)),
    "xglm": _fc(_LAYERS),
    **dict.fromkeys(("mamba", "falcon_mamba"), _mamba("backbone.layers.*.mixer")),
    "mamba2": OwnPlan(layers=_joined("backbone.layers.*.mixer"), whole="the recurrent layers"),
    "jamba": _jamba(),
    **dict.fromkeys(("bamba", "falcon_h1"), _hybrid({**_joined(f"{_LAYERS}.mamba"), **_GATED})),
    "granitemoehybrid": _hybrid(_GRANITE),
    "lfm2": _hybrid(_LFM2, "out_proj", "the convolutions"),
    "llama4_text": _hybrid({}, whole=""),
    "nemotron_h": _nemotron(),
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"), _hybrid({})),
}


def padded_plan(config: Any, size: int) -> OwnPlan | None:
    """See `own_plan`."""
    match config.model_type:
        case "bloom":
            return _bloom(config)
        case "falcon":
            return _falcon(config, size)
        case model_type:
            return _PLANS.get(model_type)


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
            joined = dict.fromkeys(
                (f"{attention}.query_key_value", f"{attention}.dense"), "colwise_gather_output"
            )
            return OwnPlan(
                layers={**_BLOOM.layers, **joined},
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
