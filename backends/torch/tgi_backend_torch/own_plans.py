"""How models are cut among ranks that transformers has no plan for.

Plans are written as transformers writes its own (`tp_plan`), with one word more. What is cut by
them, and whether it can be, is not known here: `shards.py` does that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from tgi_backend_torch.pieces import Pieces, pattern_of


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPlan:
    """Patterns are names in a model, with `*` for the number of a layer."""

    layers: Mapping[str, str]
    """How a layer, or a parameter of one, is cut."""
    counts: Mapping[str, str] = field(default_factory=dict)
    """Numbers that modules compute shapes with: each shrinks as the outputs of a layer do."""
    lists: Mapping[str, str] = field(default_factory=dict)
    """Lists of modules, one for each head: a rank keeps those whose heads it has of a layer."""

    def counts_of(self, model: nn.Module, pieces: Mapping[str, Pieces | None]) -> dict[str, int]:
        """What the numbers of a model's modules become, by their names in the model.

        Args:
            model: as it was before it was cut.
            pieces: what is kept of each parameter that is cut.
        """
        found = {}
        for name, module in model.named_modules():
            for pattern, layer in self.counts.items():
                at, _, attribute = pattern.rpartition(".")
                if pattern_of(name) == at:
                    begin, end, width = _kept(name, layer, pieces)
                    count = getattr(module, attribute)
                    found[f"{name}.{attribute}"] = count * (end - begin) // width
        return found

    def lists_of(
        self, model: nn.Module, pieces: Mapping[str, Pieces | None]
    ) -> dict[str, tuple[int, int]]:
        """What is kept of lists of modules, from and to, by their names; arguments as above."""
        found = {}
        for name, module in model.named_modules():
            layer = self.lists.get(pattern_of(name))
            if layer is not None and isinstance(module, nn.ModuleList):
                begin, end, width = _kept(name, layer, pieces)
                found[name] = begin * len(module) // width, end * len(module) // width
        return found


def _kept(name: str, pattern: str, pieces: Mapping[str, Pieces | None]) -> tuple[int, int, int]:
    """From where to where a layer is kept, of how much; it is in the same block as `name`."""
    numbers = iter(re.findall(r"(?<=\.)\d+(?=\.)", name))
    layer = re.sub(r"\*", lambda star: next(numbers), pattern)
    piece = pieces[f"{layer}.weight"]
    assert piece is not None
    return piece.ranges[0][0], piece.ranges[-1][1], piece.width


_OPT = "model.decoder.layers.*"
_LLAMA = "model.layers.*"
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


_SEPARATE = {
    f"{_LLAMA}.self_attn.q_proj": "colwise",
    f"{_LLAMA}.self_attn.k_proj": "colwise",
    f"{_LLAMA}.self_attn.v_proj": "colwise",
    f"{_LLAMA}.self_attn.o_proj": "rowwise",
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
            f"{_LLAMA}.mlp.gate_proj": "colwise",
            f"{_LLAMA}.mlp.up_proj": "colwise",
            f"{_LLAMA}.mlp.down_proj": "rowwise",
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


def own_plan(model_type: str, *, multi_query: bool) -> OwnPlan | None:
    """The plan for a family, if it has one here.

    Args:
        model_type: as in the model's config.
        multi_query: all heads share one key and one value, in a family that has both kinds.
    """
    if model_type == "gpt_bigcode":
        # with a key and a value for each head, these lie with the head's query
        return (
            _gpt("embed_dim", joint="qkv_colwise")
            if multi_query
            else _gpt("num_heads", joint="colwise")
        )
    return _OWN.get(model_type)
