"""The engine's end of the socket: one thread reads, the engine's own thread writes."""

from __future__ import annotations

import os
import socket
import threading
from queue import Empty, SimpleQueue

from tgi_core.ipc.frames import FrameBuffer, encode_frame
from tgi_core.ipc.messages import FromEngine, ToEngine, to_engine_decoder


class EngineSocket:
    """Messages from the API process. When that process is gone, this one ends at once."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._inbox: SimpleQueue[ToEngine] = SimpleQueue()
        threading.Thread(target=self._read, name="ipc-reader", daemon=True).start()

    def receive(self, timeout_s: float | None) -> ToEngine | None:
        """The next message; None if none came in time. A timeout of None waits for ever."""
        try:
            if timeout_s == 0:
                return self._inbox.get_nowait()
            return self._inbox.get(timeout=timeout_s)
        except Empty:
            return None

    def send(self, message: FromEngine) -> None:
        """Blocks while the API process is too slow to read, so nothing piles up here."""
        try:
            self._socket.sendall(encode_frame(message))
        except OSError:
            os._exit(0)  # see _read

    def _read(self) -> None:
        buffer = FrameBuffer()
        while data := self._receive_bytes():
            for payload in buffer.feed(data):
                self._inbox.put(to_engine_decoder.decode(payload))
        # Nobody is left to work for, and the main thread may be deep inside a device library.
        os._exit(0)

    def _receive_bytes(self) -> bytes:
        try:
            return self._socket.recv(2**16)
        except OSError:
            return b""
