"""One call of a transformers model over a flat batch. Knows no cache and no rows."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from transformers import PreTrainedModel


class FlatModel:
    """A causal language model whose tokens lie side by side, without padding."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        # some classes of older transformers compute all logits or none
        self._can_choose = "logits_to_keep" in inspect.signature(type(model).forward).parameters

    def __call__(self, tokens: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        """Logits of some tokens.

        Args:
            tokens: int64 (T,).
            positions: int64 (T,), of each token in its sequence.
            wanted: int64 (L,), indices into `tokens`.

        Returns:
            (L, vocab) in the model's dtype.
        """
        choice = {"logits_to_keep": wanted} if self._can_choose else {}
        with torch.inference_mode():
            logits: Tensor = self.model(
                input_ids=tokens[None], position_ids=positions[None], use_cache=False, **choice
            ).logits[0]
            return logits if self._can_choose else logits[wanted]
