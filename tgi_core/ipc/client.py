"""The API process's end of the socket, on its event loop."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import cast

from tgi_core.ipc.frames import FrameBuffer, encode_frame
from tgi_core.ipc.messages import FromEngine, ToEngine, from_engine_decoder


class Connection(asyncio.Protocol):
    """One engine process. Frames that arrive together are handed over together."""

    def __init__(
        self,
        on_messages: Callable[[Connection, list[FromEngine]], None],
        on_connected: Callable[[Connection], None],
    ) -> None:
        self._on_messages = on_messages
        self._on_connected = on_connected
        self._buffer = FrameBuffer()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        self._on_connected(self)

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        frames = [from_engine_decoder.decode(payload) for payload in self._buffer.feed(data)]
        if frames:
            self._on_messages(self, frames)

    def send(self, message: ToEngine) -> None:
        """Queues a message; to an engine that is gone it goes nowhere."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_frame(message))

    def close(self) -> None:
        """Ends the connection, upon which the engine process ends itself."""
        if self._transport is not None:
            self._transport.abort()


class Listener:
    """A Unix socket in a folder that only this user can enter."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="tgi-")
        self.path = Path(self._folder.name) / "engine.sock"
        self._server: asyncio.Server | None = None

    async def listen(self, protocol: Callable[[], Connection]) -> None:
        """Starts to accept engines."""
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(
                protocol, str(self.path)
            )
        finally:
            os.umask(mask)

    def close(self) -> None:
        """Stops to accept, and removes the folder."""
        if self._server is not None:
            self._server.close()
        self._folder.cleanup()
