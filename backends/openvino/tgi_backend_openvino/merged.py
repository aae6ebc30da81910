"""One product for queries, keys and values: what a product costs besides reading its weights counts
three times otherwise, and in a step of few tokens that is as much as reading them.

Gate and up projections are left alone: OpenVINO's plugin has one operation for all of an MLP, which
it recognises by these two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import openvino as ov
from openvino import opset13 as ops


def merge_products(graph: ov.Model, nodes: Mapping[str, ov.Node]) -> None:
    """Merges products with the same input, if one module has at least three of them.

    Args:
        graph: changed in place.
        nodes: products with weights, by their layers' names.
    """
    groups: dict[tuple[str, str, int], list[ov.Node]] = {}
    for name, node in nodes.items():
        source = node.input_value(0)
        key = name.rpartition(".")[0], source.get_node().get_name(), source.get_index()
        groups.setdefault(key, []).append(node)
    for group in groups.values():
        if len(group) >= 3 and all(map(_is_plain, group)):
            _merge(group)
    graph.validate_nodes_and_infer_types()


def _is_plain(node: ov.Node) -> bool:
    """Whether its weights are numbers as they are, and it has no bias, which the plugin would no
    longer add in the product.
    """
    weights = node.input_value(1).get_node()
    if weights.get_type_name() == "Convert":
        weights = weights.input_value(0).get_node()
    users = [target.get_node() for target in node.output(0).get_target_inputs()]
    biased = any(user.get_type_name() == "Add" and _adds_weights(user, node) for user in users)
    floats = weights.get_type_name() == "Constant" and weights.get_element_type().is_real()
    return floats and not biased


def _adds_weights(add: ov.Node, product: ov.Node) -> bool:
    sources = [add.input_value(i).get_node() for i in range(2)]
    [other] = [each for each in sources if each.get_name() != product.get_name()]
    return other.get_type_name() in ("Constant", "Convert")


def _merge(nodes: Sequence[ov.Node]) -> None:
    first = nodes[0]
    weights = [node.input_value(1) for node in nodes]
    sizes = [each.get_partial_shape()[0].get_length() for each in weights]
    converts = first.input_value(1).get_node()
    if converts.get_type_name() == "Convert":
        # one that is there tells the plugin that it need not be computed
        stored = [each.get_node().input_value(0) for each in weights]
        converts.input(0).replace_source_output(ops.concat(stored, 0).output(0))
        converts.constructor_validate_and_infer_types()
        merged = converts
    else:
        merged = ops.concat(weights, 0)
    product = ops.matmul(first.input_value(0), merged, False, True)
    parts = ops.variadic_split(product, np.array(-1), np.array(sizes))
    for place, node in enumerate(nodes):
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(parts.output(place))
