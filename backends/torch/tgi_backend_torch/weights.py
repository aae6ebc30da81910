"""The weights of a model: where they are, what they are computed in, and how they get into it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PretrainedConfig, PreTrainedModel

from tgi_backend_torch.checkpoint import Checkpoint, find_checkpoint
from tgi_backend_torch.device import Device
from tgi_backend_torch.loader import attention_for, empty_model, load_model
from tgi_backend_torch.quant.formats import find_quantization
from tgi_backend_torch.quant.rounding import Rounding
from tgi_backend_torch.quant.stored import Format
from tgi_backend_torch.quant.swap import empty_few_bits, load_few_bits
from tgi_backend_torch.shards import Cuts, Share, cut_model, load_part
from tgi_backend_torch.wishes import check_bytes_fit, check_weights_fit, choose_dtype
from tgi_core.contract import LoadRequest, Progress

_ALL = Share()


@dataclass(frozen=True, slots=True)
class Weights:
    """All that is known of them before they are read."""

    checkpoint: Checkpoint
    dtype: torch.dtype
    quantization: Format | Rounding | None

    @classmethod
    def find(cls, request: LoadRequest, device: Device) -> Weights:
        """Looks for them.

        Raises:
            BadModel: files are absent or damaged.
            UnsupportedModel: they are quantized, or are to be computed in a dtype, as is not done
                here.
            UsageError: they are to be quantized as they cannot be.
        """
        quantization = find_quantization(request.model.path, request.quantize)
        checkpoint = find_checkpoint(request.model.path)
        return cls(checkpoint, choose_dtype(request.dtype, checkpoint, device), quantization)

    @property
    def words(self) -> str:
        """What they are kept in, for people."""
        kept = str(self.dtype).removeprefix("torch.")
        match self.quantization:
            case None:
                return kept
            case Rounding(name=name):
                return f"{name}, computed in {kept}"
            case format:
                return f"{format.name}, computed in {kept}"

    def check_fit(self, device: Device, size: int = 1) -> None:
        """Compares them with the memory that is free; `size` ranks share them.

        Raises:
            DoesNotFit: with what to do.
        """
        match self.quantization:
            case None:
                check_weights_fit(self.checkpoint, self.dtype, device, size)
            case Rounding(bits=bits):
                numbers = sum(self.checkpoint.num_numbers.values())
                check_bytes_fit(numbers * bits // 8 // size, self.words, device)
            case _:
                check_bytes_fit(self.checkpoint.num_bytes // size, self.words, device)

    def check_cuts(self, cls: type[PreTrainedModel], config: PretrainedConfig, size: int) -> None:
        """Looks whether weights in few bits can be cut for so many ranks, before any is read.

        Raises:
            UnsupportedModel: see `empty`.
        """
        if self.quantization is not None:
            with FakeTensorMode():
                self.empty(cls, config, Share(0, size))

    def fill(
        self,
        cls: type[PreTrainedModel],
        config: PretrainedConfig,
        device: torch.device,
        progress: Progress,
        *,
        attention: str | None = None,
        share: Share = _ALL,
    ) -> tuple[PreTrainedModel, Cuts]:
        """Makes the model, or one rank's part of it; see `load_model`, `load_part` and
        `load_few_bits`.
        """
        checkpoint, dtype = self.checkpoint, self.dtype
        if self.quantization is not None:
            return load_few_bits(
                cls,
                config,
                checkpoint,
                self.quantization,
                dtype,
                device,
                progress,
                attention,
                share,
            )
        if share.size > 1:
            return load_part(cls, config, checkpoint, dtype, device, progress, share, attention)
        model = load_model(cls, config, checkpoint, dtype, device, progress, attention=attention)
        return model, share.cuts(model)

    def empty(
        self, cls: type[PreTrainedModel], config: PretrainedConfig, share: Share = _ALL
    ) -> tuple[PreTrainedModel, Cuts]:
        """The same without numbers; to be called where tensors take no memory."""
        dtype = self.dtype
        if self.quantization is not None:
            return empty_few_bits(cls, config, self.checkpoint, self.quantization, dtype, share)
        model = empty_model(cls, config, dtype, attention_for(cls, config))
        cuts = share.cuts(model)
        if share.size > 1:
            cut_model(model, cuts, dtype, dtype)
        return model, cuts
