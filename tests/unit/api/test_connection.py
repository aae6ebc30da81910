"""What a TCP client may do before, between and around requests, with a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn

from tgi_core.api.connection import MAX_HEADER_BYTES, Connection
from tgi_core.api.server import uvicorn_config
from tgi_core.api.service import ApiLimits

HEALTH = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"


def prompt(text="x", more=b""):
    body = json.dumps({"inputs": text}).encode()
    head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    return head + more + b"content-length: %d\r\n\r\n" % len(body) + body


CHUNKED = (
    b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Impatient(Connection):
    header_timeout_s = 0.2


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> tuple[int, bytes]:
        """The next whole response."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return int(head.split(b" ")[1]), await self.reader.readexactly(length)

    async def closed(self) -> bool:
        """Waits until the server hangs up; whether nothing came before."""
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


def talk(
    server: Any,
    script: Callable[[Client], Coroutine[Any, Any, None]],
    protocol: type[Connection] = Connection,
    keep_alive: int = 75,
) -> None:
    """Runs the script against a listening server, and then asks whether that is still well."""

    async def run() -> None:
        config = uvicorn_config(server.app)
        config.http, config.port, config.timeout_keep_alive = protocol, 0, keep_alive
        http = uvicorn.Server(config)
        serving = asyncio.create_task(http.serve())
        while not http.started:
            await asyncio.sleep(0)
        port = http.servers[0].sockets[0].getsockname()[1]
        try:
            for scene in (script, still_well):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    await asyncio.wait_for(scene(Client(reader, writer)), 20)
                finally:
                    writer.close()
        finally:
            http.should_exit = True
            await serving

    async def still_well(client: Client) -> None:
        await client.send(prompt(more=b"authorization: Bearer k\r\n"))
        status, body = await client.reply()
        assert (status, json.loads(body)) == (200, {"generated_text": "Hello"})

    asyncio.run(run())
    assert server.idle


def gets(data: bytes, status: int) -> Callable[[Client], Coroutine[Any, Any, None]]:
    """Sends bytes; expects a status and the end of the connection."""

    async def script(client: Client) -> None:
        try:
            await client.send(data)
        except ConnectionError:
            pass  # the server may hang up in the middle
        assert (await client.reply())[0] == status
        assert await client.closed()

    return script


def test_several_requests_share_a_connection(server):
    async def script(client: Client) -> None:
        for _ in range(3):
            await client.send(prompt())
            assert (await client.reply())[0] == 200
        await client.send(HEALTH + prompt() + HEALTH)  # pipelined
        assert [(await client.reply())[0] for _ in range(3)] == [200] * 3

    talk(server, script)


@pytest.mark.parametrize(
    "data",
    [
        b"GET /livez HTTP/1.1\r\nx: " + b"a" * 10**6,
        b"GET /livez HTTP/1.1\r\nx: " + b"a" * 10**6 + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"x%d: a\r\n" % i for i in range(10**4)) + b"\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"".join(b"x%d: a\r\n" % i for i in range(200)) + b"\r\n",
        b"GET /" + b"a" * 10**6,
        b"GET /livez?" + b"a" * (MAX_HEADER_BYTES + 1) + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"a" * 10**6,
    ],
    ids=["value", "whole value", "many", "too many", "path", "query", "name"],
)
def test_headers_are_bounded(server, data):
    talk(server, gets(data, 431))


def test_headers_of_usual_length_are_not(server):
    more = b"authorization: Bearer " + b"k" * 8000 + b"\r\ncookie: " + b"c" * 8000 + b"\r\n"

    async def script(client: Client) -> None:
        await client.send(prompt(more=more))
        assert (await client.reply())[0] == 200

    talk(server, script)


def test_headers_that_do_not_come_are_not_waited_for(server):
    async def script(client: Client) -> None:
        await client.send(b"GET /livez HTTP/1.1\r\n")
        assert await client.reply() == (408, b"")
        assert await client.closed()

    talk(server, script, Impatient)


def test_headers_that_drip_are_not_waited_for(server):
    async def script(client: Client) -> None:
        async def drip() -> None:
            while True:
                await client.send(b"x: y\r\n")
                await asyncio.sleep(0.02)

        await client.send(b"GET /livez HTTP/1.1\r\n")
        dripping = asyncio.create_task(drip())
        assert (await client.reply())[0] == 408
        dripping.cancel()

    talk(server, script, Impatient)


def test_a_silent_connection_is_closed_as_an_idle_one_is(server):
    async def script(client: Client) -> None:
        assert await client.closed()

    talk(server, script, keep_alive=1)


def test_the_bounds_end_where_the_body_begins(server):
    server.service.limits = ApiLimits(max_concurrent_requests=8)
    server.with_options()

    async def script(client: Client) -> None:
        # a long body, slower than headers may be
        request = prompt("x" * 90)
        await client.send(request[:-5])
        await asyncio.sleep(0.5)
        await client.send(request[-5:])
        assert (await client.reply())[0] == 200
        await client.send(prompt("y" * 10**6))
        assert (await client.reply())[0] == 422

    talk(server, script, Impatient)


@pytest.fixture
def hasty(server):
    """Waits a moment for a body, and takes a thousand bytes of it."""
    server.service.limits = ApiLimits(
        body_timeout_s=0.2, payload_limit=1000, max_concurrent_requests=8
    )
    return server.with_options()


def test_a_body_that_does_not_come_is_not_waited_for(hasty):
    talk(hasty, gets(prompt()[:-3], 408))
    talk(hasty, gets(CHUNKED + b"5\r\nabc", 408))
    assert len(hasty.engine.generations) == 2


def test_a_client_that_sends_far_too_much_hears_of_it(server):
    talk(server, gets(prompt("x" * 20_000_000), 413))


@pytest.mark.parametrize(
    "piece",
    [b"1\r\nx\r\n", b"1;" + b"e" * 100 + b"\r\nx\r\n"],
    ids=["chunks", "extensions"],
)
def test_a_chunked_body_without_an_end_has_an_end(hasty, piece):
    async def script(client: Client) -> None:
        # no more than the server reads before it hangs up: what is left would break the answer
        await client.send(CHUNKED + piece * 1001)
        assert (await client.reply())[0] == 413
        assert await client.closed()

    talk(hasty, script)


def test_a_chunk_extension_without_an_end_has_an_end(server):
    async def script(client: Client) -> None:
        await client.send(CHUNKED + b"1;")
        try:
            for _ in range(100):
                await client.send(b"e" * 10_000)
                await asyncio.sleep(0)
        except ConnectionError:
            pass
        await client.closed()

    talk(server, script)


@pytest.mark.parametrize(
    "data",
    [
        b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n"
        b"content-length: 5\r\n\r\n0\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 5x\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: " + b"9" * 30 + b"\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n",
        b"POST /generate HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"fffffffffffffffffff\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\r\n x: folded\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nhost: x\x00y\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"CONNECT evil.example:80 HTTP/1.1\r\nhost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_ambiguous_and_malformed_requests_are_refused(server, data):
    talk(server, gets(data, 400))


def test_a_length_that_lies_starts_nothing(server):
    async def short(client: Client) -> None:
        await client.send(prompt().replace(b"content-length: 15", b"content-length: 99"))
        client.writer.write_eof()
        client.writer.close()

    talk(server, short)
    assert len(server.engine.generations) == 1  # that of the good request afterwards


def test_http_1_0_is_answered_and_closed(server):
    talk(server, gets(HEALTH.replace(b"1.1", b"1.0"), 200))


@pytest.mark.parametrize("upgrade", [b"websocket", b"h2c"])
def test_an_upgrade_is_not_made_and_needs_a_key_too(server, upgrade):
    server.with_options(api_keys=("k",))

    async def script(client: Client) -> None:
        await client.send(
            b"GET /info HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: "
            + upgrade
            + b"\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"sec-websocket-version: 13\r\n\r\n"
        )
        assert (await client.reply())[0] == 401

    talk(server, script)


def test_an_absolute_uri_and_two_hosts_do_not_open_a_route(server):
    server.with_options(api_keys=("k",))

    async def script(client: Client) -> None:
        for head in (
            b"GET http://x/info HTTP/1.1\r\nhost: x\r\n",
            b"GET http://x/health?/info HTTP/1.1\r\nhost: x\r\n",
            b"GET /info HTTP/1.1\r\nhost: x/health?\r\n",
            b"GET /info HTTP/1.1\r\nhost: x\r\nhost: y/health\r\n",
            b"GET //livez HTTP/1.1\r\nhost: x\r\n",
            b"GET /livez/../info HTTP/1.1\r\nhost: x\r\n",
            b"GET /%69nfo HTTP/1.1\r\nhost: x\r\n",
        ):
            await client.send(head + b"\r\n")
            status, body = await client.reply()
            # the path of the second one is /health, and that is open
            assert status == (200 if b"?/info" in head else 401)
            assert body == b""

    talk(server, script)
