"""Compiled graphs of a simulated device: a call must fit one of them to the shape and the type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

Signature = tuple[tuple[tuple[int, ...], torch.dtype], ...]


class NoSuchGraph(RuntimeError):
    """The device would compile for minutes, or fail."""


def signature(inputs: Sequence[torch.Tensor]) -> Signature:
    return tuple((tuple(x.shape), x.dtype) for x in inputs)


@dataclass
class Graphs:
    """Those of one model, by name, and how often each was run."""

    compiled: Mapping[str, Signature]
    runs: Counter[str] = field(default_factory=Counter)

    def find(self, inputs: Sequence[torch.Tensor]) -> str:
        wanted = signature(inputs)
        for name, inputs_of_graph in self.compiled.items():
            if inputs_of_graph == wanted:
                self.runs[name] += 1
                return name
        raise NoSuchGraph(f"no graph was compiled for {wanted}; there are {self.compiled}")
