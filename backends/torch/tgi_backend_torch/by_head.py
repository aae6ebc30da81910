"""What a rank's attention modules take of arguments that hold something for each head.

Such biases, as ALiBi's, a model computes once, for all heads and layers. Knows no family.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnHeads:
    """Which heads a module of one rank has, and which of its arguments hold something of each."""

    arguments: tuple[str, ...]
    begin: int
    end: int
    num_heads: int
    """Of all ranks."""

    def connect(self, module: nn.Module) -> None:
        """Has the module see its own heads only."""

        def cut(
            module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            own = {name: self.of(named[name]) for name in self.arguments if name in named}
            return inputs, {**named, **own}

        module.register_forward_pre_hook(cut, with_kwargs=True)

    def of(self, bias: Tensor | None) -> Tensor | None:
        """A part of (B, heads, n, W), of (B * heads, n, W), or of (heads, n, W); a mask
        (B, 1, n, W) that all heads share as it is.
        """
        if bias is None or (bias.dim() == 4 and bias.shape[1] == 1):
            return bias
        if bias.dim() == 4:
            return bias[:, self.begin : self.end]
        by_head = bias.unflatten(0, (-1, self.num_heads))
        return by_head[:, self.begin : self.end].flatten(0, 1)
