"""Puts layers of few bits into a model of transformers' while it is loaded.

Which layers are quantized is seen by the names of the tensors, not by what config.json says of it.
transformers gets the other tensors; it never sees those that it could not name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tgi_backend_torch.checkpoint import Checkpoint, MappedWeights
from tgi_backend_torch.loader import empty_model, load_model
from tgi_backend_torch.quant.linear import FewBits, FewBitsLinear, Room, few_bits_linears
from tgi_backend_torch.quant.rounding import Rounding, round_linears
from tgi_backend_torch.quant.stored import Format, Stored
from tgi_core.contract import Progress
from tgi_core.errors import UnsupportedModel

Layers = dict[str, dict[str, Any]]
"""Name of a layer -> what its tensors' names have behind it -> the tensor, or its head."""


def load_quantized(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    checkpoint: Checkpoint,
    format: Format,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    attention: str | None,
) -> PreTrainedModel:
    """As `load_model`, of a checkpoint that is quantized.

    Raises:
        BadModel: see `load_model` and `Format.read`.
        UnsupportedModel: something other than a linear layer is quantized.
    """
    layers, others = split(checkpoint.read(dtype, progress), format.marks)
    given = _Given(others)
    with _swapped(cls, layers) as swapping:
        model = load_model(
            swapping, config, given, dtype, torch.device("cpu"), progress, attention=attention
        )
    model.__class__ = cls
    _fill(model, layers, format, dtype, device)
    placed: PreTrainedModel = model.to(device)  # type: ignore[arg-type]
    return placed


def empty_quantized(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    checkpoint: Checkpoint,
    quantization: Format | Rounding,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """As `empty_model`; to be called where tensors take no memory."""
    if isinstance(quantization, Rounding):
        model = empty_model(cls, config, dtype)
        round_linears(model, quantization, model.get_output_embeddings(), dtype)
        return model
    layers, _ = split(checkpoint.empty(), quantization.marks)
    with _swapped(cls, layers) as swapping:
        model = empty_model(swapping, config, dtype)
    model.__class__ = cls
    _fill(model, layers, quantization, dtype, torch.device("cpu"))
    return model


def load_rounded(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    checkpoint: Checkpoint,
    rounding: Rounding,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    attention: str | None,
) -> PreTrainedModel:
    """As `load_model`, rounding the weights; they stay mapped until then.

    Raises:
        BadModel: see `load_model`.
        UnsupportedModel: see `round_linears`.
    """
    # in another dtype the whole model would be converted, and so be in memory
    held = dtype if len(checkpoint.num_numbers) > 1 else checkpoint.dtype
    cpu = torch.device("cpu")
    weights = MappedWeights(checkpoint)
    model = load_model(cls, config, weights, held, cpu, progress, attention=attention)
    round_linears(model, rounding, model.get_output_embeddings(), dtype)
    for parameter in model.parameters():
        if parameter.dtype == held:
            parameter.data = parameter.detach().to(dtype, copy=True)
    for _, layer in few_bits_linears(model):
        assert layer.held is not None
        layer.held = moved(layer.held, device)
    placed: PreTrainedModel = model.to(device)  # type: ignore[arg-type]
    return placed


def split(tensors: Mapping[str, Any], marks: tuple[str, ...]) -> tuple[Layers, dict[str, Any]]:
    """Tensors of quantized layers, and all others; biases are among these."""
    names = {
        name.removesuffix(f".{mark}")
        for name in tensors
        for mark in marks
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


def moved(weight: FewBits, device: torch.device) -> FewBits:
    """The same on a device."""
    held: Any = weight
    tensors = {field.name: getattr(held, field.name) for field in fields(held)}
    there = {name: t.to(device) for name, t in tensors.items() if isinstance(t, Tensor)}
    same: FewBits = replace(held, **there)
    return same


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
    claimed = set()
    prefix = model.base_model_prefix
    for name, module in list(model.named_modules()):
        held = _name_in(layers, name, prefix)
        if held is None or type(module) is not nn.Linear:
            continue
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, FewBitsLinear(module, room))
        claimed.add(held)
    if unclaimed := sorted(layers.keys() - claimed):
        raise UnsupportedModel(
            f"the weights of {unclaimed[0]} are quantized ({len(unclaimed)} such in all), and are "
            f"no linear layer of a {type(model).__name__} (quantized experts are not read): serve "
            "the unquantized model, or a GGUF file with the llamacpp backend."
        )


def _name_in(layers: Layers, name: str, prefix: str) -> str | None:
    """What the checkpoint calls a layer; some leave out the prefix of the model without a head."""
    short = name.removeprefix(f"{prefix}.")
    return next((each for each in (name, short) if each in layers), None)


def _fill(
    model: PreTrainedModel,
    layers: Layers,
    format: Format,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    for name, layer in few_bits_linears(model):
        held = _name_in(layers, name, model.base_model_prefix)
        assert held is not None
        shape = (layer.out_features, layer.in_features)
        read = format.read(Stored(name, shape, layers.pop(held)), dtype)
        layer.held = moved(read.weight, device)
        layer.order = None if read.order is None else read.order.to(device)
