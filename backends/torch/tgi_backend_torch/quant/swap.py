"""Puts layers of few bits into a model of transformers' while it is loaded.

Which layers are quantized is seen by the names of the tensors, not by what config.json says of it.
transformers gets the other tensors; it never sees those that it could not name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tgi_backend_torch.checkpoint import Checkpoint
from tgi_backend_torch.loader import attention_for, empty_model, load_model
from tgi_backend_torch.quant.experts import (
    FewBitsExperts,
    are_experts,
    is_of_one_expert,
    names_in_files,
)
from tgi_backend_torch.quant.linear import FewBitsLinear, Room, few_bits_linears
from tgi_backend_torch.quant.parts import hold, move
from tgi_backend_torch.quant.rounding import Rounding, round_linears
from tgi_backend_torch.quant.stored import Format, Stored
from tgi_backend_torch.shards import Cuts, Share, cut_model
from tgi_core.contract import Progress
from tgi_core.errors import BadModel, UnsupportedModel

Layers = dict[str, dict[str, Any]]
"""Name of a layer -> what its tensors' names have behind it -> the tensor, or its head."""


def load_few_bits(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    checkpoint: Checkpoint,
    quantization: Format | Rounding,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    attention: str | None,
    share: Share,
) -> tuple[PreTrainedModel, Cuts]:
    """As `load_model`, of a checkpoint that is quantized or is to be rounded; and how a rank's part
    was cut. The files stay mapped: of one layer at a time all is unpacked or rounded.

    Raises:
        BadModel: see `load_model` and `Format.read`.
        UnsupportedModel: something other than linear layers and experts is quantized; see also
            `round_linears` and `plan_cuts`.
    """
    layers, others = split(checkpoint.read(None, progress), quantization)
    # in another dtype the whole model would be converted, and so be in memory
    held = dtype if len(checkpoint.num_numbers) > 1 else checkpoint.dtype
    cpu = torch.device("cpu")
    with _swapped(cls, layers) as swapping:
        model = load_model(
            swapping, config, _Given(others), held, cpu, progress, attention=attention
        )
    model.__class__ = cls
    cuts = _fill(model, layers, quantization, held, dtype, device, share)
    placed: PreTrainedModel = model.to(device)  # type: ignore[arg-type]
    return placed, cuts


def empty_few_bits(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    checkpoint: Checkpoint,
    quantization: Format | Rounding,
    dtype: torch.dtype,
    share: Share,
) -> tuple[PreTrainedModel, Cuts]:
    """As `empty_model`; to be called where tensors take no memory."""
    layers, _ = split(checkpoint.empty(), quantization)
    with _swapped(cls, layers) as swapping:
        model = empty_model(swapping, config, dtype, attention_for(cls, config))
    model.__class__ = cls
    cuts = _fill(model, layers, quantization, dtype, dtype, torch.device("cpu"), share)
    return model, cuts


def split(
    tensors: Mapping[str, Any], quantization: Format | Rounding
) -> tuple[Layers, dict[str, Any]]:
    """Tensors of layers that transformers does not see, and all others; biases are among these.

    Those are the quantized layers; of weights that are to be rounded, those of single experts,
    which transformers would put together.
    """
    if isinstance(quantization, Rounding):
        names = {name.removesuffix(".weight") for name in tensors if is_of_one_expert(name)}
    else:
        names = {
            name.removesuffix(f".{mark}")
            for name in tensors
            for mark in quantization.marks
            if name.endswith(f".{mark}")
        }
    layers: Layers = {name: {} for name in names}
    others = {}
    for name, tensor in tensors.items():
        layer, suffix = _layer_of(name, names)
        if layer is None or suffix == "bias":
            others[name] = tensor
        else:
            layers[layer][suffix] = tensor
    return layers, others


def _layer_of(name: str, names: set[str]) -> tuple[str | None, str]:
    begin = name.rfind(".")
    while begin > 0:
        if name[:begin] in names:
            return name[:begin], name[begin + 1 :]
        begin = name.rfind(".", 0, begin)
    return None, name


@dataclass(frozen=True, slots=True)
class _Given:
    """Tensors that are there already."""

    tensors: dict[str, Tensor]

    def read(self, dtype: torch.dtype, progress: Progress) -> dict[str, Tensor]:
        return self.tensors


@contextmanager
def _swapped(cls: type[PreTrainedModel], layers: Layers) -> Iterator[type[PreTrainedModel]]:
    """The class, whose models have layers of few bits in the place of some linear ones.

    transformers makes the model and fills it in one call; its seam for what comes between (a
    quantizer, by name, in a global table) wants a good deal more than this.
    """

    def construct(self: Any, *args: Any, **more: Any) -> None:
        cls.__init__(self, *args, **more)
        _swap(self, layers)

    # transformers looks into the module of a class
    members = {"__init__": construct, "__module__": cls.__module__, "__doc__": cls.__doc__}
    yield type(cls.__name__, (cls,), members)


def _swap(model: PreTrainedModel, layers: Layers) -> None:
    room = Room()
    for name, module in list(model.named_modules()):
        made: nn.Module | None = None
        if are_experts(module) and _name_in(layers, f"{name}.0.down_proj", model) is not None:
            made = FewBitsExperts(module, room)
        elif type(module) in (nn.Linear, Conv1D) and _name_in(layers, name, model) is not None:
            made = FewBitsLinear.of(module, room)
        if made is not None:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, made)
    claimed = {_name_in(layers, name, model) for name, _ in few_bits_linears(model)}
    ignored = [re.compile(each) for each in model._keys_to_ignore_on_load_unexpected or ()]
    unclaimed = [
        name
        for name in sorted(layers.keys() - claimed)
        if not any(pattern.search(name) for pattern in ignored)
    ]
    if unclaimed:
        raise UnsupportedModel(
            f"{unclaimed[0]} is no layer of a {type(model).__name__} that can be in few bits "
            f"({len(unclaimed)} such in all): serve the unquantized model, or a GGUF file with the "
            "llamacpp backend."
        )


def _name_in(layers: Layers, name: str, model: PreTrainedModel) -> str | None:
    """What the checkpoint calls a layer; some leave out the prefix of the model without a head."""
    prefix = f"{model.base_model_prefix}."
    names = (each for own in names_in_files(name) for each in (own, own.removeprefix(prefix)))
    return next((each for each in names if each in layers), None)


def _fill(
    model: PreTrainedModel,
    layers: Layers,
    quantization: Format | Rounding,
    held: torch.dtype,
    dtype: torch.dtype,
    device: torch.device,
    share: Share,
) -> Cuts:
    cuts = share.cuts(model)
    swapped = list(few_bits_linears(model))
    if isinstance(quantization, Rounding):
        round_linears(model, quantization, model.get_output_embeddings(), dtype, cuts)
    cut_model(model, cuts, held, dtype)
    for name, layer in swapped:
        stored = _name_in(layers, name, model)
        if stored is None:
            raise BadModel(f"the weights lack those of {name}, and hold others of its kind.")
        shape = (layer.out_features, layer.in_features)
        read = quantization.read(Stored(name, shape, layers.pop(stored)), dtype)
        hold(layer, read, cuts.of_weight(name))
    for _, layer in few_bits_linears(model):
        move(layer, device)
    return cuts
