"""Makes a graph ready to be compiled: puts paged attention into a converted model.

Whatever a model came from, the graph then has these inputs: `input_ids`, `position_ids` and
`sampled_tokens_indices`, `past_lens`, `subsequence_begins`, `block_indices`,
`block_indices_begins` and `max_context_len`, and `key_cache.N` and `value_cache.N` for each layer;
and one output of logits. The names are OpenVINO's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import openvino as ov
from openvino.op import Parameter

from tgi_backend_openvino.form import GRAPH, Manifest, input_name, output_names
from tgi_backend_openvino.paged import CACHE_INPUTS, STEP_INPUTS, paged_attention
from tgi_core.errors import BadModel


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphFacts:
    """What a graph that only needs compiling does not say itself."""

    num_layers: int
    vocab_size: int
    longest: int | None
    """Positions that the model was made for; None if nobody says."""
    weights: str
    """Data type of the weights: "bfloat16", "int8"."""
    linears: tuple[str, ...] = ()
    """Layers that adapters may change, by name."""


def read_graph(core: ov.Core, folder: Path, manifest: Manifest) -> tuple[ov.Model, GraphFacts]:
    """Reads a converted model and fills its holes.

    Raises:
        BadModel: OpenVINO cannot read it, or its holes are not those of the layers.
    """
    try:
        graph = core.read_model(folder / GRAPH)
    except RuntimeError as error:
        raise BadModel(f"{folder / GRAPH} cannot be read ({error}).") from error
    results = {result.get_friendly_name(): result for result in graph.get_results()}
    parameters = {each.get_friendly_name(): each for each in graph.get_parameters()}
    shared = {
        name: _parameter(name, [] if name == "max_context_len" else [-1]) for name in STEP_INPUTS
    }
    caches = []
    try:
        for index, form in enumerate(manifest.layers):
            hole = parameters[input_name(index)]
            ends = [results[name] for name in output_names(index)]
            node = paged_attention(*(end.input_value(0) for end in ends), form)
            for name, place in STEP_INPUTS.items():
                node.input(place).replace_source_output(shared[name].output(0))
            for name, place in zip(cache_names(index), CACHE_INPUTS, strict=True):
                # the plugin chooses data type and layout when it compiles
                cache = _parameter(name, [-1] * 4, ov.Type.dynamic)
                node.input(place).replace_source_output(cache.output(0))
                caches.append(cache)
            for target in hole.output(0).get_target_inputs():
                target.replace_source_output(node.output(0))
            graph.remove_parameter(hole)
            for end in ends:
                graph.remove_result(end)
    except KeyError as error:
        raise BadModel(f"{folder / GRAPH} has no {error}.") from error
    graph.add_parameters([*shared.values(), *caches])
    graph.validate_nodes_and_infer_types()
    return graph, GraphFacts(
        num_layers=len(manifest.layers),
        vocab_size=manifest.vocab_size,
        longest=manifest.longest,
        weights=manifest.weights,
        linears=manifest.linears,
    )


def cache_names(layer: int) -> tuple[str, str]:
    """Inputs that hold a layer's keys and values."""
    return f"key_cache.{layer}", f"value_cache.{layer}"


def _parameter(name: str, shape: list[int], dtype: ov.Type = ov.Type.i32) -> Parameter:
    parameter = Parameter(dtype, ov.PartialShape(shape))
    parameter.set_friendly_name(name)
    parameter.get_output_tensor(0).set_names({name})
    return parameter
