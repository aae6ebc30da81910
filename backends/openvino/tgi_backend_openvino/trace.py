"""From a transformers model to an OpenVINO graph with holes for attention. Needs torch.

The model is traced as T sequences of one token each: nothing but attention connects tokens, so
that is the same arithmetic as one sequence of T tokens, and what torch would transpose between
heads and tokens has nothing to move.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import openvino as ov
import torch
from openvino import opset13 as ops
from openvino.frontend.pytorch import ConversionExtension, ModuleExtension
from openvino.frontend.pytorch.patch_model import __make_16bit_traceable as keep_16bit_weights
from openvino.op import Parameter, Result
from tgi_backend_torch.attention import BoundLayer, Scoring
from tgi_backend_torch.trial import Trial, TriedLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from tgi_backend_openvino.experts import use_traceable_experts
from tgi_backend_openvino.form import LayerForm, input_name, output_names
from tgi_backend_openvino.paged import paged_attention
from tgi_core.errors import UnsupportedModel

_SOME = 5
"""Tokens in the example that is traced."""


def layer_forms(trial: Trial) -> tuple[LayerForm, ...]:
    """What attention computes in each layer of a model that was tried.

    Raises:
        UnsupportedModel: OpenVINO's operation cannot compute that.
    """
    return tuple(_form(layer) for layer in trial.layers)


def _form(layer: TriedLayer) -> LayerForm:
    scoring, shape = layer.scoring, layer.shape
    if scoring.softcap is not None:
        raise UnsupportedModel(
            "OpenVINO's paged attention has no soft cap for scores: use --backend torch."
        )
    return LayerForm(
        heads=layer.heads,
        kv_heads=shape.kv_heads,
        key_dim=shape.key_dim,
        value_dim=shape.value_dim,
        scaling=scoring.scaling,
        window=scoring.window,
        sinks=None if scoring.sinks is None else tuple(scoring.sinks.float().tolist()),
    )


def trace(model: PreTrainedModel, trial: Trial, forms: Sequence[LayerForm]) -> ov.Model:
    """The graph of a model, with its attention cut out.

    Args:
        model: loaded by `tgi_backend_torch.loader`, so its attention calls `BoundLayer`. Its
            linear layers may be changed: it cannot be used afterwards.
        trial: of this model.
        forms: of its layers.

    Returns:
        A graph with the inputs `input_ids`, `position_ids` and `sampled_tokens_indices`, int64 and
        of one dimension, and the output `logits` (sampled tokens, vocab), beside the holes that
        `form.py` names.
    """
    holes = _Holes(forms)
    for index, layer in enumerate(trial.layers):
        layer.module.tgi_layer = BoundLayer(holes, index)  # type: ignore[assignment]
    use_traceable_experts(model)
    if model.dtype != torch.float32:
        keep_16bit_weights(model)
    example = {
        "input_ids": torch.arange(1, 1 + _SOME),
        "position_ids": torch.arange(_SOME),
        "sampled_tokens_indices": torch.tensor([0, _SOME - 1]),
    }
    extensions = [each for index in range(len(forms)) for each in holes.extensions(index)]
    with torch.no_grad():
        graph = ov.convert_model(
            _OneTokenRows(model, holes), example_input=example, extension=extensions
        )
    graph.outputs[0].get_tensor().set_names({"logits"})
    _cut(graph, forms)
    _fold_converted_constants(graph)
    return graph


class _OneTokenRows(nn.Module):
    """The model as a function of flat arrays."""

    def __init__(self, model: PreTrainedModel, holes: _Holes) -> None:
        super().__init__()
        self.model = model
        self.holes = holes
        self._wanted: Tensor | None = None
        # the head is computed for the wanted tokens only, whatever the model does after it
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def _select(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][self._wanted], *args[1:])

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, sampled_tokens_indices: Tensor
    ) -> Tensor:
        self._wanted = sampled_tokens_indices
        logits: Tensor = self.model(
            input_ids=input_ids[:, None], position_ids=position_ids[:, None], use_cache=False
        ).logits
        return logits[:, 0].float()


class _Hole(nn.Module):
    """Stands for one layer's attention while torch traces."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return query.new_zeros(query.shape[0], self.width)


class _Holes(nn.Module):
    """Satisfies `tgi_backend_torch.attention.Attention`."""

    def __init__(self, forms: Sequence[LayerForm]) -> None:
        super().__init__()
        self.forms = forms
        self.of_layers = nn.ModuleList(_Hole(form.heads * form.value_dim) for form in forms)

    def begin(self, layout: object) -> None:
        raise NotImplementedError("a trace has no layout")

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        out = self.of_layers[layer](*(x.flatten(1) for x in (query, key, value)))
        return out.unflatten(1, (self.forms[layer].heads, self.forms[layer].value_dim))

    def extensions(self, layer: int) -> tuple[ModuleExtension, ConversionExtension]:
        """What makes one node of a hole, and of the node a stand-in for attention."""
        name = f"tgi::attention_{layer}"
        return (
            ModuleExtension(
                self.of_layers[layer],
                name,
                evaluate=lambda hole, q, k, v: hole.forward(q, k, v),
                convert=lambda hole, operation, q, k, v: operation(q, k, v),
            ),
            ConversionExtension(name, partial(self._stand_in, layer)),
        )

    def _stand_in(self, layer: int, node: Any) -> list[ov.Output]:
        query, key, value = (node.get_input(i) for i in range(3))
        stand_in = paged_attention(query, key, value, self.forms[layer])
        stand_in.set_friendly_name(input_name(layer))
        return [stand_in.output(0)]


def _cut(graph: ov.Model, forms: Sequence[LayerForm]) -> None:
    """Replaces the stand-ins by results and parameters."""
    stand_ins = {
        node.get_friendly_name(): node
        for node in graph.get_ops()
        if node.get_type_name() == "PagedAttentionExtension"
    }
    for index, form in enumerate(forms):
        node = stand_ins[input_name(index)]
        results = []
        for i, name in enumerate(output_names(index)):
            result = Result(node.input_value(i))
            result.set_friendly_name(name)
            results.append(result)
        hole = Parameter(ov.Type.f32, ov.PartialShape([-1, form.heads * form.value_dim]))
        hole.set_friendly_name(input_name(index))
        hole.get_output_tensor(0).set_names({input_name(index)})
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(hole.output(0))
        graph.add_results(results)
        graph.add_parameters([hole])


def _fold_converted_constants(graph: ov.Model) -> None:
    """Makes constants of converted single numbers.

    torch's negation becomes a product with an integer -1 that is converted; OpenVINO recognizes
    rotary embeddings only by a plain -1.0, and without its own operation for them a step takes a
    sixth longer.
    """
    for node in graph.get_ops():
        if node.get_type_name() != "Convert":
            continue
        source = node.input_value(0).get_node()
        if source.get_type_name() != "Constant" or source.data.size != 1:
            continue
        number = ops.constant(source.data.astype(node.get_element_type().to_dtype())).output(0)
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(number)
