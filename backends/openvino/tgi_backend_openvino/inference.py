"""A request of a compiled model, and the tensors that it reads steps from. Knows no sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray


class Inference:
    """Runs a compiled model, one step at a time."""

    def __init__(self, request: ov.InferRequest) -> None:
        self.request = request
        """For inputs that stay as they are from step to step."""
        # what the tensors hold that were set, by name
        self._held: dict[str, NDArray[Any]] = {}

    def run(self, inputs: Mapping[str, NDArray[Any]], num_outputs: int) -> NDArray[np.float32]:
        """One step.

        Args:
            inputs: by name; they are copied.
            num_outputs: how many rows of logits are wanted.

        Returns:
            (num_outputs, vocab): logits in the request's own memory: valid, and the caller's to
            write to, until the next run.
        """
        for name, array in inputs.items():
            held = self._held.get(name)
            if held is not None and held.shape == array.shape:
                held[...] = array  # a new tensor would take ten times as long
            else:
                tensor = ov.Tensor(array)
                self.request.set_tensor(name, tensor)
                self._held[name] = tensor.data
        self.request.infer()
        logits: NDArray[np.float32] = self.request.get_output_tensor(0).data[:num_outputs]
        return logits
