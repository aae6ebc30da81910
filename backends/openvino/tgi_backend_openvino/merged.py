"""One product for queries, keys and values: what a product costs besides reading its weights counts
three times otherwise, and in a step of few tokens that is as much as reading them.

Gate and up projections are left alone: OpenVINO's plugin has one operation for all of an MLP, which
it recognises by these two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops


def merge_products(graph: ov.Model, nodes: Mapping[str, ov.Node]) -> None:
    """Merges products with the same input, if one module has at least three of them.

    Args:
        graph: changed in place.
        nodes: products with weights, by their layers' names.
    """
    groups: dict[tuple[Any, ...], list[ov.Node]] = {}
    for name, node in nodes.items():
        source, stored = node.input_value(0), str(_stored(node).get_element_type())
        module = name.rpartition(".")[0]
        key = module, source.get_node().get_name(), source.get_index(), stored
        groups.setdefault(key, []).append(node)
    for group in groups.values():
        if len(group) >= 3 and all(map(_is_plain, group)):
            _merge(group)
    graph.validate_nodes_and_infer_types()


def _is_plain(node: ov.Node) -> bool:
    """Whether its weights are numbers as they are, and its alone; and it has no bias, which the
    plugin would no longer add in the product.
    """
    stored = _stored(node)
    floats = stored.get_type_name() == "Constant" and stored.get_element_type().is_real()
    shared = len(node.input_value(1).get_target_inputs()) > 1
    users = [target.get_node() for target in node.output(0).get_target_inputs()]
    return floats and not shared and not any(map(_adds_weights, users))


def _stored(node: ov.Node) -> ov.Node:
    """A product's weights, before they are converted to what it computes in."""
    weights = node.input_value(1).get_node()
    converted = weights.get_type_name() == "Convert"
    return weights.input_value(0).get_node() if converted else weights


def _adds_weights(node: ov.Node) -> bool:
    sources = {each.get_node().get_type_name() for each in node.input_values()}
    return node.get_type_name() == "Add" and not sources.isdisjoint(("Constant", "Convert"))


def _merge(nodes: Sequence[ov.Node]) -> None:
    first = nodes[0]
    weights = [node.input_value(1) for node in nodes]
    sizes = [each.get_partial_shape()[0].get_length() for each in weights]
    converts = first.input_value(1).get_node()
    if converts.get_type_name() == "Convert":
        # one that is there tells the plugin that it need not be computed
        stored = ops.concat([_stored(node) for node in nodes], 0)
        converts.input(0).replace_source_output(stored.output(0))
        converts.constructor_validate_and_infer_types()
        merged = converts
    else:
        merged = ops.concat(weights, 0)
    product = ops.matmul(first.input_value(0), merged, False, True)
    parts = ops.variadic_split(product, np.array(-1), np.array(sizes))
    for place, node in enumerate(nodes):
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(parts.output(place))
