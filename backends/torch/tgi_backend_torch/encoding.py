"""A padded model with an encoder: prompts go there, and its decoder looks at what came of them.

What the decoder's cross attention keeps of a prompt lies in the first cells of the sequence, one
for each token of the prompt, where a model without an encoder would keep keys and values.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from tgi_backend_torch.cache import PagedCache
from tgi_backend_torch.padded import PaddedModel
from tgi_backend_torch.padding import Batch, cells_of
from tgi_core.contract import Step


class EncodingModel(PaddedModel):
    """Satisfies `Computing`."""

    _positions_name = "decoder_position_ids"

    def _inputs(
        self,
        batch: Batch,
        cache: Cache,
        step: Step,
        tables: NDArray[np.int32],
        tokens: Tensor,
    ) -> dict[str, Any]:
        assert step.encoded is not None, "core says what is the encoder's"
        lengths = step.encoded[batch.rows].astype(np.int64)
        positions = np.arange(int(lengths.max()))
        mask = positions < lengths[:, None]
        cells = cells_of(tables[batch.rows], np.minimum(positions, lengths[:, None] - 1))
        cells[~mask] = self._padding_cell
        crossed = self._crossed(cells, mask, begun=batch.begun)
        inputs: dict[str, Any] = {
            "decoder_input_ids": tokens[self._to_device(batch.tokens)],
            "past_key_values": EncoderDecoderCache(cache, crossed),
            "attention_mask": self._to_device(mask.astype(np.int64)),
        }
        if batch.is_padded:
            inputs["decoder_attention_mask"] = self._to_device(batch.mask)
        if self._takes_positions:
            inputs[self._positions_name] = self._to_device(batch.positions)
        if batch.begun:
            # only its presence counts: keys and values of cross attention are there
            table: Any = self.model.get_input_embeddings()
            hidden = torch.zeros(
                (*mask.shape, table.embedding_dim), dtype=self.model.dtype, device=self.model.device
            )
        else:
            begins = step.row_begins()[batch.rows]
            hidden = self._encode(
                [tokens[b : b + n] for b, n in zip(begins.tolist(), lengths.tolist(), strict=True)]
            )
        inputs["encoder_outputs"] = BaseModelOutput(last_hidden_state=hidden)
        return inputs

    def _encode(self, prompts: list[Tensor]) -> Tensor:
        """(B, longest, size): each prompt alone, zeros behind its end."""
        encoder: Any = self.model.get_encoder()
        hidden = [encoder(input_ids=prompt[None]).last_hidden_state[0] for prompt in prompts]
        return torch.nn.utils.rnn.pad_sequence(hidden, batch_first=True)

    def _crossed(self, cells: NDArray[np.int64], mask: NDArray[np.bool_], *, begun: bool) -> Cache:
        """The cache of cross attention: full for rows that go on, to be filled for others."""
        cache = DynamicCache()
        cache.layer_class_to_replicate = None
        where = self._to_device(cells)
        rows, columns = (self._to_device(places) for places in np.nonzero(mask))
        index = 0
        for layer in self._layers:
            crossed = _CrossedLayer()
            if layer.cell is not None:
                crossed.pages, crossed.index = self._pages, index
                crossed.cells, crossed.rows, crossed.columns = where, rows, columns
                index += 1
                if begun:
                    crossed.fill()
            cache.layers.append(crossed)
        return cache


class _CrossedLayer(DynamicLayer):
    """Keys and values that cross attention computes once a prompt."""

    pages: PagedCache
    index: int
    cells: Tensor
    """int64 (B, longest prompt)"""
    rows: Tensor
    """int64 (tokens of all prompts,), as `columns`: where in `cells` they are, and no padding."""
    columns: Tensor

    def fill(self) -> None:
        """Reads what an earlier call has kept."""
        held = self.pages.read_cells(self.index, self.cells)
        self.keys, self.values = (x.transpose(1, 2) for x in held)
        self.is_initialized = True

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Keeps (B, heads, longest prompt, dim) each."""
        places = self.rows, self.columns
        flat = [x.transpose(1, 2)[places].to(self.pages.dtype) for x in (keys, values)]
        self.pages.write(self.index, self.cells[places], *flat)
        self.keys, self.values, self.is_initialized = keys, values, True
        return keys, values
