"""Mixtures of experts as OpenVINO can express them: one matrix product per expert, no sorting.

transformers' own ways sort tokens by expert with operations that OpenVINO lacks, gather every
token's weights, or loop over the experts of the example that is traced.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

_IMPLEMENTATION = "tgi_each_expert"


def use_traceable_experts(model: PreTrainedModel) -> None:
    """Makes every mixture in the model compute by `_each_expert`."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_experts_implementation"):
            config._experts_implementation = _IMPLEMENTATION


def _each_expert(
    experts: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor
) -> Tensor:
    """Every expert takes the tokens that chose it, which may be none.

    Args:
        experts: a transformers module with the weights of all experts.
        hidden_states: (T, hidden).
        top_k_index: int64 (T, k).
        top_k_weights: (T, k).

    Returns:
        (T, hidden).
    """
    out = hidden_states * 0
    for expert in range(experts.num_experts):
        chosen = top_k_index == expert
        weight = (top_k_weights * chosen).sum(-1)
        tokens = chosen.any(-1).nonzero().squeeze(-1)
        done = _one_expert(experts, expert, hidden_states[tokens])
        out = out.index_add(0, tokens, done * weight[tokens].unsqueeze(-1))
    return out.to(hidden_states.dtype)


def _one_expert(experts: Any, expert: int, tokens: Tensor) -> Tensor:
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    hidden = _linear(experts, first, expert, tokens)
    hidden = experts._apply_gate(hidden) if experts.has_gate else experts.act_fn(hidden)
    hidden = _linear(experts, "down_proj", expert, hidden)
    return experts.post_expert_norm(hidden) if experts.has_post_expert_norm else hidden


def _linear(experts: Any, name: str, expert: int, tokens: Tensor) -> Tensor:
    weight: Tensor = getattr(experts, name)[expert]
    bias: Tensor | None = getattr(experts, f"{name}_bias")[expert] if experts.has_bias else None
    return functional.linear(tokens, weight.t() if experts.is_transposed else weight, bias)


ALL_EXPERTS_FUNCTIONS.register(_IMPLEMENTATION, _each_expert)
