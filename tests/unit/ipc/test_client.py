"""The socket that engines come to: nobody else's, and gone when the server is."""

import asyncio
import socket
import stat
from pathlib import Path

from tgi_core.ipc.client import Connection, Listener
from tgi_core.ipc.frames import encode_frame
from tgi_core.ipc.messages import FromEngine, Loading


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_this_user_reaches_the_socket() -> None:
    async def look() -> Path:
        listener = Listener()
        try:
            await listener.listen(lambda: Connection(lambda *told: None, lambda *told: None))
            assert (mode(listener.path.parent), mode(listener.path)) == (0o700, 0o600)
            return listener.path.parent
        finally:
            listener.close()

    assert not asyncio.run(look()).exists()


def test_whoever_speaks_no_messages_of_ours_is_sent_away() -> None:
    """Also a pickle, which nobody opens."""

    async def speak(words: bytes) -> list[FromEngine]:
        listener = Listener()
        connected: list[Connection] = []
        heard: list[FromEngine] = []

        def hear(connection: Connection, messages: list[FromEngine]) -> None:
            heard.extend(messages)
            connection.close()

        try:
            await listener.listen(lambda: Connection(hear, connected.append))
            with socket.socket(socket.AF_UNIX) as peer:
                peer.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(peer, str(listener.path))
                await loop.sock_sendall(peer, words)
                answer = await asyncio.wait_for(loop.sock_recv(peer, 100), 10)
            assert connected and answer == b""
            return heard
        finally:
            listener.close()

    message = Loading("loading weights", 1, 2, "bytes")
    assert asyncio.run(speak(encode_frame(message))) == [message]
    pickled = b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93."
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 100, (8).to_bytes(4, "little") + b"x" * 8):
        assert not asyncio.run(speak(words))
    assert not asyncio.run(speak(len(pickled).to_bytes(4, "little") + pickled))
