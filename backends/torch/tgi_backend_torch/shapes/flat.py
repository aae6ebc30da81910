"""The torch backend in few shapes: what it does in others is refused, or done otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from transformers import PreTrainedModel

from tgi_backend_torch.computing import Computing
from tgi_backend_torch.cross_attention import cross_attention_of
from tgi_backend_torch.device import Device
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.group import Meeting
from tgi_backend_torch.image_tables import ImageTables
from tgi_backend_torch.lora import PlacedAdapter, linear_shape, placed
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.shapes.adapters import StackedAdapters, adapter_rank, stack_bytes
from tgi_backend_torch.shapes.computing import ShapedComputing
from tgi_backend_torch.shapes.glances import MOST_ADJACENT, Glances, attention_bytes
from tgi_backend_torch.shapes.pictures import Pictures
from tgi_backend_torch.shards import Cuts
from tgi_backend_torch.splice import Splice
from tgi_backend_torch.trial import Trial
from tgi_backend_torch.vision import sees
from tgi_core.contract import (
    AdapterRows,
    Capabilities,
    LoadRequest,
    LoraAdapter,
    Progress,
    Sizes,
    step_limits,
)
from tgi_core.errors import UnsupportedModel

_MAX_ADAPTERS = 8
"""If nobody says."""


class FlatBackend(TorchBackend):
    """Models that run in flat batches; adapters in stacks, if the options give them a rank."""

    def __init__(self, device: Device | None = None, meeting: Meeting | None = None) -> None:
        super().__init__(device, meeting)
        self._stacks: StackedAdapters | None = None

    def take(
        self,
        model: PreTrainedModel,
        cuts: Cuts,
        trial: Trial,
        sizes: Sizes,
        request: LoadRequest,
    ) -> Capabilities:
        """As `TorchBackend.take`."""
        rank = adapter_rank(request.options)
        if rank is not None:
            most = min(rank, request.max_adapter_rank or rank)
            request = replace(request, max_adapter_rank=most)
        capabilities = super().take(model, cuts, trial, sizes, request)
        if self._computing.glances is not None:
            capabilities = replace(capabilities, max_adjacent_images=MOST_ADJACENT)
        if rank is None:
            return replace(capabilities, adapters=AdapterRows.NONE)
        self._stacks = StackedAdapters(
            trial.adaptable,
            request.max_adapters or _MAX_ADAPTERS,
            rank,
            model.dtype,
            self._device.torch_device,
        )
        self._computing.adapters = self._stacks
        # else a device that collects operations makes the stacks where they are first used
        self._computing.wait()
        return capabilities

    def warm_up(self, progress: Progress) -> None:
        """As `TorchBackend.warm_up`; and an adapter is put somewhere, and images are looked at."""
        if self._stacks is not None:
            self.set_adapter(1, None)
        pictures = self._computing.pictures
        if pictures is not None:
            pictures.warm_up()
            for vectors in self._sight().try_out():
                # what no sequence holds is never asked for
                if len(vectors) <= self.limits.max_sequence_tokens:
                    pictures.padded(vectors)
        elif self._computing.glances is not None:
            self._sight().try_out()
            self._computing.wait()
        super().warm_up(progress)

    def encode_image(self, pixels: Any) -> Any:
        """Runs the tower as it is, which compiles something for each size of image that it has not
        seen; see `EncodesImages.encode_image`.

        Returns:
            (bucket, hidden): the vectors, and padding; or what is kept of an image seen aside.
        """
        # what was called before is no part of what is compiled
        self._computing.wait()
        made = super().encode_image(pixels)
        if self._computing.pictures is not None:
            return self._computing.pictures.padded(made)
        self._computing.wait()
        return made

    def place_adapter(self, adapter: LoraAdapter) -> PlacedAdapter:
        """On the host: from there it is written over what the stacks hold."""
        loaded = self._here()
        return placed(adapter, loaded.adapters.pieces, loaded.dtype, torch.device("cpu"))

    def set_adapter(self, place: int, adapter: object | None) -> None:
        """Writes it over what was there; see `HoldsAdapters.set_adapter`."""
        assert self._stacks is not None, "there are no adapters"
        # only `read_adapter` makes them
        assert adapter is None or isinstance(adapter, PlacedAdapter)
        self._stacks.put(place, adapter)
        self._computing.wait()

    @property
    def _computing(self) -> ShapedComputing:
        computing = self._here().computing
        assert isinstance(computing, ShapedComputing), "the device makes no other"
        return computing

    def _peak_bytes(self, model: PreTrainedModel, trial: Trial, request: LoadRequest) -> int:
        peak = super()._peak_bytes(model, trial, request)
        cross, item = cross_attention_of(model), model.dtype.itemsize
        if cross is not None and sees(model.config, request.model.path):
            text = [layer.shape for layer in trial.layers]
            limits = step_limits(request, self._device.size_defaults)
            peak += attention_bytes(cross, text, *limits, item)
        rank = adapter_rank(request.options)
        if rank is None:
            return peak
        shapes = {name: linear_shape(module) for name, module in model.named_modules()}
        linear = {name: shape for name, shape in shapes.items() if shape is not None}
        num = request.max_adapters or _MAX_ADAPTERS
        return peak + stack_bytes(linear, num, rank, item)

    def _splice(
        self, flat: FlatModel, tables: ImageTables, limits: Capabilities, computing: Computing
    ) -> Splice:
        assert isinstance(computing, ShapedComputing), "the device makes no other"
        cross = cross_attention_of(flat.model)
        if cross is not None:
            computing.glances = Glances(cross, tables, computing.cache)
            return computing.glances
        to_device, compiler = self._device.to_device, computing.compiler
        computing.pictures = Pictures(flat.model, limits, to_device, compiler)
        return computing.pictures

    def refuse_padded(self, request: LoadRequest, fault: str) -> None:
        """Refuses all of them; see `TorchBackend.refuse_padded`."""
        raise UnsupportedModel(
            f"{request.model.reference} does not run in flat batches, and {self._device.name} "
            f"would compile each padded one: serve it with --backend torch. ({fault})"
        )
