"""Cuts a model into the parts that its ranks compute, by the plan that there is for its class.

transformers says for each layer of many families how it can be cut (`tp_plan`), and `own_plans.py`
for some more. A layer that is cut along its outputs gives each rank some heads or some features;
the next one is cut along its inputs, and the sum over all ranks is the whole layer's output. What a
plan leaves out each rank has whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tgi_backend_torch.checkpoint import Checkpoint, MappedWeights
from tgi_backend_torch.group import Group
from tgi_backend_torch.loader import empty_model, load_model, why_not_flat
from tgi_backend_torch.own_plans import OwnPlan, own_plan
from tgi_backend_torch.pieces import Pieces, pattern_of
from tgi_core.contract import Progress
from tgi_core.errors import UnsupportedModel


class Style(Enum):
    """transformers' words for how a layer, or a parameter of one, is cut, and one of ours."""

    OUTPUTS = "colwise"
    INPUTS = "rowwise"
    JOINED_OUTPUTS = "colwise_gather_output"
    """The ranks' outputs are put together again."""
    SPLIT_INPUTS = "rowwise_split_input"
    """Each rank takes its part of an input that all have."""
    TWO_OUTPUTS = "packed_colwise"
    """Two matrices in one, each of which is cut along its outputs."""
    HEADS = "qkv_colwise"
    """Ours: the matrices of queries, keys and values in one, each of which is cut by heads."""
    EXPERTS = "moe_tp_experts"
    """Each rank has a part of each expert, cut along the features in its middle."""
    WHOLE = "replicated_with_grad_allreduce"
    WHOLE_LATENT = "mla_kv_a_proj"
    WHOLE_EMBEDDING = "embedding_rowwise"
    """Could be cut as well; each rank has it whole, and needs nobody to look a token up."""


_WHOLE = (Style.WHOLE, Style.WHOLE_LATENT, Style.WHOLE_EMBEDDING)
_SUMMED = (Style.INPUTS, Style.SPLIT_INPUTS, Style.EXPERTS)
_OPTIONAL = (Style.JOINED_OUTPUTS, Style.SPLIT_INPUTS)
"""May as well stay whole, as what comes out is whole."""
_KEY_VALUE = ("k_proj", "v_proj")


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
    fault = why_not_flat(cls, config)
    if fault is not None:
        raise UnsupportedModel(f"{fault}, so it runs on one device: leave out --num-shard.")
    with torch.device("meta"):
        plan_cuts(empty_model(cls, config, torch.bfloat16), 0, size)


def load_part(
    cls: type[PreTrainedModel],
    config: PretrainedConfig,
    checkpoint: Checkpoint,
    dtype: torch.dtype,
    device: torch.device,
    progress: Progress,
    share: Share,
) -> tuple[PreTrainedModel, Cuts]:
    """As `load_model`, with one rank's part of the weights, and how they were cut.

    The files stay mapped until the part is copied, so what others have is not read, unless
    transformers must put tensors together first, as it does with those of single experts.
    """
    # in another dtype the whole model would be converted, and so be in memory
    held = dtype if len(checkpoint.num_numbers) > 1 else checkpoint.dtype
    cpu = torch.device("cpu")
    model = load_model(cls, config, MappedWeights(checkpoint), held, cpu, progress)
    cuts = share.cuts(model)
    cut_model(model, cuts, held, dtype)
    placed: PreTrainedModel = model.to(device)
    return placed, cuts


def plan_cuts(model: PreTrainedModel, rank: int, size: int) -> Cuts:
    """How a rank's part of a model is cut; weights are not needed.

    Raises:
        UnsupportedModel: the model has no plan, or one that cannot be kept with so many ranks.
    """
    own = own_plan(
        model.config.model_type, multi_query=bool(getattr(model.config, "multi_query", False))
    )
    plan = _plan_of(model, own)
    pieces: dict[str, Pieces | None] = {}
    styles: dict[str, Style] = {}
    for name, module in model.named_modules():
        style = plan.get(pattern_of(name)) or _style_of_single(plan, name)
        if style is None or style in _WHOLE:
            continue
        if style is not Style.EXPERTS:
            cut = _cut_linear(model, name, module, style, rank, size)
            if cut is None:
                continue
            pieces.update(cut)
        if pattern_of(name) in plan:
            styles[name] = style
    for name, parameter in model.named_parameters():
        style = plan.get(pattern_of(name))
        if style is not None and style not in _WHOLE:
            module = model.get_submodule(name.rpartition(".")[0])
            if style is Style.OUTPUTS:
                units = _units(model, name, len(parameter))
                part = _part(name, len(parameter), units, rank, size)
                pieces[name] = Pieces(0, (part,), len(parameter))
            elif style is Style.INPUTS and name.endswith("_bias"):
                if rank:
                    pieces[name] = None
            else:
                pieces[name] = _cut_experts(name, parameter, style, module, rank, size)
    transposed = frozenset(
        name for name, module in model.named_modules() if isinstance(module, Conv1D)
    )
    if own is None:
        return Cuts(pieces, styles, transposed)
    return Cuts(
        pieces, styles, transposed, own.counts_of(model, pieces), own.lists_of(model, pieces)
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


def _splitting(group: Group, rank: int) -> Any:
    def split(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        width = inputs[0].shape[-1] // group.size
        return (inputs[0].narrow(-1, rank * width, width), *inputs[1:])

    return split


def _plan_of(model: PreTrainedModel, own: OwnPlan | None) -> dict[str, Style]:
    told: Mapping[str, str] = {**(model.tp_plan or {}), **(own.layers if own else {})}
    name = type(model).__name__
    if not any(".*." in pattern for pattern in told):
        raise UnsupportedModel(
            f"there is no plan for sharing a {name} among several devices: leave out --num-shard."
        )
    known = {style.value for style in Style}
    if strange := sorted(set(told.values()) - known):
        raise UnsupportedModel(
            f"the plan for sharing a {name} among several devices has layers of the kind "
            f"{', '.join(strange)}, which the torch backend does not know: leave out --num-shard."
        )
    return {pattern: Style(style) for pattern, style in told.items()}


def _cut_linear(
    model: PreTrainedModel, name: str, module: nn.Module, style: Style, rank: int, size: int
) -> dict[str, Pieces | None] | None:
    """Pieces of a linear layer; None if it stays whole."""
    # no tensor, where it is in few bits
    weight: Any = module.weight
    bias = f"{name}.bias" if getattr(module, "bias", None) is not None else None
    outputs, inputs = (1, 0) if isinstance(module, Conv1D) else (0, 1)
    if style in (Style.INPUTS, Style.SPLIT_INPUTS):
        width = weight.shape[inputs]
        if style in _OPTIONAL and width % size:
            return None
        part = _part(name, width, width, rank, size)
        # the sum must hold the bias once
        biases = {} if bias is None or rank == 0 else {bias: None}
        return {f"{name}.weight": Pieces(inputs, (part,), width), **biases}
    width = weight.shape[outputs]
    if style in _OPTIONAL and width % size:
        return None
    units = _units(model, name, width)
    if style is Style.HEADS:
        parts = _cut_heads(name, weight.shape[inputs], width, units, rank, size)
    else:
        shareable = name.endswith(_KEY_VALUE)
        parts = (_part(name, width, units, rank, size, shareable=shareable),)
    biases = {} if bias is None else {bias: Pieces(0, parts, width)}
    return {f"{name}.weight": Pieces(outputs, parts, width), **biases}


def _cut_heads(
    name: str, queries: int, width: int, heads: int, rank: int, size: int
) -> tuple[tuple[int, int], ...]:
    """Ranges of a layer's outputs: `queries` of them, then keys, then as many values."""
    keys = (width - queries) // 2
    num_keys = keys * heads // queries
    own = _part(name, queries, heads, rank, size)
    begin, end = _part(name, keys, num_keys, rank, size, shareable=True)
    return (
        own,
        (queries + begin, queries + end),
        (queries + keys + begin, queries + keys + end),
    )


def _units(model: PreTrainedModel, name: str, width: int) -> int:
    """How many equal parts a layer's outputs have that must not be cut: heads, or features."""
    parent, _, own = name.rpartition(".")
    if not parent.endswith(("attn", "attention")):
        return width
    text: Any = model.config.get_text_config()
    heads: int = text.num_attention_heads
    if own in _KEY_VALUE:
        heads = getattr(text, "num_key_value_heads", None) or heads
    return heads


def _part(
    name: str, width: int, units: int, rank: int, size: int, *, shareable: bool = False
) -> tuple[int, int]:
    """What a rank has of `units` equal parts of something. Of fewer than there are ranks several
    ranks have the same one, if it is `shareable`.
    """
    shared = shareable and units < size and size % units == 0
    if width % units or (units % size and not shared):
        unit = "features" if units == width else "heads"
        raise UnsupportedModel(
            f"{name} has {units} {unit}, which cannot be shared among {size} devices: choose "
            "another --num-shard."
        )
    wide = width // units
    if shared:
        begin = rank * units // size
        return begin * wide, (begin + 1) * wide
    return rank * units // size * wide, (rank + 1) * units // size * wide


def _cut_experts(
    name: str, parameter: Tensor, style: Style, experts: nn.Module, rank: int, size: int
) -> Pieces:
    """Pieces of all experts' matrices, (experts, outputs, inputs) or transposed; or of their
    biases, (experts, outputs).
    """
    along_outputs = style is Style.TWO_OUTPUTS
    transposed = bool(getattr(experts, "is_transposed", False))
    last = parameter.dim() == 2 or along_outputs == transposed
    dim = parameter.dim() - (1 if last else 2)
    width = parameter.shape[dim]
    if not along_outputs:
        return Pieces(dim, (_part(name, width, width, rank, size),), width)
    half = width // 2
    begin, end = _part(name, half, half, rank, size)
    if not getattr(experts, "is_concatenated", True):
        # the outputs of the two take turns
        return Pieces(dim, ((2 * begin, 2 * end),), width)
    return Pieces(dim, ((begin, end), (half + begin, half + end)), width)


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
