"""A rank that follows: `python -m tgi_backend_torch.follow FD`, a process of its own.

Does what rank 0 tells it over a socket, and ends when that is closed, also in the middle of a step:
no rank outlives the first one.
"""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread

from tgi_backend_torch.group import Group
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.turns import (
    Begin,
    Fork,
    Keep,
    Refused,
    Release,
    Reserve,
    SetAdapter,
    Truncate,
    Turn,
    WarmUp,
)
from tgi_core.errors import SetupError


class Follower:
    """Satisfies `Meeting`."""

    def __init__(self, begin: Begin, leader: Connection) -> None:
        self.rank, self.size = begin.rank, begin.size
        self._begin = begin
        self._leader = leader

    def join(self) -> Group:
        """Tells rank 0 that this one has its weights."""
        self._leader.send(None)
        return self._begin.device.connect(self._begin.meeting_point, self.rank, self.size)


def main(descriptor: int) -> None:
    """Follows until rank 0 goes away."""
    leader = Connection(descriptor)
    begin = leader.recv()
    turns: SimpleQueue[Turn | WarmUp | Keep] = SimpleQueue()
    Thread(target=_listen, args=(leader, turns), daemon=True).start()
    backend = begin.kind(begin.device.of_rank(begin.rank, begin.size), Follower(begin, leader))
    try:
        backend.load(begin.request, _to_nobody)
    except SetupError as error:
        leader.send(Refused(type(error).__name__, str(error)))
        return
    while True:
        repeat(backend, turns.get())


def repeat(backend: TorchBackend, turn: Turn | WarmUp | Keep) -> None:
    """Does what rank 0 did. If that raises, this process ends, and rank 0 takes notice."""
    match turn:
        case WarmUp():
            backend.warm_up(_to_nobody)
        case Keep(num_outputs):
            backend.keep(num_outputs)
        case Turn():
            _take(backend, turn)


def _take(backend: TorchBackend, turn: Turn) -> None:
    for change in turn.changes:
        match change:
            case Reserve(seq, length):
                backend.reserve(seq, length)
            case Fork(src, dst, length):
                backend.fork(src, dst, length)
            case Truncate(seq, length):
                backend.truncate(seq, length)
            case Release(seq):
                backend.release(seq)
            case SetAdapter(place, adapter):
                backend.set_adapter(place, adapter and backend.place_adapter(adapter))
    if turn.embeds:
        backend.embed(turn.step)
    else:
        backend.step(turn.step)


def _to_nobody(*progress: object) -> None:
    """Rank 0 tells what is to be told."""


def _listen(leader: Connection, turns: SimpleQueue[Turn | WarmUp | Keep]) -> None:
    try:
        while True:
            turns.put(leader.recv())
    except (EOFError, OSError):
        # the main thread may wait for ranks that are gone; nothing here is worth an orderly end
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
