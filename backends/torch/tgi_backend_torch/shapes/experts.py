"""Mixtures of experts whose shapes do not depend on which experts the tokens choose.

Every expert computes every token, and counts as much as the router says: nothing for most. That
reads each weight once, as a step of many rows does anyway, and computes more than is used.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.moe import ExpertsInterface

from tgi_backend_torch.quant.experts import are_experts, has_norm

_NAME = "tgi_all_experts"


def compute_all_experts(model: nn.Module) -> None:
    """Has the model do so, where transformers lets its experts be replaced."""
    ExpertsInterface.register(_NAME, _forward)
    for module in model.modules():
        if are_experts(module):
            module.config._experts_implementation = _NAME


def _forward(experts: Any, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """One layer of E experts.

    Args:
        experts: transformers' module, with the weights of all.
        tokens: (T, size).
        chosen: int64 (T, k), different experts of each token.
        weights: (T, k), how much each counts.

    Returns:
        (T, size).
    """
    ids = torch.arange(experts.num_experts, device=chosen.device)
    # (E, T, 1)
    shares = ((chosen[..., None] == ids) * weights[..., None]).sum(1).t()[..., None]
    up = "gate_up_proj" if experts.has_gate else "up_proj"
    inner = _linear(experts, up, tokens)
    rows = inner.flatten(0, 1)
    rows = experts._apply_gate(rows) if experts.has_gate else experts.act_fn(rows)
    out = _linear(experts, "down_proj", rows.view(*inner.shape[:2], -1))
    if has_norm(experts):
        out = experts.post_expert_norm(out)
    # what nobody asked for may be too large for the dtype, and zero times infinity is no number
    return (out * shares).masked_fill(shares == 0, 0).sum(0).to(tokens.dtype)


def _linear(experts: Any, name: str, x: Tensor) -> Tensor:
    """(T, inputs) or (E, T, inputs) -> (E, T, outputs)."""
    weight: Tensor = getattr(experts, name)
    out = x @ (weight if experts.is_transposed else weight.transpose(1, 2))
    return out + getattr(experts, name + "_bias")[:, None] if experts.has_bias else out
