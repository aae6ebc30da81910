"""Adapters: a second graph whose products take low-rank matrices as inputs. Knows no sequences.

A compiled graph has its weights inside, so what an adapter adds to a product has to come in. The
graph without adapters stays as it is, and computes all rows that have none: they are the same to
the bit, and cost the same. The second one is compiled when the first adapter is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as ops
from openvino.op import Parameter

from tgi_backend_openvino.inference import Inference
from tgi_core.contract import LinearShape, LoraAdapter, available_bytes, read_peft

_MASK = "adapter_mask"
_TRACED = "__module.model."
"""What conversion puts before the name of a layer."""


def linear_nodes(graph: ov.Model, names: Iterable[str]) -> dict[str, ov.Node]:
    """The products of linear layers, by the layers' names; those that are none are left out."""
    found: dict[str, list[ov.Node]] = {}
    for node in graph.get_ops():
        name = node.get_friendly_name()
        if node.get_type_name() == "MatMul" and name.startswith(_TRACED):
            found.setdefault(name.removeprefix(_TRACED).split("/")[0], []).append(node)
    return {name: found[name][0] for name in names if len(found.get(name, ())) == 1}


def linear_shape(node: ov.Node) -> LinearShape:
    """Of a product with a layer's weights, (outputs, inputs)."""
    outputs, inputs = (size.get_length() for size in node.input_value(1).get_partial_shape())
    return LinearShape(inputs, outputs)


def add_low_rank(graph: ov.Model, nodes: Mapping[str, ov.Node]) -> None:
    """Adds x @ down * mask @ up to each product, the three as inputs of the graph.

    down: float32 (inputs, R); up: float32 (R, outputs); mask: float32 (T, R), for all layers: 1
    where a column belongs to the adapter of the token's row.
    """
    mask = _parameter(_MASK, [-1, -1])
    # layers see T sequences of one token, or flat tokens
    masks = {2: mask.output(0), 3: ops.unsqueeze(mask, np.array(1)).output(0)}
    added = [mask]
    for name, node in nodes.items():
        shape = linear_shape(node)
        down = _parameter(_down(name), [shape.inputs, -1])
        up = _parameter(_up(name), [-1, shape.outputs])
        targets = node.output(0).get_target_inputs()
        x = node.input_value(0)
        narrow = ops.matmul(x, down, False, False)
        rank = node.output(0).get_partial_shape().rank.get_length()
        wide = ops.matmul(ops.multiply(narrow, masks[rank]), up, False, False)
        total = ops.add(node, wide)
        for target in targets:
            target.replace_source_output(total.output(0))
        added += [down, up]
    graph.add_parameters(added)
    graph.validate_nodes_and_infer_types()


class AdapterBank:
    """The adapters of one model, each at its place, and the graph that computes them."""

    def __init__(
        self, shapes: Mapping[str, LinearShape], compile_graph: Callable[[], Inference]
    ) -> None:
        """`compile_graph` makes the graph of `add_low_rank` ready, caches set."""
        self._shapes = shapes
        self._compile = compile_graph
        self._compiling = threading.Lock()
        self._inference: Inference | None = None
        self._places: dict[int, LoraAdapter] = {}
        self._place_of_column = np.zeros(0, np.int32)
        # the request shares their memory
        self._matrices: list[NDArray[np.float32]] = []

    def read(self, path: Path, *, max_rank: int, model: str) -> LoraAdapter:
        """Reads an adapter, and sees to it that there is a graph for it; see `read_peft`."""
        adapter = read_peft(
            path, self._shapes, max_rank=max_rank, free_bytes=available_bytes(), model=model
        )
        with self._compiling:
            if self._inference is None:
                self._inference = self._compile()
        return adapter

    def put(self, place: int, adapter: LoraAdapter | None) -> None:
        """Replaces what is at a place."""
        if adapter is None:
            self._places.pop(place, None)
        else:
            self._places[place] = adapter
        if self._inference is None:
            return
        columns = [np.full(_rank(held), at, np.int32) for at, held in sorted(self._places.items())]
        self._place_of_column = np.concatenate(columns or [np.zeros(0, np.int32)])
        self._matrices = []
        for name, shape in self._shapes.items():
            down = np.zeros((shape.inputs, len(self._place_of_column)), np.float32)
            up = np.zeros((len(self._place_of_column), shape.outputs), np.float32)
            for at, held in self._places.items():
                if name in held.layers:
                    weights = held.layers[name]
                    begin = int(np.searchsorted(self._place_of_column, at))
                    mine = slice(begin, begin + weights.down.shape[1])
                    down[:, mine], up[mine] = weights.down, weights.up
            self._matrices += [down, up]
            self._inference.request.set_tensor(_down(name), ov.Tensor(down, shared_memory=True))
            self._inference.request.set_tensor(_up(name), ov.Tensor(up, shared_memory=True))

    def inference_for(self, places: NDArray[np.int32]) -> Inference:
        """The second graph, set for tokens whose adapters are at these places.

        Args:
            places: int32 (T,), none of them 0.
        """
        assert self._inference is not None, "rows have an adapter, and none was read"
        mask = (places[:, None] == self._place_of_column).astype(np.float32)
        self._inference.request.set_tensor(_MASK, ov.Tensor(mask))
        return self._inference


def _rank(adapter: LoraAdapter) -> int:
    """Columns that an adapter takes: layers may differ."""
    return max(weights.down.shape[1] for weights in adapter.layers.values())


def _down(name: str) -> str:
    return f"adapter_down.{name}"


def _up(name: str) -> str:
    return f"adapter_up.{name}"


def _parameter(name: str, shape: list[int]) -> Parameter:
    parameter = Parameter(ov.Type.f32, ov.PartialShape(shape))
    parameter.set_friendly_name(name)
    parameter.get_output_tensor(0).set_names({name})
    return parameter
