"""Plans for families that transformers has none for."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PretrainedConfig

from tgi_backend_torch.own_plan import OwnPlan
from tgi_backend_torch.padded_plans import fused, padded_plan

_OPT = "model.decoder.layers.*"
_LLAMA = "model.layers.*"
_MLLAMA = "model.language_model.layers.*"
_GPT = "transformer.h.*"


def _gpt(*counts: str, joint: str) -> OwnPlan:
    return OwnPlan(
        layers={
            f"{_GPT}.attn.c_attn": joint,
            f"{_GPT}.attn.c_proj": "rowwise",
            f"{_GPT}.mlp.c_fc": "colwise",
            f"{_GPT}.mlp.c_proj": "rowwise",
        },
        # in the output projection's inputs queries are alone
        counts={f"{_GPT}.attn.{count}": f"{_GPT}.attn.c_proj" for count in counts},
    )


def _looking(text: str, cross: str, counts: Mapping[str, str]) -> OwnPlan:
    """For layers as Llama's, of which some look at images.

    Args:
        text: pattern of those that look at text.
        cross: of those that look at images.
        counts: numbers of an attention, and the layers that they shrink with.
    """
    layers: dict[str, str] = {}
    for attention in (f"{text}.self_attn", f"{cross}.cross_attn"):
        layers |= {f"{attention}.{name}_proj": "colwise" for name in "qkv"}
        layers[f"{attention}.o_proj"] = "rowwise"
    for layer in (text, cross):
        layers |= {f"{layer}.mlp.{name}_proj": "colwise" for name in ("gate", "up")}
        layers[f"{layer}.mlp.down_proj"] = "rowwise"
    return OwnPlan(
        layers=layers,
        counts={
            f"{attention}.{count}": f"{attention}.{layer}"
            for attention in (f"{text}.self_attn", f"{cross}.cross_attn")
            for count, layer in counts.items()
        },
    )


_SEPARATE = {
    f"{_LLAMA}.self_attn.q_proj": "colwise",
    f"{_LLAMA}.self_attn.k_proj": "colwise",
    f"{_LLAMA}.self_attn.v_proj": "colwise",
    f"{_LLAMA}.self_attn.o_proj": "rowwise",
}

_GATED = {
    f"{_LLAMA}.mlp.gate_proj": "colwise",
    f"{_LLAMA}.mlp.up_proj": "colwise",
    f"{_LLAMA}.mlp.down_proj": "rowwise",
}

_OWN = {
    "opt": OwnPlan(
        layers={
            f"{_OPT}.self_attn.q_proj": "colwise",
            f"{_OPT}.self_attn.k_proj": "colwise",
            f"{_OPT}.self_attn.v_proj": "colwise",
            f"{_OPT}.self_attn.out_proj": "rowwise",
            f"{_OPT}.fc1": "colwise",
            f"{_OPT}.fc2": "rowwise",
        },
        counts={f"{_OPT}.self_attn.num_heads": f"{_OPT}.self_attn.q_proj"},
    ),
    "stablelm": OwnPlan(
        layers={
            **_SEPARATE,
            **_GATED,
        },
        counts={
            f"{_LLAMA}.self_attn.num_heads": f"{_LLAMA}.self_attn.q_proj",
            f"{_LLAMA}.self_attn.num_key_value_heads": f"{_LLAMA}.self_attn.k_proj",
        },
        lists={
            f"{_LLAMA}.self_attn.q_layernorm.norms": f"{_LLAMA}.self_attn.q_proj",
            f"{_LLAMA}.self_attn.k_layernorm.norms": f"{_LLAMA}.self_attn.k_proj",
        },
    ),
    "idefics": _looking(_LLAMA, "model.gated_cross_attn_layers.*", {"num_heads": "q_proj"}),
    "mllama": _looking(_MLLAMA, _MLLAMA, {"num_heads": "q_proj", "num_key_value_heads": "k_proj"}),
    "hunyuan_v1_dense": OwnPlan(layers={**_SEPARATE, **_GATED}),
    "persimmon": fused(_LLAMA, "self_attn", "num_heads"),
    "gpt2": _gpt("split_size", joint="qkv_colwise"),
    "gpt_oss": OwnPlan(
        layers={
            **_SEPARATE,
            f"{_LLAMA}.self_attn.sinks": "colwise",
            f"{_LLAMA}.mlp.experts": "moe_tp_experts",
            f"{_LLAMA}.mlp.experts.gate_up_proj": "packed_colwise",
            f"{_LLAMA}.mlp.experts.gate_up_proj_bias": "packed_colwise",
            f"{_LLAMA}.mlp.experts.down_proj": "rowwise",
            f"{_LLAMA}.mlp.experts.down_proj_bias": "rowwise",
        }
    ),
}


def own_plan(config: PretrainedConfig, size: int) -> OwnPlan | None:
    """The plan for a model among so many ranks, if its family has one here.

    Raises:
        UnsupportedModel: the family has, but not for what config.json asks for.
    """
    if config.model_type == "gpt_bigcode":
        # with a key and a value for each head, these lie with the head's query
        return (
            _gpt("embed_dim", joint="qkv_colwise")
            if config.multi_query
            else _gpt("num_heads", joint="colwise")
        )
    return _OWN.get(config.model_type) or padded_plan(config, size)
