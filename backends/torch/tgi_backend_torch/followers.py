"""The processes of all ranks but the first: started, told what to do, and ended. Knows no model."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread

from tgi_backend_torch.device import DeviceOfRanks
from tgi_backend_torch.group import Group
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.turns import Begin, Close, Message, Refused
from tgi_core import errors
from tgi_core.contract import LoadRequest
from tgi_core.errors import BackendDead, SetupError

logger = logging.getLogger(__name__)

_GOODBYE_S = 5.0
"""How long a rank may take to end by itself."""


class Followers:
    """The processes of all ranks but this one."""

    def __init__(
        self, request: LoadRequest, kind: type[TorchBackend], device: DeviceOfRanks, size: int
    ) -> None:
        self.rank, self.size = 0, size
        self._device = device
        self._joined = self._closing = False
        # only this user can look into it
        self._folder = tempfile.TemporaryDirectory(prefix="tgi-ranks-")
        self._meeting_point = Path(self._folder.name) / "meeting"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        for rank in range(1, size):
            self._start(Begin(request, kind, device, rank, size, self._meeting_point))
        # libraries read them when a device is first used, which comes now
        os.environ.update(device.environment(0, size, os.environ))

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
        self._joined = True
        group = self._device.connect(self._meeting_point, self.rank, self.size)
        if not group.misses_the_dead:
            for process in self._processes:
                Thread(target=self._end_with, args=(process,), daemon=True).start()
        return group

    def tell(self, message: Message) -> None:
        """Has all of them do it.

        Raises:
            BackendDead: one of them is gone.
        """
        try:
            for connection in self._connections:
                connection.send(message)
        except OSError as error:
            raise BackendDead("a rank is gone") from error

    def close(self) -> None:
        """Ends them all; those that have joined write down first what is to be kept."""
        self._closing = True
        if self._joined:
            self._say_goodbye()
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

    def _say_goodbye(self) -> None:
        with suppress(BackendDead):
            self.tell(Close())
        latest = time.monotonic() + _GOODBYE_S
        for process in self._processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, latest - time.monotonic()))

    def _end_with(self, process: subprocess.Popen[bytes]) -> None:
        """Ends this process as soon as that one has. What the device waits for never comes, and the
        host waits for the device: nobody else could.
        """
        process.wait()
        if not self._closing:
            logger.error("a rank has died (status %s), so all end", process.returncode)
            os._exit(1)

    def _start(self, begin: Begin) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "tgi_backend_torch.follow", str(theirs.fileno())]
            own = self._device.environment(begin.rank, begin.size, os.environ)
            self._processes.append(
                subprocess.Popen(command, pass_fds=[theirs.fileno()], env=os.environ | own)
            )
        connection = Connection(ours.detach())
        self._connections.append(connection)
        connection.send(begin)


def _raised(answer: Refused) -> SetupError:
    kind = getattr(errors, answer.kind, SetupError)
    return kind(answer.message) if issubclass(kind, SetupError) else SetupError(answer.message)
