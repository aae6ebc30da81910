"""Queries, keys and values are one product, and what comes of it is the same."""

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as ops
from tgi_backend_openvino.adapters import linear_nodes
from tgi_backend_openvino.merged import merge_products

QKV = {"attn.q": 32, "attn.k": 16, "attn.v": 8}
MLP = {"mlp.gate": 32, "mlp.up": 32}


def graph_of(layers: dict[str, int], dtype: type, *, biased: bool = False) -> ov.Model:
    """All layers see the same input (T, 16)."""
    rng = np.random.default_rng(3)
    x = ops.parameter([-1, 16], np.float32)
    results = []
    for name, outputs in layers.items():
        weights = ops.constant(rng.normal(size=(outputs, 16)).astype(dtype))
        node = ops.matmul(
            x, ops.convert(weights, "f32") if dtype != np.float32 else weights, False, True
        )
        node.set_friendly_name(f"__module.model.{name}/MatMul")
        bias = rng.normal(size=(1, outputs)).astype(np.float32)
        results.append(ops.add(node, ops.constant(bias)) if biased else ops.tanh(node))
    return ov.Model(results, [x])


def computed(graph: ov.Model) -> list[np.ndarray]:
    x = np.random.default_rng(4).normal(size=(5, 16)).astype(np.float32)
    compiled = ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [np.array(each) for each in compiled(x).values()]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    ("layers", "biased", "num_products"),
    [
        (QKV, False, 1),
        (QKV | MLP, False, 3),
        ({"attn.q": 32, "attn.kv": 24}, False, 2),
        (QKV, True, 3),
    ],
    ids=["one", "an MLP is left", "two are left", "biases are added in the products"],
)
def test_products_of_three_become_one(dtype, layers, biased, num_products):
    graph = graph_of(layers, dtype, biased=biased)
    expected = computed(graph)
    merge_products(graph, linear_nodes(graph, layers))
    products = [node for node in graph.get_ops() if node.get_type_name() == "MatMul"]
    assert len(products) == num_products
    for ours, theirs in zip(computed(graph), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_weights_in_few_bits_are_left():
    graph = graph_of(QKV, np.int8)
    merge_products(graph, linear_nodes(graph, QKV))
    assert sum(node.get_type_name() == "MatMul" for node in graph.get_ops()) == 3
