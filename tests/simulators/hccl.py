"""HCCL's process groups, over gloo: what Gaudis would wait for in vain, or not record, is refused.

All ranks must exchange the same things in the same order, each on a Gaudi of its own, and in a
graph only with lazy collectives.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed import Backend, ProcessGroup, ProcessGroupGloo, Store, Work

from tests.simulators.hpu import DEVICE, Refused

_NAME_BYTES = 64


def register() -> None:
    """Once in a process, however often the simulator is imported."""
    if not hasattr(Backend, "HCCL"):
        Backend.register_backend("hccl", Hccl, devices=["cpu"])


class Hccl(ProcessGroup):
    """One rank of a group."""

    def __init__(self, store: Store, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = timeout
        self._gloo = ProcessGroupGloo(store, rank, size, options)
        modules = self._told(os.environ["HLS_MODULE_ID"])
        if len(set(modules)) < size:
            raise Refused(f"two processes want one Gaudi: {modules}")

    def getBackendName(self) -> str:
        return "hccl"

    def allreduce(self, tensors: list[Tensor], options: Any = None) -> Work:
        self._check("sum", tensors[0])
        return self._gloo.allreduce(tensors)

    def allgather(
        self, outputs: list[list[Tensor]], inputs: list[Tensor], options: Any = None
    ) -> Work:
        self._check("join", inputs[0])
        return self._gloo.allgather(outputs, inputs)

    def broadcast(self, tensor: Tensor, root: int) -> Work:
        self._check("first", tensor)
        return self._gloo.broadcast(tensor, root)

    def _check(self, what: str, tensor: Tensor) -> None:
        if DEVICE.in_graph and os.environ.get("PT_HPU_ENABLE_LAZY_COLLECTIVES") != "true":
            raise Refused("without lazy collectives no graph records what ranks exchange")
        exchanges = self._told(f"{what} {tuple(tensor.shape)} {tensor.dtype}")
        if len(set(exchanges)) > 1:
            raise Refused(f"ranks wait for each other: {exchanges}")

    def _told(self, what: str) -> list[str]:
        """What each rank says; no operation on a device."""
        with torch._C.DisableTorchFunction():
            own = torch.frombuffer(bytearray(what.encode().ljust(_NAME_BYTES)), dtype=torch.uint8)
            all_of_them = [torch.empty_like(own) for _ in range(self.size())]
            self._gloo.allgather([all_of_them], [own]).wait()
            return [bytes(each.tolist()).decode().strip() for each in all_of_them]
