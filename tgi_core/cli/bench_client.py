"""The HTTP client of `tgi bench`: streamed completions, timed as they come off the socket.

Light on purpose, so that one core can receive more events than a server sends: a bare asyncio
protocol, one connection for each stream of requests, and no parsing of what need not be known.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import httptools

from tgi_core.cli.bench_sse import EventStream
from tgi_core.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    base: str
    """The URL up to and including `/v1`."""
    head: bytes
    """The request's head up to the value of Content-Length, which comes last."""

    @classmethod
    def parse(cls, url: str, api_key: str | None) -> Target:
        """From a server's URL, with or without `/v1`.

        Raises:
            UsageError: it is no http or https URL.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise UsageError(f"--url {url}: {error}.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"--url {url}: say http://HOST:PORT or https://HOST.")
        prefix = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        host = parts.netloc.rpartition("@")[2]
        lines = [
            f"POST {prefix}/completions HTTP/1.1",
            f"Host: {host}",
            "User-Agent: tgi-bench",
            "Accept: text/event-stream",
            "Content-Type: application/json",
            *([f"Authorization: Bearer {api_key}"] if api_key else []),
            "Content-Length: ",
        ]
        return cls(
            host=parts.hostname,
            port=port or (443 if parts.scheme == "https" else 80),
            tls=ssl.create_default_context() if parts.scheme == "https" else None,
            base=f"{parts.scheme}://{host}{prefix}",
            head="\r\n".join(lines).encode(),
        )


@dataclass(slots=True)
class Reply:
    """What came of one request. Times are readings of one clock, in seconds."""

    start_s: float = 0.0
    first_s: float | None = None
    """When the first event with text came."""
    last_s: float = 0.0
    """When the newest one came."""
    end_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    """Time between neighbouring events; events that came together share the time before them."""
    events: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str = ""
    """Empty if all went well."""

    @property
    def output_tokens(self) -> int:
        """As the server counts them; without its word, the events."""
        return self.events if self.completion_tokens is None else self.completion_tokens

    def count(self, events: int, now_s: float) -> None:
        """Notes events that came together."""
        if self.first_s is None:
            self.first_s = now_s
            self.gaps_s.extend([0.0] * (events - 1))
        else:
            self.gaps_s.extend([(now_s - self.last_s) / events] * events)
        self.last_s = now_s
        self.events += events


class Connection:
    """One request after another on one connection, which is opened again where necessary."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._wire: _Wire | None = None

    async def complete(self, body: bytes, timeout_s: float) -> Reply:
        """Sends one completion request and waits for the end of its answer.

        What goes wrong is told by the reply; nothing is raised.
        """
        reply = Reply(start_s=perf_counter())
        try:
            await asyncio.wait_for(self._exchange(body, reply), timeout_s)
        except asyncio.TimeoutError:
            reply.error = f"no end within {timeout_s:g} s"
            self.close()
        except OSError as error:
            reply.error = str(error) or type(error).__name__
        reply.end_s = perf_counter()
        return reply

    def close(self) -> None:
        """Closes the connection; an answer on its way is lost."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def _exchange(self, body: bytes, reply: Reply) -> None:
        request = b"%b%d\r\n\r\n%b" % (self._target.head, len(body), body)
        reply.start_s = perf_counter()
        if self._wire is not None and self._wire.open:
            await self._wire.send(request, reply)
            if self._wire.answered or not reply.error:
                return
            # the server may close an idle connection at any time, also just now
            reply.error = ""
        target, loop = self._target, asyncio.get_running_loop()
        _, self._wire = await loop.create_connection(
            _Wire, target.host, target.port, ssl=target.tls
        )
        reply.start_s = perf_counter()
        await self._wire.send(request, reply)


class _Wire(asyncio.Protocol):
    """One TCP connection. asyncio and httptools call the methods that begin with no underscore."""

    open = False
    _transport: asyncio.Transport
    _parser: httptools.HttpResponseParser
    _finished: asyncio.Future[None] | None = None

    def send(self, request: bytes, reply: Reply) -> asyncio.Future[None]:
        """Sends a request and fills in the reply; done when the answer is over."""
        self._reply = reply
        self._events = EventStream()
        self._pieces: list[bytes] = []
        self._refusal = b""
        self._status = 0
        self._complete = False
        self._finished = asyncio.get_running_loop().create_future()
        if self.open:
            self._transport.write(request)
        else:
            self._finish("the server closed the connection at once")
        return self._finished

    @property
    def answered(self) -> bool:
        """Whether a status line has come since the last request."""
        return self._status != 0

    def close(self) -> None:
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        if self._finished is None or self._finished.done():
            return
        if self._events.done:
            self._finish_message()
        else:
            self._finish(f"the connection was lost after {self._reply.events} events")

    def data_received(self, data: bytes) -> None:
        now_s = perf_counter()
        if self._finished is None or self._finished.done():
            self.close()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(f"the answer is not HTTP: {error}")
            self.close()
            return
        if self._pieces:
            body = b"".join(self._pieces)
            self._pieces.clear()
            if self._status != 200:
                self._refusal += body
            elif events := self._events.feed(body):
                self._reply.count(events, now_s)
        if self._complete:
            self._finish_message()

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)

    def on_message_complete(self) -> None:
        # what this read brought is still to be looked at
        self._complete = True
        if not self._parser.should_keep_alive():
            self.open = False
            self._transport.close()

    def _finish_message(self) -> None:
        self._reply.prompt_tokens = self._events.prompt_tokens
        self._reply.completion_tokens = self._events.completion_tokens
        if self._status != 200:
            text = self._refusal[:300].decode(errors="replace")
            self._finish(f"status {self._status}: {text}")
        elif self._events.error or self._events.done or self._events.finished:
            self._finish(self._events.error)
        else:
            self._finish(f"the stream ended after {self._reply.events} events without [DONE]")

    def _finish(self, error: str) -> None:
        if self._finished is not None and not self._finished.done():
            self._reply.error = error
            self._finished.set_result(None)
