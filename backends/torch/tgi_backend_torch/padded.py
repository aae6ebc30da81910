"""A model that computes attention, or whatever it does instead, by itself, over pages and slots.

Each batch of a step is one call, to the model no different from one that `generate` makes. It costs
a call for each length of rows where a flat batch needs one for all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from tgi_backend_torch.attention import Attention
from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.computing import named_tokens
from tgi_backend_torch.layers import KeptLayer, Seen, StateSlots, cache_over
from tgi_backend_torch.padding import Batch, PaddingRules, batches
from tgi_backend_torch.sampler import most_probable
from tgi_core.contract import Progress, Step

ToDevice = Callable[[NDArray[Any]], Tensor]


class PaddedModel:
    """Computes steps; satisfies `Computing`."""

    _positions_name = "position_ids"

    def __init__(
        self,
        model: PreTrainedModel,
        layers: tuple[KeptLayer, ...],
        pages: PagedCache,
        slots: StateSlots,
        rules: PaddingRules,
        to_device: ToDevice,
    ) -> None:
        self.model = model
        self._layers = layers
        self._pages = pages
        self._slots = slots
        self._rules = rules
        self._to_device = to_device
        self._sampled: Tensor | None = None
        self._has_cells = any(layer.cell is not None for layer in layers)
        self._padding_cell = pages.padding_block * BLOCK_TOKENS
        parameters = inspect.signature(type(model).forward).parameters
        self._takes_positions = self._positions_name in parameters
        self._can_choose = "logits_to_keep" in parameters
        self._cache_name = cache_name(model)

    @property
    def attention(self) -> Attention:
        """Never asked for: the model has its own."""
        raise NotImplementedError("models that are run in padded batches have their own attention")

    def warm_up(self, progress: Progress) -> None:
        """Nothing: the steps that the runner tries suffice."""

    def most_probable(self, logits: Tensor) -> Tensor:
        """By torch."""
        return most_probable(logits)

    def keep(self, ids: Tensor) -> None:
        """Keeps what was sampled, for tokens of the next step that name it."""
        self._sampled = ids

    def logits(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """See `Computing.logits`."""
        tokens = named_tokens(step.tokens, self._sampled, self._to_device)
        found: list[Tensor] = []
        places: list[NDArray[np.intp]] = []
        caches: list[tuple[Cache, Tensor]] = []
        with torch.inference_mode():
            for batch in batches(step, tables, self._padding_cell, self._rules):
                seqs = self._to_device(batch.seqs)
                cache = self._cache(batch, seqs)
                wanted = np.flatnonzero(np.isin(step.out, batch.tokens))
                inputs = self._inputs(batch, cache, step, tables, tokens)
                found.append(self._call(batch, inputs, step.out[wanted]))
                places.append(wanted)
                caches.append((cache, seqs))
            # a step that fails half way must not have changed any state
            for cache, seqs in caches:
                self._slots.store(cache, seqs)
            order = self._to_device(np.argsort(np.concatenate(places)))
            return torch.cat(found)[order]

    def hidden(self, step: Step, tables: NDArray[np.int32]) -> Tensor:
        """Never asked for: it is not said to embed."""
        raise NotImplementedError("models that are run in padded batches do not embed")

    @property
    def num_bytes(self) -> int:
        """Of pages and slots."""
        return self._pages.num_bytes + self._slots.num_bytes

    def _inputs(
        self,
        batch: Batch,
        cache: Cache,
        step: Step,
        tables: NDArray[np.int32],
        tokens: Tensor,
    ) -> dict[str, Any]:
        """What the model is called with, but for the choice of logits."""
        inputs: dict[str, Any] = {
            "input_ids": tokens[self._to_device(batch.tokens)],
            self._cache_name: cache,
        }
        if self._takes_positions:
            inputs[self._positions_name] = self._to_device(batch.positions)
        if self._has_cells and batch.is_padded:
            inputs["attention_mask"] = self._to_device(batch.mask)
        return inputs

    def _call(self, batch: Batch, inputs: dict[str, Any], wanted: NDArray[np.int32]) -> Tensor:
        """(len(wanted), vocab): logits of tokens of the step that are in the batch."""
        rows, columns = np.divmod(np.searchsorted(batch.tokens.ravel(), wanted), batch.num_new)
        if self._can_choose:
            kept = np.unique(columns) if len(columns) else np.array([batch.num_new - 1])
            inputs["logits_to_keep"] = self._to_device(kept)
            columns = np.searchsorted(kept, columns)
        logits: Tensor = self.model(use_cache=True, **inputs).logits
        return logits[self._to_device(rows), self._to_device(columns)]

    def _cache(self, batch: Batch, seqs: Tensor) -> Cache:
        seen = Seen(
            self._pages,
            self._to_device(batch.new_cells),
            None if batch.alone else self._to_device(batch.cells),
            batch.width - batch.num_new,
        )
        cache = cache_over(self._layers, seen)
        if batch.begun:
            for index, layer in enumerate(cache.layers):
                self._slots.load(index, layer, seqs)
        return cache


def cache_name(model: PreTrainedModel) -> str:
    """What the model calls its cache."""
    parameters = inspect.signature(type(model).forward).parameters
    return "past_key_values" if "past_key_values" in parameters else "cache_params"
