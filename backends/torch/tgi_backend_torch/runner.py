"""The StepBackend: sequences, blocks and steps of one transformers model."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tgi_backend_torch.attention import Attention, BoundLayer
from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.checkpoint import find_checkpoint
from tgi_backend_torch.device import CpuDevice, Device
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.layout import StepLayout
from tgi_backend_torch.loader import load_model, longest_sequence, model_class, read_config
from tgi_backend_torch.lora import AdapterBank, PlacedAdapter, placed
from tgi_backend_torch.pool import pool_rows
from tgi_backend_torch.sentences import embeds_only, read_pooling
from tgi_backend_torch.trial import try_hidden, try_model
from tgi_backend_torch.wishes import check_weights_fit, choose_dtype, refuse_unknown
from tgi_core.contract import (
    AdapterRows,
    BackendStats,
    BlockPool,
    BlockTables,
    Capabilities,
    Embedding,
    LoadRequest,
    PendingLogits,
    Pooling,
    Progress,
    Step,
    choose_sizes,
    read_peft,
    warm_up_with,
)
from tgi_core.errors import OutOfMemory, Unsupported, UnsupportedModel

logger = logging.getLogger(__name__)

_MAX_ADAPTER_RANK = 256
_WARM_UP_LENGTHS = (64, 1)
"""Enough to take the way of a long row; the length makes no kernel faster later."""


@dataclass(frozen=True, slots=True)
class TorchLogits:
    """PendingLogits that lie on the device."""

    tensor: Tensor
    """(L, vocab), in the model's dtype."""

    def numpy(self) -> NDArray[np.float32]:
        """Waits for the device; see `PendingLogits`."""
        array: NDArray[np.float32] = self.tensor.float().cpu().numpy()
        return array


@dataclass(frozen=True, slots=True)
class _Loaded:
    """All that exists between load and close."""

    model: FlatModel
    cache: PagedCache
    attention: Attention
    tables: BlockTables
    adapters: AdapterBank
    max_adapter_rank: int
    reference: str
    capabilities: Capabilities


class TorchBackend:
    """Satisfies `StepBackend` and `Embeds`. Device packages pass their device."""

    def __init__(self, device: Device | None = None) -> None:
        self._device: Device = device or CpuDevice()
        self._loaded: _Loaded | None = None

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """Reads the weights and makes the cache; see `StepBackend.load`.

        `dtype` None means the checkpoint's own where the device computes it, else float32 or
        bfloat16 as `Device.default_dtype` says. There are no options.
        """
        refuse_unknown(request, self._device)
        if embeds_only(request.model.path):
            raise UnsupportedModel(
                f"{request.model.reference} only embeds texts: leave out --backend, or use "
                "--backend torch-encoder."
            )
        if request.num_threads is not None:
            torch.set_num_threads(request.num_threads)
        device = self._device
        config = read_config(request.model.path)
        cls = model_class(config)
        checkpoint = find_checkpoint(request.model.path)
        dtype = choose_dtype(request.dtype, checkpoint, device)
        check_weights_fit(checkpoint, dtype, device)
        model = load_model(cls, config, checkpoint, dtype, device.torch_device, progress)
        device.prepare(model, dtype)
        trial = try_model(model)
        hidden_size = try_hidden(model)
        sizes = choose_sizes(
            request,
            cell_bytes=sum(layer.shape.numbers for layer in trial.layers) * dtype.itemsize,
            block_tokens=BLOCK_TOKENS,
            free_bytes=device.free_bytes(),
            longest=longest_sequence(config, windowed=trial.windowed),
        )
        cache = PagedCache(
            [layer.shape for layer in trial.layers], sizes.num_blocks, dtype, device.torch_device
        )
        attention = device.attention(cache)
        for index, layer in enumerate(trial.layers):
            layer.module.tgi_layer = BoundLayer(attention, index)  # type: ignore[assignment]
        tables = BlockTables(
            BlockPool(sizes.num_blocks),
            BLOCK_TOKENS,
            sizes.max_sequences,
            sizes.max_sequence_tokens,
        )
        capabilities = replace(
            sizes.capabilities(device.name, trial.vocab_size, BLOCK_TOKENS),
            adapters=AdapterRows.ROW,
            embedding=_embedding(request.model.path, hidden_size),
        )
        self._loaded = _Loaded(
            model=FlatModel(model),
            cache=cache,
            attention=attention,
            tables=tables,
            adapters=AdapterBank(trial.adaptable, device.torch_device),
            max_adapter_rank=request.max_adapter_rank or _MAX_ADAPTER_RANK,
            reference=request.model.reference,
            capabilities=capabilities,
        )
        return capabilities

    def warm_up(self, progress: Progress) -> None:
        """A prefill and a decode step, so that kernels are chosen and weights are in memory."""
        warm_up_with(self, self._here().capabilities, _WARM_UP_LENGTHS, progress)

    def reserve(self, seq: int, length: int) -> bool:
        """Takes blocks, and copies the last one if it is shared."""
        loaded = self._here()
        copies = loaded.tables.reserve(seq, length)
        if copies is None:
            return False
        loaded.cache.copy(copies)
        return True

    def fork(self, src: int, dst: int, length: int) -> bool:
        """Shares blocks; never refuses."""
        self._here().tables.fork(src, dst, length)
        return True

    def truncate(self, seq: int, length: int) -> None:
        """Gives back the blocks beyond `length`."""
        self._here().tables.truncate(seq, length)

    def release(self, seq: int) -> None:
        """Gives back all blocks."""
        self._here().tables.release(seq)

    def step(self, step: Step) -> PendingLogits:
        """One forward of all rows side by side; see `StepBackend.step`."""
        wanted = self._device.to_device(step.out.astype(np.int64))
        model = self._here().model
        logits = self._run(step, lambda tokens, positions: model(tokens, positions, wanted))
        return TorchLogits(logits)

    def embed(self, step: Step) -> NDArray[np.float32]:
        """The same, up to the hidden states; see `Embeds.embed`."""
        loaded = self._here()
        embedding = loaded.capabilities.embedding
        if embedding is None:
            raise Unsupported("embeddings")
        hidden = self._run(step, loaded.model.hidden)
        return pool_rows(hidden, step.n.tolist(), embedding.pooling)

    def _run(self, step: Step, forward: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Lays the rows out, computes, and notes that the cache holds them."""
        loaded = self._here()
        layout = StepLayout(step, loaded.tables.rows(step.seq), loaded.cache)
        loaded.attention.begin(layout)
        loaded.adapters.begin(step)
        try:
            out = forward(self._tokens(step.tokens), layout.positions)
        except RuntimeError as error:
            if self._device.is_out_of_memory(error):
                raise OutOfMemory(
                    f"a step of {step.num_tokens} tokens does not fit in memory"
                ) from error
            raise
        for seq, n in zip(step.seq.tolist(), step.n.tolist(), strict=True):
            loaded.tables.advance(seq, n)
        return out

    def read_adapter(self, path: Path) -> PlacedAdapter:
        """Reads a folder of PEFT; see `HoldsAdapters.read_adapter`."""
        loaded = self._here()
        adapter = read_peft(
            path,
            loaded.adapters.shapes(),
            max_rank=loaded.max_adapter_rank,
            free_bytes=self._device.free_bytes(),
            model=loaded.reference,
        )
        return placed(adapter, loaded.model.model.dtype, self._device.torch_device)

    def set_adapter(self, place: int, adapter: object | None) -> None:
        """Hooks the layers that it changes; see `HoldsAdapters.set_adapter`."""
        # only `read_adapter` makes them
        assert adapter is None or isinstance(adapter, PlacedAdapter)
        self._here().adapters.put(place, adapter)

    def stats(self) -> BackendStats:
        """Cells in use, and the memory of the cache."""
        loaded = self._here()
        return BackendStats(
            cache_tokens_used=loaded.tables.used_blocks * BLOCK_TOKENS,
            memory_bytes=loaded.cache.num_bytes,
        )

    def close(self) -> None:
        """Drops model and cache."""
        self._device.synchronize()
        self._loaded = None
        # modules and their parents refer to each other
        gc.collect()

    def _tokens(self, tokens: NDArray[np.int32]) -> Tensor:
        """int64 (T,), on the device."""
        return self._device.to_device(tokens.astype(np.int64))

    def _here(self) -> _Loaded:
        if self._loaded is None:
            raise RuntimeError("no model is loaded")
        return self._loaded


def _embedding(folder: Path, hidden_size: int | None) -> Embedding | None:
    """How a model that generates embeds, if it can: by its last token, or as its folder says."""
    if hidden_size is None:
        return None
    try:
        pooling = read_pooling(folder)
    except UnsupportedModel as error:
        logger.warning("it generates, but cannot embed: %s", error)
        return None
    return Embedding(size=hidden_size, pooling=pooling or Pooling.LAST)
