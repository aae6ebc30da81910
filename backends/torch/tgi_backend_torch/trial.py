"""Runs a model once, without attention, to learn its layers and to prove it fit for flat batches.

A flat batch holds several sequences side by side, so nothing but attention may carry anything from
one token to another. With attention's output replaced by zeros that can be seen: a token gives
the same logits wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from reprlib import Repr

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tgi_backend_torch.attention import BoundLayer, Scoring
from tgi_backend_torch.cache import LayerShape
from tgi_backend_torch.cross_attention import cross_attention_of, modules_of_text
from tgi_backend_torch.forward import FlatModel
from tgi_backend_torch.lora import linear_shape
from tgi_core.errors import UnsupportedModel

_NUM_TOKENS = 3
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest difference of equal tokens' logits, of the largest logit. A convolution over
neighbours changes more; rounding changes less."""

_BRIEF = Repr()
_BRIEF.maxother = 240


def brief(error: Exception) -> str:
    """What model code raised, as a part of a sentence: some show whole modules in it."""
    return _BRIEF.repr(error)


@dataclass(frozen=True, slots=True)
class TriedLayer:
    """An attention module, and what it asked for."""

    module: nn.Module
    heads: int
    shape: LayerShape
    scoring: Scoring


@dataclass(frozen=True, slots=True)
class Trial:
    """What a model turned out to be made of."""

    layers: tuple[TriedLayer, ...]
    """In the order of their calls."""
    vocab_size: int
    """Width of a row of logits."""
    adaptable: Mapping[str, nn.Module]
    """Linear layers that every token goes through, by name: those that an adapter may change."""

    @property
    def cell_numbers(self) -> int:
        """Numbers that the cache keeps of a token, in all layers."""
        return sum(layer.shape.numbers for layer in self.layers)

    @property
    def windowed(self) -> bool:
        """Whether any layer has a sliding window."""
        return any(layer.scoring.window is not None for layer in self.layers)


class _Recorder:
    """Stands in for `Attention`: notes what is asked for, returns zeros."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.layers: dict[int, TriedLayer] = {}
        self.is_repeated = False
        self._modules = modules

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        self.is_repeated |= layer in self.layers
        shape = LayerShape(kv_heads=key.shape[1], key_dim=key.shape[2], value_dim=value.shape[2])
        self.layers[layer] = TriedLayer(self._modules[layer], query.shape[1], shape, scoring)
        return query.new_zeros(query.shape[0], query.shape[1], value.shape[2])


def try_model(model: PreTrainedModel) -> Trial:
    """Runs three tokens, the first and the last of them alike.

    Raises:
        UnsupportedModel: the model cannot run in flat batches; says what gave it away.
    """
    trial, logits = learn_layers(model)
    difference = (logits[0] - logits[2]).abs().max()
    if not difference <= TOLERANCE[model.dtype] * logits.abs().max():
        raise UnsupportedModel(
            f"{type(model).__name__} carries something from token to token besides attention's "
            "keys and values, so sequences cannot lie side by side in a batch."
        )
    return trial


def learn_layers(model: PreTrainedModel) -> tuple[Trial, Tensor]:
    """What the model is made of; a model without weights will do.

    Returns:
        With it the logits of three tokens, float32 (3, vocab).

    Raises:
        UnsupportedModel: not all its layers use attention as they must.
    """
    name = type(model).__name__
    with _recorded(model) as recorder, _counted(model) as calls:
        logits = _logits(model)
    text = model.config.get_text_config()
    layers = tuple(recorder.layers.values())
    wanted = text.num_hidden_layers - len(getattr(text, "cross_attention_layers", ()))
    if not layers or len(layers) != wanted or recorder.is_repeated:
        raise UnsupportedModel(
            f"{name} has {wanted} layers, but {len(layers)} of them use "
            "the attention interface once: the torch backend runs models in which all do."
        )
    kinds = getattr(text, "layer_types", None)
    for kind, layer in zip(kinds or (), layers, strict=False):
        if kind == "sliding_attention" and layer.scoring.window is None:
            raise UnsupportedModel(
                f"{name} does not tell the attention interface how wide its sliding window is."
            )
    return Trial(layers, logits.shape[-1], _adaptable(model, calls)), logits


@contextmanager
def _counted(model: PreTrainedModel) -> Iterator[dict[nn.Module, list[int]]]:
    """How many tokens each linear layer sees in each of its calls."""
    calls: dict[nn.Module, list[int]] = {}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.setdefault(module, []).append(inputs[0].numel() // inputs[0].shape[-1])

    hooks = [
        module.register_forward_hook(count)
        for module in model.modules()
        if linear_shape(module) is not None
    ]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _adaptable(
    model: PreTrainedModel, calls: Mapping[nn.Module, list[int]]
) -> dict[str, nn.Module]:
    # the output layer sees the wanted tokens only, an expert those that chose it, and what looks
    # at images these too
    output = model.get_output_embeddings()
    cross = cross_attention_of(model)
    looking = set() if cross is None else {part for m in cross.modules for part in m.modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if calls.get(module) == [_NUM_TOKENS]
        and module is not output
        and module not in looking
        and "experts" not in name.split(".")
    }


def try_largest(model: PreTrainedModel, num_tokens: int, num_outputs: int) -> Tensor:
    """Runs the largest step, but for attention, so that its memory can be measured.

    Returns:
        (num_outputs, vocab).
    """
    tokens = torch.arange(num_tokens, device=model.device) % 2
    with _recorded(model):
        return FlatModel(model)(tokens, tokens, torch.arange(num_outputs, device=model.device))


def try_hidden(model: PreTrainedModel) -> int | None:
    """Width of the hidden states before the head; None if they cannot be had by themselves."""
    flat = FlatModel(model)
    if not flat.has_hidden:
        return None
    tokens, positions = torch.tensor([[1, 2, 1], [0, 1, 0]], device=model.device)
    with _recorded(model):
        try:
            hidden = flat.hidden(tokens, positions)
        except Exception:  # model code raises whatever it likes; nothing but this is lost
            return None
    return hidden.shape[-1]


@contextmanager
def _recorded(model: PreTrainedModel) -> Iterator[_Recorder]:
    """A recorder that stands in for the attention of all modules but those that look at images."""
    modules = modules_of_text(model)
    recorder = _Recorder(modules)
    for index, module in enumerate(modules):
        module.tgi_layer = BoundLayer(recorder, index)  # type: ignore[assignment]
    try:
        yield recorder
    finally:
        for module in modules:
            del module.tgi_layer


def _logits(model: PreTrainedModel) -> Tensor:
    """float32 (3, vocab)."""
    device = model.device
    tokens, positions, wanted = torch.tensor([[1, 2, 1], [0, 1, 0], [0, 1, 2]], device=device)
    try:
        return FlatModel(model)(tokens, positions, wanted).float()
    except UnsupportedModel:
        raise
    except Exception as error:  # model code raises whatever it likes
        raise UnsupportedModel(
            f"{type(model).__name__} does not run in a flat batch ({brief(error)})."
        ) from error
