"""A simulated Gaudi in lazy mode: what it would compile is counted, and refused once it is sealed.

Tensors of the device "hpu" lie on the CPU. Outside of graphs operations are collected until
`mark_step`, and what was collected is one compiled piece, known by its operations and shapes.
Inside a graph nothing may be read back, no number of the device may say how much is taken, no view
may be written to, and nothing may have a type that a Gaudi lacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.simulators.graphs import Signature, signature

_READS_BACK = {
    *("item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__"),
    *("nonzero", "masked_select", "unique"),
}
_COPIES = {"to", "cpu", "numpy", "float", "from_numpy", "tensor", "__get__", "__set__"}
"""Transfers, and what reads only the shape of a tensor; no operations on the device."""


class Refused(RuntimeError):
    """A Gaudi would fail, or compile for seconds."""


class Device(TorchFunctionMode):
    """The device of this process."""

    def __init__(self) -> None:
        super().__init__()
        self.chip = "GAUDI2"
        self.num_devices = 1
        """In this machine."""
        self.lazy = True
        """As with PT_HPU_LAZY_MODE=1; without it there are no graphs."""
        self.sealed = False
        """Whether warm-up is over: nothing may be compiled any more."""
        self.num_compiled = 0
        self.replays = 0
        self.in_step = False
        """While it is set, nothing may be copied to the host: a step is started, not awaited."""
        self._in_graph = False
        self._pieces: set[tuple[Any, ...]] = set()
        self._collected: list[Any] = []
        self._entered = False

    @property
    def in_graph(self) -> bool:
        """Whether a graph is recorded or replayed."""
        return self._in_graph

    def start(self) -> None:
        if not self._entered:
            self.__enter__()
            self._entered = True

    def stop(self) -> None:
        if self._entered:
            self.__exit__(None, None, None)
        self.__init__()  # type: ignore[misc]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        arguments = [_here(x) for x in args]
        options = {key: _here(x) for key, x in (kwargs or {}).items()}
        if name == "where" and len(arguments) == 1:
            name = "nonzero"
        if name in _READS_BACK and (self._in_graph or (self.in_step and name != "nonzero")):
            raise Refused(f"{name} reads from the device before the step is over")
        if self._in_graph:
            self._check(name, arguments)
            if name == "__getitem__" and _is_dynamic(arguments[1]):
                raise Refused("only the device knows how many are chosen, which no graph records")
        out = func(*arguments, **options)
        if self._in_graph and isinstance(out, Tensor) and out.dtype == torch.float64:
            raise Refused(f"{name} gives float64")
        if not self._in_graph and name not in _COPIES and isinstance(out, Tensor):
            self._collected.append((name, tuple(out.shape), out.dtype))
        return out

    def _check(self, name: str, arguments: list[Any]) -> None:
        target = arguments[0] if arguments else None
        writes = name.endswith("_") and not name.endswith("__")
        if writes and isinstance(target, Tensor) and target._is_view():
            raise Refused(f"{name} writes to a view, which no graph records")
        if self.chip == "GAUDI" and isinstance(target, Tensor) and target.dtype == torch.float16:
            raise Refused("the first Gaudi has no float16")

    def mark_step(self) -> None:
        piece, self._collected = tuple(self._collected), []
        if piece:
            self.compile(piece)

    def compile(self, piece: tuple[Any, ...]) -> None:
        """Once; a second time it is there."""
        if piece in self._pieces:
            return
        if self.sealed:
            raise Refused(f"compiles after warm-up: {piece[:4]}")
        self._pieces.add(piece)
        self.num_compiled += 1

    def graph(self, compute: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        self._in_graph = True
        try:
            return compute(*inputs)
        finally:
            self._in_graph = False

    def forget_last(self) -> None:
        """What the simulator itself does is no operation."""
        self._collected.pop()


DEVICE = Device()


def record(module: nn.Module) -> nn.Module:
    """Replaces its forward: a graph for each signature, whose output lies always in one place."""
    compute: Callable[..., Tensor] = module.forward
    outputs: dict[Signature, Tensor] = {}

    def forward(*inputs: Tensor) -> Tensor:
        DEVICE.mark_step()
        known = signature(inputs)
        DEVICE.compile((id(outputs), known))
        out = DEVICE.graph(compute, inputs)
        if known not in outputs:
            outputs[known] = out
        else:
            DEVICE.replays += 1
            with torch.inference_mode():
                outputs[known].copy_(out)
            DEVICE.forget_last()
        return outputs[known]

    module.forward = forward
    return module


def _is_dynamic(index: Any) -> bool:
    """Whether a number on the device says how much is taken: torch reads it unseen."""
    for x in index if isinstance(index, tuple) else (index,):
        if isinstance(x, slice) and any(isinstance(y, Tensor) for y in (x.start, x.stop, x.step)):
            return True
        if isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8):
            return True
    return False


def _here(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type == "hpu":
        return torch.device("cpu")
    return "cpu" if isinstance(x, str) and x.startswith("hpu") else x
