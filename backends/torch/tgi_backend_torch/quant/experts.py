"""Mixtures of experts whose weights are in few bits: each expert's are unpacked when it is asked.

From release 5 on transformers has the weights of all experts of a layer in one tensor, where most
files have a tensor for each. Here each has linear layers of its own again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from tgi_backend_torch.quant.linear import FewBitsLinear, Room
from tgi_core.errors import UnsupportedModel

_OLDER = {"gate": "w1", "up": "w3", "down": "w2"}
"""As Mixtral's files, and those of its heirs, call the layers of an expert."""
_SINGLE = re.compile(r"\.experts\.\d+\.(?:(?:gate|up|down)_proj|w[123])\.weight$")


def is_of_one_expert(tensor: str) -> bool:
    """Whether a file's tensor of this name is a weight of one expert."""
    return _SINGLE.search(tensor) is not None


def names_in_files(layer: str) -> Iterator[str]:
    """What files may call a layer of the model."""
    yield layer
    if found := re.fullmatch(r"(.*)\.(\w+)\.experts\.(\d+)\.(gate|up|down)_proj", layer):
        parent, block, expert, own = found.groups()
        for each in (block, "block_sparse_moe"):
            yield f"{parent}.{each}.experts.{expert}.{_OLDER[own]}"


def are_experts(module: nn.Module) -> bool:
    """Whether it is transformers' module with the weights of several experts."""
    return hasattr(module, "is_transposed") and hasattr(module, "num_experts")


def has_norm(experts: Any) -> bool:
    """Whether what they make goes through a norm; transformers 5.17 knows none that does."""
    return getattr(experts, "has_post_expert_norm", False)


class FewBitsExpert(nn.Module):
    """The layers of one expert."""

    def __init__(self, width: int, inner: int, dtype: torch.dtype, room: Room) -> None:
        super().__init__()
        self.gate_proj = FewBitsLinear((inner, width), dtype, room)
        self.up_proj = FewBitsLinear((inner, width), dtype, room)
        self.down_proj = FewBitsLinear((width, inner), dtype, room)


class FewBitsExperts(nn.ModuleList):
    """Takes the place of transformers' module, and is called as it is."""

    def __init__(self, experts: Any, room: Room) -> None:
        """
        Raises:
            UnsupportedModel: its experts are of a kind that no quantized checkpoint was seen of.
        """
        if not experts.has_gate or experts.has_bias or has_norm(experts):
            raise UnsupportedModel(
                f"the experts of a {type(experts).__name__} are not run in few bits: serve the "
                "unquantized model, or a GGUF file with the llamacpp backend."
            )
        weight: Tensor = experts.down_proj
        width, inner = weight.shape[1:][:: -1 if experts.is_transposed else 1]
        super().__init__(
            FewBitsExpert(width, inner, weight.dtype, room) for _ in range(experts.num_experts)
        )
        experts.gate_up_proj = experts.down_proj = None
        self._gated = experts._apply_gate

    def forward(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """One layer of E experts.

        Args:
            tokens: (T, size).
            chosen: int64 (T, k), different experts of each token.
            weights: (T, k), how much each counts.

        Returns:
            (T, size).
        """
        k = chosen.shape[1]
        places = chosen.flatten().argsort(stable=True)
        made = tokens.new_empty(len(places), tokens.shape[1])
        begin = 0
        for expert, count in zip(self, _counts(chosen, len(self)), strict=True):
            mine = places[begin : begin + count]
            begin += count
            if count:
                made[mine] = self._computed(cast(FewBitsExpert, expert), tokens[mine // k])
        return (made.view(*chosen.shape, -1) * weights[..., None]).sum(1).to(tokens.dtype)

    def _computed(self, expert: FewBitsExpert, tokens: Tensor) -> Tensor:
        both = torch.cat((expert.gate_proj(tokens), expert.up_proj(tokens)), -1)
        out: Tensor = expert.down_proj(self._gated(both))
        return out


def _counts(chosen: Tensor, num: int) -> list[int]:
    """How many tokens each expert has. A plan, which knows no numbers, shares them out evenly."""
    if isinstance(chosen, FakeTensor):
        each, more = divmod(chosen.numel(), num)
        return [each + (expert < more) for expert in range(num)]
    counts: list[int] = torch.bincount(chosen.flatten(), minlength=num).tolist()
    return counts
