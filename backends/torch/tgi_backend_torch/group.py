"""What the ranks of one model tell each other while they compute. Knows no model."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.distributed import FileStore, ProcessGroup, ProcessGroupGloo

PATIENCE = timedelta(minutes=10)
"""A rank that is later than this hangs. One that has died breaks its connections, and is noticed
at once."""


class Group(Protocol):
    """All ranks call the same methods in the same order."""

    @property
    def size(self) -> int:
        """How many ranks there are."""
        ...

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the ranks' tensors, which may take the place of this one."""
        ...

    def join(self, tensor: Tensor) -> Tensor:
        """The ranks' tensors side by side, in the last dimension."""
        ...

    def least(self, number: int) -> int:
        """The least of the ranks' numbers."""
        ...


class Meeting(Protocol):
    """Where the ranks of one model come together when they have their weights."""

    @property
    def rank(self) -> int:
        """Which of them this is; 0 answers for all."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def join(self) -> Group:
        """Waits for the others.

        Raises:
            SetupError: one of them cannot load its part.
        """
        ...


class Alone:
    """One rank that has nobody to wait for."""

    rank, size = 0, 1

    def join(self) -> Group:
        """Nobody else."""
        return Unconnected()


class Unconnected:
    """One rank alone; or one that plans what it would do among others."""

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def sum(self, tensor: Tensor) -> Tensor:
        """As if all others had zeros."""
        return tensor

    def join(self, tensor: Tensor) -> Tensor:
        """As if all others had the same."""
        return tensor if self.size == 1 else torch.cat([tensor] * self.size, -1)

    def least(self, number: int) -> int:
        """As if all others had the same."""
        return number


class SharedHost:
    """Ranks on one machine that share its memory."""

    def __init__(self, processes: ProcessGroup) -> None:
        self._processes = processes
        self.size = processes.size()

    def sum(self, tensor: Tensor) -> Tensor:
        """In place, if the tensor is contiguous."""
        tensor = tensor.contiguous()
        self._processes.allreduce([tensor]).wait()
        return tensor

    def join(self, tensor: Tensor) -> Tensor:
        """A new tensor."""
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        self._processes.allgather([parts], [tensor]).wait()
        return torch.cat(parts, -1)

    def least(self, number: int) -> int:
        """All get the same."""
        return int(self.join(torch.tensor([number])).min())


def connect_on_this_host(meeting_point: Path, rank: int, size: int) -> Group:
    """Connects all ranks with each other, by gloo, over the loopback interface only.

    When it returns all are connected, and nobody needs the file any more.

    Args:
        meeting_point: a file that all ranks name and nobody else can read.
        rank: of this process.
        size: how many ranks there are.
    """
    options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
    options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = PATIENCE
    store = FileStore(str(meeting_point), size)
    group = SharedHost(ProcessGroupGloo(store, rank, size, options))
    group.least(0)  # one that is connected may be ahead of others that still read the file
    return group
