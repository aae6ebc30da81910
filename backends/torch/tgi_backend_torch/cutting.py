"""Which rows and columns of a layer one rank has. Knows no plan of a whole model."""

from __future__ import annotations

from enum import Enum
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tgi_backend_torch.pieces import Pieces
from tgi_core.errors import UnsupportedModel


class Style(Enum):
    """transformers' words for how a layer, or a parameter of one, is cut, and two of ours."""

    OUTPUTS = "colwise"
    INPUTS = "rowwise"
    JOINED_OUTPUTS = "colwise_gather_output"
    """The ranks' outputs are put together again."""
    SPLIT_INPUTS = "rowwise_split_input"
    """Each rank takes its part of an input that all have."""
    TWO_OUTPUTS = "packed_colwise"
    """Two matrices in one, each of which is cut along its outputs."""
    TWO_TRANSPOSED = "packed_rowwise"
    """The same of experts whose matrices are (inputs, outputs)."""
    HEADS = "qkv_colwise"
    """Ours: the matrices of queries, keys and values in one, each of which is cut by heads."""
    GROUPS = "qkv_groups"
    """Ours: behind each group of heads' queries lie the key and the value that they share."""
    EXPERTS = "moe_tp_experts"
    """Each rank has a part of each expert, cut along the features in its middle."""
    WHOLE = "replicated_with_grad_allreduce"
    WHOLE_LATENT = "mla_kv_a_proj"
    WHOLE_EMBEDDING = "embedding_rowwise"
    """Could be cut as well; each rank has it whole, and needs nobody to look a token up."""


OPTIONAL = (Style.JOINED_OUTPUTS, Style.SPLIT_INPUTS)
"""May as well stay whole, as what comes out is whole."""
_KEY_VALUE = ("k_proj", "v_proj")
_SEPARATE = ("q_proj", *_KEY_VALUE)


def cut_linear(
    model: PreTrainedModel, name: str, module: nn.Module, style: Style, rank: int, size: int
) -> dict[str, Pieces | None] | None:
    """Pieces of a linear layer; None if it stays whole."""
    # no tensor, where it is in few bits
    weight: Any = module.weight
    bias = f"{name}.bias" if getattr(module, "bias", None) is not None else None
    outputs, inputs = (1, 0) if isinstance(module, Conv1D) else (0, 1)
    if style in (Style.INPUTS, Style.SPLIT_INPUTS):
        width = weight.shape[inputs]
        if style in OPTIONAL and width % size:
            return None
        part = part_of(name, width, width, rank, size)
        # the sum must hold the bias once
        biases = {} if bias is None or rank == 0 else {bias: None}
        return {f"{name}.weight": Pieces(inputs, (part,), width), **biases}
    width = weight.shape[outputs]
    if style in OPTIONAL and width % size:
        return None
    # what is joined may be cut anywhere
    units = width if style is Style.JOINED_OUTPUTS else units_of(model, name, width)
    if style is Style.HEADS:
        parts = _cut_heads(name, weight.shape[inputs], width, units, rank, size)
    elif style is Style.GROUPS:
        groups: int = model.config.num_kv_heads
        parts = _cut_groups(name, width // (units + 2 * groups), units, groups, rank, size)
    elif style is Style.TWO_OUTPUTS:
        begin, end = part_of(name, width // 2, width // 2, rank, size)
        parts = ((begin, end), (width // 2 + begin, width // 2 + end))
    else:
        shareable = name.endswith(_KEY_VALUE)
        parts = (part_of(name, width, units, rank, size, shareable=shareable),)
    biases = {} if bias is None else {bias: Pieces(0, parts, width)}
    return {f"{name}.weight": Pieces(outputs, parts, width), **biases}


def _cut_heads(
    name: str, queries: int, width: int, heads: int, rank: int, size: int
) -> tuple[tuple[int, int], ...]:
    """Ranges of a layer's outputs: `queries` of them, then keys, then as many values."""
    keys = (width - queries) // 2
    num_keys = keys * heads // queries
    own = part_of(name, queries, heads, rank, size)
    begin, end = part_of(name, keys, num_keys, rank, size, shareable=True)
    return (
        own,
        (queries + begin, queries + end),
        (queries + keys + begin, queries + keys + end),
    )


def _cut_groups(
    name: str, width: int, heads: int, groups: int, rank: int, size: int
) -> tuple[tuple[int, int], ...]:
    """Ranges of a layer's outputs: groups of heads' queries, each with a key and a value behind it,
    all `width` wide.
    """
    begin, end = part_of(name, heads * width, heads, rank, size)
    first, last = part_of(name, groups * width, groups, rank, size, shareable=True)
    # behind each group of queries are two rows for one of its `first` and `last`
    if groups >= size:
        return ((begin + 2 * first, end + 2 * last),)
    keys = last * heads // groups + 2 * first
    return ((begin + 2 * first, end + 2 * first), (keys, keys + 2 * width))


def units_of(model: PreTrainedModel, name: str, width: int) -> int:
    """How many equal parts a layer's outputs have that must not be cut: heads, or features."""
    parent, _, own = name.rpartition(".")
    if not parent.lower().endswith(("attn", "attention")) and own not in _SEPARATE:
        return width
    text: Any = model.config.get_text_config()
    heads: int = text.num_attention_heads
    if own in _KEY_VALUE:
        heads = getattr(text, "num_key_value_heads", None) or heads
    return heads


def part_of(
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


def cut_experts(
    name: str, parameter: Tensor, style: Style, experts: nn.Module, rank: int, size: int
) -> Pieces:
    """Pieces of all experts' matrices, (experts, outputs, inputs) or transposed; or of their
    biases, (experts, outputs).
    """
    two = style in (Style.TWO_OUTPUTS, Style.TWO_TRANSPOSED)
    transposed = bool(getattr(experts, "is_transposed", False))
    # transformers' words for transposed ones are those of what they would be otherwise
    last = style is not Style.OUTPUTS and (
        style is Style.TWO_TRANSPOSED or parameter.dim() == 2 or two == transposed
    )
    dim = parameter.dim() - (1 if last else 2)
    width = parameter.shape[dim]
    if not two:
        return Pieces(dim, (part_of(name, width, width, rank, size),), width)
    half = width // 2
    begin, end = part_of(name, half, half, rank, size)
    if not getattr(experts, "is_concatenated", True):
        # the outputs of the two take turns
        return Pieces(dim, ((2 * begin, 2 * end),), width)
    return Pieces(dim, ((begin, end), (half + begin, half + end)), width)
