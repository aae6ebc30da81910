"""One call of a transformers model over a flat batch. Knows no cache and no rows."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from tgi_backend_torch.cross_attention import cross_attention_of


class FlatModel:
    """A causal language model whose tokens lie side by side, without padding."""

    def __init__(
        self,
        model: PreTrainedModel,
        mode: type[AbstractContextManager[None]] | None = None,
    ) -> None:
        """
        Args:
            model: what is called.
            mode: what to call it in; None: whatever takes the least time where it is.
        """
        self.model = model
        # some classes of older transformers compute all logits or none
        self._base: nn.Module | None = None if model.base_model is model else model.base_model
        self._cross = cross_attention_of(model)
        self._gradless = mode or gradless(model.device)
        self._num_embeddings: int = getattr(model.get_input_embeddings(), "num_embeddings", 0)
        self._can_choose = "logits_to_keep" in inspect.signature(type(model).forward).parameters

    def __call__(self, tokens: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        """Logits of some tokens.

        Args:
            tokens: int64 (T,).
            positions: int64 (T,), of each token in its sequence; (A, T) if there are several axes.
            wanted: int64 (L,), indices into `tokens`.

        Returns:
            (L, vocab) in the model's dtype.
        """
        choice = {"logits_to_keep": wanted} if self._can_choose else {}
        with self._gradless():
            logits: Tensor = self.model(**self._arguments(tokens, positions), **choice).logits[0]
            return self._all_tokens(logits if self._can_choose else logits[wanted])

    def wanted_states(self, states: Tensor, wanted: Tensor) -> Tensor:
        """Those of wanted tokens, among what its head was given in a call: (L, size)."""
        return states if self._can_choose else states[wanted]

    @property
    def has_hidden(self) -> bool:
        """Whether what comes before its head can be run by itself."""
        return self._base is not None

    def hidden(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Hidden states of all tokens, as the head would get them.

        Args:
            tokens: int64 (T,).
            positions: int64 (T,), of each token in its sequence; (A, T) if there are several axes.

        Returns:
            (T, size) in the model's dtype.
        """
        assert self._base is not None, "has_hidden is False"
        with self._gradless():
            states: Tensor = self._base(**self._arguments(tokens, positions)).last_hidden_state[0]
            return states

    @property
    def looks_aside(self) -> bool:
        """Whether tokens of the step that follows see images from outside the text."""
        return self._cross is not None and self._cross.looks

    def _arguments(self, tokens: Tensor, positions: Tensor) -> dict[str, Any]:
        more = {} if self._cross is None else self._cross.model_arguments(len(tokens))
        # (1, T) each, or (A, 1, T)
        return {
            "input_ids": tokens[None],
            "position_ids": positions.unsqueeze(-2),
            "use_cache": False,
            **more,
        }

    def _all_tokens(self, logits: Tensor) -> Tensor:
        """With logits for tokens that the model reads and never says, as the one of an image."""
        unsaid = self._num_embeddings - logits.shape[-1]
        if unsaid <= 0:
            return logits
        return functional.pad(logits, (0, unsaid), value=torch.finfo(logits.dtype).min)


@cache
def gradless(device: torch.device) -> type[AbstractContextManager[None]]:
    """Inference mode, which takes the least time; or what serves on devices that trace tensors, and
    so cannot have views of weights there.
    """
    number = torch.zeros(1, device=device)
    try:
        with torch.inference_mode():
            number[None]
    except RuntimeError:
        return torch.no_grad
    return torch.inference_mode
