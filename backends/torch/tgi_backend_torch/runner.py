"""The StepBackend: sequences, blocks and steps of one transformers model."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from tgi_backend_torch.attention import BoundLayer
from tgi_backend_torch.cache import BLOCK_TOKENS, PagedCache
from tgi_backend_torch.computing import Computing
from tgi_backend_torch.cross_attention import cross_attention_of
from tgi_backend_torch.cross_sight import CrossSplice
from tgi_backend_torch.device import CpuDevice, Device
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.group import Alone, Group, Meeting, Unconnected
from tgi_backend_torch.heads import MedusaHeads, heads_of
from tgi_backend_torch.image_tables import ImageTables
from tgi_backend_torch.loaded import Loaded
from tgi_backend_torch.loader import (
    attention_for,
    longest_sequence,
    model_class,
    read_config,
    why_not_flat,
)
from tgi_backend_torch.logits import TorchLogits
from tgi_backend_torch.lora import AdapterBank, PlacedAdapter, placed
from tgi_backend_torch.make_padded import make_padded
from tgi_backend_torch.pool import pool_rows
from tgi_backend_torch.sentences import embedding_of
from tgi_backend_torch.shards import Cuts, Share, connect_layers
from tgi_backend_torch.splice import EagerSplice, Splice
from tgi_backend_torch.tower import Tower, tower_of
from tgi_backend_torch.trial import Trial, try_hidden, try_largest, try_model
from tgi_backend_torch.vision import make_causal, sees, two_way_of
from tgi_backend_torch.weights import Weights
from tgi_backend_torch.wishes import (
    cache_dtype,
    refuse_embedders,
    refuse_shards,
    refuse_unknown,
)
from tgi_core.contract import (
    AdapterRows,
    BackendStats,
    BlockPool,
    Capabilities,
    Image,
    LoadRequest,
    LoraAdapter,
    Modality,
    PendingLogits,
    Progress,
    ReadImage,
    Sizes,
    Step,
    TwoWay,
    choose_sizes,
    read_peft,
    step_limits,
    warm_up_with,
)
from tgi_core.errors import OutOfMemory, Unsupported, UnsupportedModel

logger = logging.getLogger(__name__)

_MAX_ADAPTER_RANK = 256
_WHOLE_PROMPT_TOKENS = 4096
"""Tokens in a step of a model that computes prompts with images at once."""
WARM_UP_LENGTHS = (64, 1)
"""Enough to take the way of a long row; the length makes no kernel faster later."""


class TorchBackend:
    """Satisfies `StepBackend`, `Embeds`, `EncodesImages` and `HoldsHeads`.

    Device packages pass their device.
    """

    def __init__(self, device: Device | None = None, meeting: Meeting | None = None) -> None:
        self._device: Device = device or CpuDevice()
        self._meeting: Meeting = meeting or Alone()
        self._group: Group = Unconnected()
        self._loaded: Loaded | None = None
        self._heads: MedusaHeads | None = None

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """Reads the weights and makes the cache; see `StepBackend.load`.

        `dtype` None means the checkpoint's own where the device computes it, else float32 or
        bfloat16 as `Device.default_dtype` says. Options are the device's.
        """
        refuse_unknown(request, self._device)
        refuse_shards(request, self._meeting.size)
        refuse_embedders(request)
        if request.num_threads is not None:
            torch.set_num_threads(request.num_threads)
        device = self._device
        config = read_config(request.model.path)
        make_causal(config)
        whole = two_way_of(config) is TwoWay.PROMPTS and sees(config, request.model.path)
        if whole and request.max_step_tokens is None:
            request = replace(request, max_step_tokens=_WHOLE_PROMPT_TOKENS)
        cls = model_class(config)
        fault = why_not_flat(cls, config)
        if fault is not None:
            self.refuse_padded(request, fault)
        share = Share(self._meeting.rank, self._meeting.size)
        model, cuts = self._weights(request).fill(
            cls,
            config,
            device.torch_device,
            progress,
            attention=attention_for(cls, config),
            share=share,
        )
        dtype = model.dtype
        if fault is None:
            device.prepare(model, dtype, exact=request.dtype is not None)
        group = self._group = self._meeting.join()
        connect_layers(model, cuts, group, share.rank)
        if fault is not None:
            return self._take_padded(model, request, fault)
        try:
            trial = try_model(model)
        except UnsupportedModel as error:
            if share.size > 1:
                raise
            self.refuse_padded(request, str(error))
            model.set_attn_implementation("eager")
            return self._take_padded(model, request, str(error))
        free_bytes = device.free_bytes() - self._peak_bytes(model, trial, request)
        sizes = choose_sizes(
            request,
            cell_bytes=trial.cell_numbers * cache_dtype(request, dtype, device).itemsize,
            block_tokens=BLOCK_TOKENS,
            free_bytes=group.least(max(0, free_bytes)),
            longest=longest_sequence(config, windowed=trial.windowed),
            defaults=device.size_defaults,
        )
        return self.take(model, cuts, trial, sizes, request)

    def take(
        self,
        model: PreTrainedModel,
        cuts: Cuts,
        trial: Trial,
        sizes: Sizes,
        request: LoadRequest,
    ) -> Capabilities:
        """Makes the cache of a model and connects the two: all of `load` but the weights."""
        device, dtype = self._device, model.dtype
        folder = request.model.path
        tower = tower_of(model, folder) if sees(model.config, folder) else None
        shapes = [layer.shape for layer in trial.layers]
        kept = cache_dtype(request, dtype, device)
        cache = PagedCache(shapes, sizes.num_blocks, kept, device.torch_device)
        pool = BlockPool(sizes.num_blocks)
        tables = ImageTables(pool, BLOCK_TOKENS, sizes.max_sequences, sizes.max_sequence_tokens)
        capabilities = replace(
            sizes.capabilities(device.name, trial.vocab_size, BLOCK_TOKENS),
            adapters=AdapterRows.ROW,
            embedding=embedding_of(folder, try_hidden(model)),
            modalities=frozenset({Modality.TEXT} if tower is None else Modality),
            two_way=TwoWay.NONE if tower is None else two_way_of(model.config),
        )
        flat = FlatModel(model)
        computing = device.computing(flat, cache, capabilities)
        splice, cross = None, cross_attention_of(model)
        if tower is not None:
            if cross is not None:
                cross.keep_in(cache, shapes, pool)
            splice = self._splice(flat, tables, capabilities, computing)
        for index, layer in enumerate(trial.layers):
            layer.module.tgi_layer = BoundLayer(computing.attention, index)  # type: ignore[assignment]
        self._loaded = Loaded(
            request=request,
            computing=computing,
            dtype=dtype,
            cache=cache,
            tables=tables,
            adapters=AdapterBank(
                trial.adaptable, device.torch_device, cuts.of_weights(trial.adaptable)
            ),
            capabilities=capabilities,
            num_bytes=cache.num_bytes,
            cuts=cuts,
            flat=flat,
            vision=tower,
            splice=splice,
        )
        return capabilities

    def _take_padded(
        self, model: PreTrainedModel, request: LoadRequest, fault: str
    ) -> Capabilities:
        self._loaded = make_padded(model, request, self._device, self._group, fault)
        return self._loaded.capabilities

    def refuse_padded(self, request: LoadRequest, fault: str) -> None:
        """Whether a model that no flat batch holds runs here; this one runs it.

        Raises:
            UnsupportedModel: it does not; `fault` is why no flat batch holds it.
        """

    def _weights(self, request: LoadRequest) -> Weights:
        weights = Weights.find(request, self._device)
        weights.check_fit(self._device, self._meeting.size)
        return weights

    def _splice(
        self, flat: FlatModel, tables: ImageTables, limits: Capabilities, computing: Computing
    ) -> Splice:
        """What brings images into steps."""
        cross = cross_attention_of(flat.model)
        return EagerSplice(flat.model) if cross is None else CrossSplice(cross, tables)

    def warm_up(self, progress: Progress) -> None:
        """A prefill and a decode step, so that kernels are chosen and weights are in memory."""
        self._here().computing.warm_up(progress)
        warm_up_with(self, self._here().capabilities, WARM_UP_LENGTHS, progress)

    @property
    def limits(self) -> Capabilities:
        """What `load` returned."""
        return self._here().capabilities

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
        """One forward of all rows; see `StepBackend.step`."""
        loaded = self._here()
        logits = self._run(step, loaded.computing.logits)
        if self._heads is None or loaded.flat is None:
            return TorchLogits(logits)
        wanted = self._device.to_device(step.out.astype(np.int64))
        return TorchLogits(logits, loaded.flat.wanted_states(self._heads.last_states(), wanted))

    def load_heads(self, path: Path) -> int:
        """Reads a folder of Medusa; see `HoldsHeads.load_heads`."""
        self._heads = heads_of(self._here(), path)
        return self._heads.num

    def guess(self, logits: PendingLogits, outputs: NDArray[np.int32]) -> NDArray[np.int32]:
        """Runs the heads on some places; see `HoldsHeads.guess`."""
        if self._heads is None or not isinstance(logits, TorchLogits) or logits.states is None:
            raise TypeError("only what `step` returned since heads were loaded can be guessed from")
        states = logits.states[self._device.to_device(outputs.astype(np.int64))]
        return self._heads.guess(states).cpu().numpy().astype(np.int32)

    def keep(self, num_outputs: int) -> None:
        """Takes what rank 0 has sampled for the outputs of the last step, for the next one."""
        ids = torch.empty(num_outputs, dtype=torch.int32, device=self._device.torch_device)
        self._here().computing.keep(self._group.first(ids))

    def embed(self, step: Step) -> NDArray[np.float32]:
        """The same, up to the hidden states; see `Embeds.embed`."""
        loaded = self._here()
        embedding = loaded.capabilities.embedding
        if embedding is None:
            raise Unsupported("embeddings")
        hidden = self._run(step, loaded.computing.hidden)
        return pool_rows(hidden, step.n.tolist(), embedding.pooling)

    def _run(self, step: Step, compute: Callable[[Step, NDArray[np.int32]], Tensor]) -> Tensor:
        """Computes, and notes that the cache holds the rows."""
        loaded = self._here()
        loaded.adapters.begin(step)
        if loaded.splice is not None:
            loaded.splice.begin(step)
        ends = step.past + step.n
        held = loaded.tables.held_by(step.seq)
        if not loaded.capabilities.truncates and (held != step.past).any():
            # its tokens could not be sampled, and states do not go back: begun anew it is right
            raise OutOfMemory("a step of recurrent states cannot be taken again")
        with self._telling_want_of_memory(f"a step of {step.num_tokens} tokens"):
            out = compute(step, loaded.tables.rows(step.seq, int(ends.max())))
        # not by `n`: a step is computed again if its tokens could not be sampled
        loaded.tables.advance(step.seq, ends - held)
        return out

    @contextmanager
    def _telling_want_of_memory(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if self._device.is_out_of_memory(error):
                raise OutOfMemory(f"{what} does not fit in memory") from error
            raise

    def read_image(self, image: Image) -> ReadImage:
        """Decodes an image and prepares its pixels; see `EncodesImages.read_image`."""
        return self._sight().read(image)

    def encode_image(self, pixels: Any) -> Any:
        """Runs the vision tower; see `EncodesImages.encode_image`."""
        with self._telling_want_of_memory("an image"):
            return self._sight().encode(pixels)

    def read_adapter(self, path: Path) -> PlacedAdapter:
        """Reads a folder of PEFT; see `HoldsAdapters.read_adapter`."""
        return self.place_adapter(self.read_whole_adapter(path))

    def read_whole_adapter(self, path: Path) -> LoraAdapter:
        """Reads it to the host, and checks it; see `read_peft`."""
        loaded = self._here()
        return read_peft(
            path,
            loaded.adapters.shapes(),
            max_rank=loaded.request.max_adapter_rank or _MAX_ADAPTER_RANK,
            free_bytes=self._device.free_bytes(),
            model=loaded.request.model.reference,
        )

    def place_adapter(self, adapter: LoraAdapter) -> PlacedAdapter:
        """What this rank has of it; see `placed`."""
        loaded = self._here()
        return placed(adapter, loaded.adapters.pieces, loaded.dtype, self._device.torch_device)

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
            memory_bytes=loaded.num_bytes,
        )

    def close(self) -> None:
        """Drops model and cache."""
        self._device.close()
        self._group.close()
        self._group, self._loaded, self._heads = Unconnected(), None, None
        # modules and their parents refer to each other
        gc.collect()

    def _peak_bytes(self, model: PreTrainedModel, trial: Trial, request: LoadRequest) -> int:
        """What the device must keep free for the largest step, and for an image."""
        rows, tokens = step_limits(request, self._device.size_defaults)

        def run() -> None:
            self._largest_step(model, tokens, rows)
            if sees(model.config, request.model.path):
                tower_of(model, request.model.path).try_out()

        return self._device.peak_bytes(run)

    def _largest_step(self, model: PreTrainedModel, num_tokens: int, num_rows: int) -> Tensor:
        """Whatever takes memory beside the weights and the cache; the logits of all rows."""
        return try_largest(model, num_tokens, min(num_rows, num_tokens))

    def _sight(self) -> Tower:
        vision = self._here().vision
        if vision is None:
            raise Unsupported("images")
        return vision

    def _here(self) -> Loaded:
        if self._loaded is None:
            raise RuntimeError("no model is loaded")
        return self._loaded
