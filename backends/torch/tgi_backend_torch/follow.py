"""A rank that follows: `python -m tgi_backend_torch.follow FD`, a process of its own.

Does what rank 0 tells it over a socket, and ends when that is closed, also in the middle of a step:
no rank outlives the first one.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

from tgi_backend_torch.group import Group
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.turns import (
    Begin,
    Change,
    Close,
    Forget,
    Fork,
    Keep,
    Look,
    Message,
    Refused,
    Release,
    Reserve,
    SetAdapter,
    Truncate,
    Turn,
    WarmUp,
    with_images,
)
from tgi_core.errors import BadImage, OutOfMemory, SetupError


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
    messages: SimpleQueue[Message] = SimpleQueue()
    Thread(target=_listen, args=(leader, messages), daemon=True).start()
    device = begin.device.of_rank(begin.rank, begin.size)
    backend = begin.kind(device, Follower(begin, leader))
    try:
        backend.load(begin.request, _to_nobody)
    except SetupError as error:
        leader.send(Refused(type(error).__name__, str(error)))
        return
    repeating = Repeating(backend)
    while not isinstance(message := messages.get(), Close):
        repeating.repeat(message)
    device.close()
    # what else there is ends with the process, and to disconnect might wait for others
    os._exit(0)


class Repeating:
    """What rank 0 did, done by another one. If that raises, this process ends, and rank 0 takes
    notice.
    """

    def __init__(self, backend: TorchBackend) -> None:
        self._backend = backend
        self._images: dict[int, Any] = {}
        """What was encoded of images, by number."""

    def repeat(self, message: Message) -> None:
        """Does it."""
        match message:
            case WarmUp():
                self._backend.warm_up(_to_nobody)
            case Keep(num_outputs):
                self._backend.keep(num_outputs)
            case Look(changes, image, pixels):
                self._change(changes)
                self._look(image, pixels)
            case Turn(changes, step, embeds):
                self._change(changes)
                step = with_images(step, self._images.__getitem__)
                if embeds:
                    self._backend.embed(step)
                else:
                    self._backend.step(step)

    def _look(self, image: int, pixels: Any) -> None:
        # what is wrong is wrong for all ranks, and rank 0 shows no step an image that it has not
        with suppress(BadImage, OutOfMemory):
            self._images[image] = self._backend.encode_image(pixels)

    def _change(self, changes: tuple[Change, ...]) -> None:
        backend = self._backend
        for change in changes:
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
                case Forget(image):
                    self._images.pop(image, None)


def _to_nobody(*progress: object) -> None:
    """Rank 0 tells what is to be told."""


def _listen(leader: Connection, messages: SimpleQueue[Message]) -> None:
    try:
        while True:
            messages.put(leader.recv())
    except (EOFError, OSError):
        # the main thread may wait for ranks that are gone; nothing here is worth an orderly end
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
