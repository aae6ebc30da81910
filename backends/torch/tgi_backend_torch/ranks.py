"""A model shared by several processes: this one is rank 0, and the others repeat what it does.

Each rank is a backend of its own, with a part of each layer and of the cache. What changes the
cache, and the steps, they are told here; while they compute they exchange results by themselves.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tgi_backend_torch.device import CpuDevice, DeviceOfRanks
from tgi_backend_torch.group import Group
from tgi_backend_torch.loader import model_class, read_config
from tgi_backend_torch.lora import PlacedAdapter
from tgi_backend_torch.runner import WARM_UP_LENGTHS, TorchBackend
from tgi_backend_torch.shards import check_shards
from tgi_backend_torch.vision import Pixels
from tgi_backend_torch.weights import Weights
from tgi_backend_torch.wishes import refuse_unknown
from tgi_core import errors
from tgi_core.contract import (
    AdapterRows,
    BackendStats,
    Capabilities,
    Image,
    LoadRequest,
    Modality,
    PendingLogits,
    Progress,
    ReadImage,
    Step,
    TwoWay,
    warm_up_with,
)
from tgi_core.errors import BackendDead, SetupError, UnsupportedModel

_GOODBYE_S = 5.0
"""How long a rank may take to end by itself."""


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message to a rank."""

    request: LoadRequest
    device: DeviceOfRanks
    rank: int
    size: int
    meeting_point: Path


@dataclass(frozen=True, slots=True)
class Reserve:
    """As `StepBackend.reserve`; it has been seen that there is room."""

    seq: int
    length: int


@dataclass(frozen=True, slots=True)
class Fork:
    """As `StepBackend.fork`."""

    src: int
    dst: int
    length: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """As `StepBackend.truncate`."""

    seq: int
    length: int


@dataclass(frozen=True, slots=True)
class Release:
    """As `StepBackend.release`."""

    seq: int


@dataclass(frozen=True, slots=True)
class Turn:
    """A step, and what happened to the cache before it."""

    changes: tuple[Reserve | Fork | Truncate | Release, ...]
    step: Step
    embeds: bool
    """Whether hidden states are wanted, and no logits."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What a rank answers that cannot load its part."""

    kind: str
    """The class of the error."""
    message: str


class Followers:
    """The processes of all ranks but this one."""

    def __init__(self, request: LoadRequest, device: DeviceOfRanks, size: int) -> None:
        self.rank, self.size = 0, size
        self._device = device
        # only this user can look into it
        self._folder = tempfile.TemporaryDirectory(prefix="tgi-ranks-")
        self._meeting_point = Path(self._folder.name) / "meeting"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        for rank in range(1, size):
            self._start(Begin(request, device, rank, size, self._meeting_point))

    def join(self) -> Group:
        """Waits until all have loaded their weights, then connects all ranks.

        Raises:
            SetupError: what one of them says against it.
        """
        pending = list(self._connections)
        while pending:
            for connection in wait(pending):
                assert isinstance(connection, Connection)
                pending.remove(connection)
                try:
                    answer = connection.recv()
                except (EOFError, OSError) as error:
                    raise BackendDead("a rank died while it loaded its weights") from error
                if isinstance(answer, Refused):
                    raise _raised(answer)
        group = self._device.connect(self._meeting_point, self.rank, self.size)
        self._folder.cleanup()
        return group

    def tell(self, turn: Turn) -> None:
        """Has all of them do it.

        Raises:
            BackendDead: one of them is gone.
        """
        try:
            for connection in self._connections:
                connection.send(turn)
        except OSError as error:
            raise BackendDead("a rank is gone") from error

    def close(self) -> None:
        """Ends them all."""
        for connection in self._connections:
            connection.close()  # upon which they end
        for process in self._processes:
            try:
                process.wait(_GOODBYE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._connections, self._processes = [], []
        self._folder.cleanup()

    def _start(self, begin: Begin) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tgi_backend_torch.follow", str(theirs.fileno())]
            self._processes.append(subprocess.Popen(command, pass_fds=[theirs.fileno()]))
        connection = Connection(ours.detach())
        self._connections.append(connection)
        connection.send(begin)


def _raised(answer: Refused) -> SetupError:
    kind = getattr(errors, answer.kind, SetupError)
    return kind(answer.message) if issubclass(kind, SetupError) else SetupError(answer.message)


class RankedBackend:
    """Satisfies `StepBackend` and `Embeds`, with as many ranks as `LoadRequest.num_shards` says.

    One rank alone also satisfies `HoldsAdapters`, `EncodesImages` and `HoldsHeads`.
    """

    def __init__(self, device: DeviceOfRanks | None = None) -> None:
        self._device: DeviceOfRanks = device or CpuDevice()
        self._followers: Followers | None = None
        self._own = TorchBackend(self._device)
        self._changes: list[Reserve | Fork | Truncate | Release] = []

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """Starts the other ranks, if there are any, and loads this one's part."""
        size = request.num_shards or 1
        if size == 1:
            return self._own.load(request, progress)
        refuse_unknown(request, self._device)
        config = read_config(request.model.path)
        cls = model_class(config)
        check_shards(cls, config, size)
        Weights.find(request, self._device).check_cuts(cls, config, size)
        if request.num_threads is None:
            request = replace(request, num_threads=max(1, torch.get_num_threads() // size))
        self._followers = Followers(request, self._device, size)
        try:
            self._own = TorchBackend(self._device.of_rank(0, size), self._followers)
            limits = self._own.load(request, progress)
        except BaseException:
            self.close()
            raise
        # an adapter would have to be cut like its layers, and an image be told to all ranks
        return replace(
            limits,
            adapters=AdapterRows.NONE,
            modalities=frozenset({Modality.TEXT}),
            two_way=TwoWay.NONE,
        )

    def warm_up(self, progress: Progress) -> None:
        """As `TorchBackend.warm_up`, by all ranks."""
        if self._followers is None:
            self._own.warm_up(progress)
        else:
            warm_up_with(self, self._own.limits, WARM_UP_LENGTHS, progress)

    def reserve(self, seq: int, length: int) -> bool:
        """As `TorchBackend.reserve`; what one rank has room for all have."""
        if not self._own.reserve(seq, length):
            return False
        self._changed(Reserve(seq, length))
        return True

    def fork(self, src: int, dst: int, length: int) -> bool:
        """As `TorchBackend.fork`."""
        self._changed(Fork(src, dst, length))
        return self._own.fork(src, dst, length)

    def truncate(self, seq: int, length: int) -> None:
        """As `TorchBackend.truncate`."""
        self._changed(Truncate(seq, length))
        self._own.truncate(seq, length)

    def release(self, seq: int) -> None:
        """As `TorchBackend.release`."""
        self._changed(Release(seq))
        self._own.release(seq)

    def step(self, step: Step) -> PendingLogits:
        """One step by all ranks; the logits are this one's.

        Raises:
            BackendDead: a rank is gone, or the step failed: then no rank knows what the others
                have in their caches.
        """
        self._tell(step, embeds=False)
        with self._together():
            return self._own.step(step)

    def embed(self, step: Step) -> NDArray[np.float32]:
        """See `step`."""
        self._tell(step, embeds=True)
        with self._together():
            return self._own.embed(step)

    def read_adapter(self, path: Path) -> PlacedAdapter:
        """As `TorchBackend.read_adapter`."""
        return self._own.read_adapter(path)

    def set_adapter(self, place: int, adapter: object | None) -> None:
        """As `TorchBackend.set_adapter`."""
        self._own.set_adapter(place, adapter)

    def load_heads(self, path: Path) -> int:
        """As `TorchBackend.load_heads`, for one rank alone.

        Raises:
            UnsupportedModel: there are several; the heads use the output layer, which is cut.
        """
        if self._followers is not None:
            raise UnsupportedModel(
                "heads that guess tokens run on one device: leave out --num-shard or --speculate."
            )
        return self._own.load_heads(path)

    def guess(self, logits: PendingLogits, outputs: NDArray[np.int32]) -> NDArray[np.int32]:
        """As `TorchBackend.guess`."""
        return self._own.guess(logits, outputs)

    def read_image(self, image: Image) -> ReadImage:
        """As `TorchBackend.read_image`."""
        return self._own.read_image(image)

    def encode_image(self, pixels: Pixels) -> Tensor:
        """As `TorchBackend.encode_image`."""
        return self._own.encode_image(pixels)

    def stats(self) -> BackendStats:
        """Of this rank; the others are alike."""
        return self._own.stats()

    def close(self) -> None:
        """Ends all ranks."""
        if self._followers is not None:
            self._followers.close()
            self._followers = None
        self._own.close()

    def _changed(self, change: Reserve | Fork | Truncate | Release) -> None:
        if self._followers is not None:
            self._changes.append(change)

    def _tell(self, step: Step, *, embeds: bool) -> None:
        if self._followers is not None:
            self._followers.tell(Turn(tuple(self._changes), step, embeds))
            self._changes.clear()

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._followers is None:
                raise
            raise BackendDead(f"a step of {self._followers.size} ranks failed: {error}") from error
