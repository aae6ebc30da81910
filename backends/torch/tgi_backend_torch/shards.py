"""Cuts a model into the parts that its ranks compute, by the plan that there is for its class.

transformers says for each layer of many families how it can be cut (`tp_plan`), and `own_plans.py`
for some more. A layer that is cut along its outputs gives each rank some heads or some features;
the next one is cut along its inputs, and the sum over all ranks is the whole layer's output. What a
plan leaves out each rank has whole.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tgi_backend_torch.by_head import OwnHeads
from tgi_backend_torch.checkpoint import Checkpoint, MappedWeights
from tgi_backend_torch.cutting import Style, cut_experts, cut_linear, part_of, units_of
from tgi_backend_torch.group import Group
from tgi_backend_torch.loader import attention_for, empty_model, load_model, why_not_flat
from tgi_backend_torch.own_plan import OwnPlan
from tgi_backend_torch.own_plans import own_plan
from tgi_backend_torch.pieces import Pieces, pattern_of
from tgi_core.contract import Progress
from tgi_core.errors import UnsupportedModel

logger = logging.getLogger(__name__)


_WHOLE = (Style.WHOLE, Style.WHOLE_LATENT, Style.WHOLE_EMBEDDING)
_SUMMED = (Style.INPUTS, Style.SPLIT_INPUTS, Style.EXPERTS)


@dataclass(frozen=True, slots=True)
class Cuts:
    """How one rank computes its part of a model."""

    pieces: Mapping[str, Pieces | None]
    """By name of the parameter; None: another rank adds it. What is not named is whole."""
    styles: Mapping[str, Style]
    """Of the layers where ranks have to exchange something, by name."""
    transposed: frozenset[str] = frozenset()
    """Layers whose weight is (inputs, outputs)."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """What a module's number becomes, by its name."""
    lists: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """What is kept of a list of modules, from and to, by its name."""
    heads: Mapping[str, OwnHeads] = field(default_factory=dict)
    """What modules take of their arguments, by name."""

    def of_weight(self, layer: str) -> Pieces | None:
        """What is kept of a linear layer's weight as (outputs, inputs); None: all."""
        piece = self.pieces.get(f"{layer}.weight")
        return replace(piece, dim=1 - piece.dim) if piece and layer in self.transposed else piece

    def of_weights(self, layers: Iterable[str]) -> dict[str, Pieces]:
        """The same of those of some layers that are cut, by name."""
        found = {layer: self.of_weight(layer) for layer in layers}
        return {layer: piece for layer, piece in found.items() if piece is not None}


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of a model one process has."""

    rank: int = 0
    size: int = 1
    """How many parts there are."""

    def cuts(self, model: PreTrainedModel) -> Cuts:
        """See `plan_cuts`."""
        return plan_cuts(model, self.rank, self.size) if self.size > 1 else Cuts({}, {})


def check_shards(cls: type[PreTrainedModel], config: PretrainedConfig, size: int) -> None:
    """Looks whether a model can be cut for so many ranks, before any weight is read.

    Raises:
        UnsupportedModel: see `plan_cuts`.
    """
    own = own_plan(config, size)
    if own is None and why_not_flat(cls, config) is not None:
        # plans of transformers' are for modules whose attention is ours
        raise _unplanned(cls)
    with torch.device("meta"):
        model = empty_model(cls, config, torch.bfloat16, attention_for(cls, config))
        plan_cuts(model, 0, size)
    if own is not None and own.whole:
        logger.info("each rank computes all of %s, and holds a part of its weights", own.whole)


def load_part(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    share: Share,
    attention: str | None = None,
) -> tuple[PreTrainedModel, Cuts]:
    """As `load_model`, with one rank's part of the weights, and how they were cut.

    The files stay mapped until the part is copied, so what others have is not read, unless
    transformers must put tensors together first, as it does with those of single experts.
    """
    # in another dtype the whole model would be converted, and so be in memory
    held = dtype if len(checkpoint.num_numbers) > 1 else checkpoint.dtype
    cpu = torch.device("cpu")
    model = load_model(
        cls, config, MappedWeights(checkpoint), held, cpu, progress, attention=attention
    )
    cuts = share.cuts(model)
    cut_model(model, cuts, held, dtype)
    placed: PreTrainedModel = model.to(device)
    return placed, cuts


def plan_cuts(model: PreTrainedModel, rank: int, size: int) -> Cuts:
    """How a rank's part of a model is cut; weights are not needed.

    Raises:
        UnsupportedModel: the model has no plan, or one that cannot be kept with so many ranks.
    """
    own = own_plan(model.config, size)
    plan = _plan_of(model, own)
    pieces: dict[str, Pieces | None] = {}
    styles: dict[str, Style] = {}
    for name, module in model.named_modules():
        style = plan.get(pattern_of(name)) or _style_of_single(plan, name)
        if style is None or style in _WHOLE:
            continue
        if style is not Style.EXPERTS:
            cut = cut_linear(model, name, module, style, rank, size)
            if cut is None:
                continue
            pieces.update(cut)
        if pattern_of(name) in plan:
            styles[name] = style
    for name, parameter in model.named_parameters():
        style = plan.get(pattern_of(name))
        if style is not None and style not in _WHOLE:
            owner = name.rpartition(".")[0]
            module = model.get_submodule(owner)
            if style is Style.OUTPUTS and plan.get(pattern_of(owner)) is not Style.EXPERTS:
                units = units_of(model, name, len(parameter))
                part = part_of(name, len(parameter), units, rank, size)
                pieces[name] = Pieces(0, (part,), len(parameter))
            elif style is Style.INPUTS and name.endswith("_bias"):
                if rank:
                    pieces[name] = None
            else:
                pieces[name] = cut_experts(name, parameter, style, module, rank, size)
    transposed = frozenset(
        name for name, module in model.named_modules() if isinstance(module, Conv1D)
    )
    if own is None:
        return Cuts(pieces, styles, transposed)
    return Cuts(
        pieces,
        styles,
        transposed,
        own.counts_of(model, pieces),
        own.lists_of(model, pieces),
        _own_heads(model, own, rank, size),
    )


def cut_model(model: PreTrainedModel, cuts: Cuts, held: torch.dtype, dtype: torch.dtype) -> None:
    """Replaces all parameters by this rank's pieces of them, as copies; those in the dtype `held`
    become ones in `dtype`.
    """
    # several names may share a parameter, which is told by its identity while all are there
    first: dict[int, str] = {}
    names = [
        (name, first.setdefault(id(parameter), name))
        for name, parameter in model.named_parameters(remove_duplicate=False)
    ]
    for name, first_name in names:
        module_name, _, attribute = name.rpartition(".")
        module = model.get_submodule(module_name)
        piece = cuts.pieces.get(name, _EVERYTHING)
        if piece is None:
            # some layers add what they have, and cannot go without
            nothing = torch.zeros_like(model.get_parameter(name), dtype=dtype)
            setattr(module, attribute, nn.Parameter(nothing, requires_grad=False))
            continue
        if first_name != name and piece is cuts.pieces.get(first_name, _EVERYTHING):
            setattr(module, attribute, model.get_parameter(first_name))
            continue
        parameter = model.get_parameter(name).detach()
        part = parameter if piece is _EVERYTHING else piece.of(parameter)
        wanted = dtype if parameter.dtype == held else parameter.dtype
        copy = part.to(wanted, copy=True, memory_format=torch.contiguous_format)
        setattr(module, attribute, nn.Parameter(copy, requires_grad=False))
        if attribute == "weight" and isinstance(module, nn.Linear):
            module.out_features, module.in_features = copy.shape
        elif attribute == "weight" and isinstance(module, Conv1D):
            module.nx, module.nf = copy.shape
    for name, count in cuts.counts.items():
        module_name, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(module_name), attribute, count)
    for name, (begin, end) in cuts.lists.items():
        module_name, _, attribute = name.rpartition(".")
        module = model.get_submodule(module_name)
        setattr(module, attribute, model.get_submodule(name)[begin:end])


_EVERYTHING = Pieces(0, (), 0)


def connect_layers(model: PreTrainedModel, cuts: Cuts, group: Group, rank: int) -> None:
    """Lets the layers of a cut model exchange what they must."""
    for name, style in cuts.styles.items():
        module = model.get_submodule(name)
        if style is Style.SPLIT_INPUTS:
            module.register_forward_pre_hook(_splitting(group, rank))
        if style in _SUMMED:
            module.register_forward_hook(lambda module, inputs, output: group.sum(output))
        elif style is Style.JOINED_OUTPUTS:
            module.register_forward_hook(lambda module, inputs, output: group.join(output))
    for name, heads in cuts.heads.items():
        heads.connect(model.get_submodule(name))


def _splitting(group: Group, rank: int) -> Any:
    def split(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        width = inputs[0].shape[-1] // group.size
        return (inputs[0].narrow(-1, rank * width, width), *inputs[1:])

    return split


def _plan_of(model: PreTrainedModel, own: OwnPlan | None) -> dict[str, Style]:
    told: Mapping[str, str] = {**(model.tp_plan or {}), **(own.layers if own else {})}
    name = type(model).__name__
    if not any(".*." in pattern for pattern in told):
        raise _unplanned(type(model))
    known = {style.value for style in Style}
    if strange := sorted(set(told.values()) - known):
        raise UnsupportedModel(
            f"the plan for sharing a {name} among several devices has layers of the kind "
            f"{', '.join(strange)}, which the torch backend does not know: leave out --num-shard."
        )
    return {pattern: Style(style) for pattern, style in told.items()}


def _unplanned(cls: type[PreTrainedModel]) -> UnsupportedModel:
    return UnsupportedModel(
        f"there is no plan for sharing a {cls.__name__} among several devices: leave out "
        "--num-shard."
    )


def _own_heads(model: PreTrainedModel, own: OwnPlan, rank: int, size: int) -> dict[str, OwnHeads]:
    """What modules take of arguments that hold something for each head."""
    found = {}
    for name, _ in model.named_modules():
        arguments = own.by_head.get(pattern_of(name))
        if arguments is not None:
            heads: int = model.config.num_attention_heads
            begin, end = part_of(name, heads, heads, rank, size)
            found[name] = OwnHeads(arguments=arguments, begin=begin, end=end, num_heads=heads)
    return found


def _style_of_single(plan: Mapping[str, Style], name: str) -> Style | None:
    """How a linear layer of one expert is cut, where each has its own and the plan knows all in one
    tensor: along the features in its middle.
    """
    experts = name.rsplit(".", 2)[0]
    if plan.get(pattern_of(experts)) is not Style.EXPERTS:
        return None
    return {
        "gate_proj": Style.OUTPUTS,
        "up_proj": Style.OUTPUTS,
        "down_proj": Style.INPUTS,
    }.get(name.rpartition(".")[2])
