"""The torch backend in few shapes: what it does in others is refused, or done otherwise."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from tgi_backend_torch.computing import Computing
from tgi_backend_torch.cross_families import FAMILIES as CROSS_FAMILIES
from tgi_backend_torch.device import Device
from tgi_backend_torch.group import Meeting
from tgi_backend_torch.lora import PlacedAdapter, linear_shape, placed
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.shapes.adapters import StackedAdapters, adapter_rank, stack_bytes
from tgi_backend_torch.shapes.computing import ShapedComputing
from tgi_backend_torch.shapes.pictures import Pictures
from tgi_backend_torch.shards import Cuts
from tgi_backend_torch.trial import Trial
from tgi_backend_torch.vision import Pixels
from tgi_core.contract import (
    AdapterRows,
    Capabilities,
    LoadRequest,
    LoraAdapter,
    Progress,
    Sizes,
)
from tgi_core.errors import UnsupportedModel

logger = logging.getLogger(__name__)

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
        if rank is None:
            capabilities = super().take(model, cuts, trial, sizes, request)
            return replace(capabilities, adapters=AdapterRows.NONE)
        request = replace(request, max_adapter_rank=min(rank, request.max_adapter_rank or rank))
        capabilities = super().take(model, cuts, trial, sizes, request)
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
        super().warm_up(progress)

    def _sees(self, config: PretrainedConfig, folder: Path) -> bool:
        """Text alone if layers look at images: what each token looks at would be a shape."""
        if config.model_type not in CROSS_FAMILIES:
            return super()._sees(config, folder)
        logger.warning(
            "models of the type %s are served for text alone on %s, which compiles shapes: their "
            "layers look at images from outside the text; the torch and cuda backends do that",
            config.model_type,
            self._device.name,
        )
        return False

    def encode_image(self, pixels: Pixels) -> Tensor:
        """Runs the tower as it is, which compiles something for each size of image that it has not
        seen; see `EncodesImages.encode_image`.

        Returns:
            (bucket, hidden): the vectors, and padding.
        """
        pictures = self._computing.pictures
        assert pictures is not None, "the model takes no images"
        return pictures.padded(super().encode_image(pixels))

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

    def _peak_bytes(self, model: PreTrainedModel, request: LoadRequest) -> int:
        peak = super()._peak_bytes(model, request)
        rank = adapter_rank(request.options)
        if rank is None:
            return peak
        shapes = {name: linear_shape(module) for name, module in model.named_modules()}
        linear = {name: shape for name, shape in shapes.items() if shape is not None}
        num = request.max_adapters or _MAX_ADAPTERS
        return peak + stack_bytes(linear, num, rank, model.dtype.itemsize)

    def _splice(
        self, model: PreTrainedModel, limits: Capabilities, computing: Computing
    ) -> Pictures:
        assert isinstance(computing, ShapedComputing), "the device makes no other"
        computing.pictures = Pictures(model, limits, self._device.to_device, computing.compiler)
        return computing.pictures

    def refuse_padded(self, request: LoadRequest, fault: str) -> None:
        """Refuses all of them; see `TorchBackend.refuse_padded`."""
        raise UnsupportedModel(
            f"{request.model.reference} does not run in flat batches, and {self._device.name} "
            f"would compile each padded one: serve it with --backend torch. ({fault})"
        )
