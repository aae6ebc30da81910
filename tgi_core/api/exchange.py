"""Exchange: one HTTP request and its response on raw ASGI.

Reads the body within its limit, decodes it, notices when the client goes away, sends JSON. Knows
no route and no dialect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from starlette.types import Message, Receive, Scope, Send

from tgi_core.api.caller import Caller
from tgi_core.api.errors import BadBody, ErrorReply, ErrorStyle, on_wire
from tgi_core.errors import TgiError
from tgi_core.observe.catalog import Cause
from tgi_core.observe.requests import Observer, RequestRecord

T = TypeVar("T")

Header = tuple[bytes, bytes]

_MAX_DROPPED_BYTES = 64 << 20
"""Of a body that is too long."""


class ClientGone(Exception):
    """Nobody is there to answer."""


class _TooLong(Exception):
    """More bytes have come than may."""


class Exchange:
    """One request and its response."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        payload_limit: int,
        record: RequestRecord,
        body_timeout_s: float | None = None,
    ) -> None:
        """A body may have so many bytes, and take so long to arrive."""
        self.scope = scope
        self.send = send
        self.record = record
        """What is counted and measured of it."""
        self._receive = receive
        self._payload_limit = payload_limit
        self._body_timeout_s = body_timeout_s
        self._body: bytes | None = None
        self._more_body = True

    def header(self, name: bytes) -> str | None:
        """Value of a request header; `name` in lower case."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value, "latin-1")
        return None

    @property
    def caller(self) -> Caller:
        """Who asks."""
        tenant = self.scope.get("state", {}).get("tenant", "")
        return Caller(tenant=tenant, trace_parent=self.header(b"traceparent"))

    def asks(self, name: str) -> bool:
        """Whether the address has a parameter of this name, behind its question mark."""
        parameters = str(self.scope["query_string"], "latin-1").split("&")
        return any(parameter.partition("=")[0] == name for parameter in parameters)

    def path_part(self, name: str) -> str:
        """What stands in the path where the route has {name}."""
        return str(self.scope["path_params"][name])

    async def read(self, decoder: msgspec.json.Decoder[T]) -> T:
        """The body as a request; may be called again with another decoder.

        Raises:
            BadBody: wrong content type, too long, no JSON, or not what the decoder expects.
            ClientGone: the client left before it had sent everything.
        """
        media_type = (self.header(b"content-type") or "").partition(";")[0].strip().lower()
        if media_type != "application/json" and not (
            media_type.startswith("application/") and media_type.endswith("+json")
        ):
            raise BadBody(415, "Expected request with `Content-Type: application/json`")
        body = await self.read_body()
        try:
            return decoder.decode(body)
        except msgspec.ValidationError as error:
            raise BadBody(
                422,
                f"Failed to deserialize the JSON body into the target type: {_path_first(error)}",
            ) from error
        except RecursionError as error:
            raise BadBody(
                400, "Failed to parse the request body as JSON: nested too deeply"
            ) from error
        except ValueError as error:  # malformed JSON, or bytes that are not UTF-8
            raise BadBody(400, f"Failed to parse the request body as JSON: {error}") from error

    async def read_body(self) -> bytes:
        """The body as it came; may be called again.

        Raises:
            BadBody: it is too long, or takes too long.
            ClientGone: the client left before it had sent everything.
        """
        if self._body is None:
            try:
                self._body = await asyncio.wait_for(self._receive_all(), self._body_timeout_s)
            except asyncio.TimeoutError as error:
                raise BadBody(408, "The request body did not arrive in time") from error
            except _TooLong as error:
                await self._drop_rest()
                raise BadBody(
                    413, "Failed to buffer the request body: length limit exceeded"
                ) from error
        return self._body

    async def _receive_all(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while self._more_body:
            parts.append(await self._receive_part())
            size += len(parts[-1])
            if size > self._payload_limit:
                raise _TooLong
        return b"".join(parts)

    async def _drop_rest(self) -> None:
        """Within bounds: a client that still sends when it is hung up on misses the answer."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drop(_MAX_DROPPED_BYTES), self._body_timeout_s)

    async def _drop(self, num_bytes: int) -> None:
        while self._more_body and num_bytes > 0:
            num_bytes -= len(await self._receive_part())

    async def _receive_part(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        self._more_body = message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part

    async def while_connected(
        self,
        work: Coroutine[Any, Any, T],
        meanwhile: Callable[[], Awaitable[float]] | None = None,
    ) -> T:
        """Runs work, and cancels it as soon as the client goes away.

        Args:
            work: what the client waits for; the body has been read.
            meanwhile: called at once and again after as many seconds as it returns.

        Raises:
            ClientGone: the client went away; `work` has ended.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self._disconnect())
        try:
            while True:
                timeout = None if meanwhile is None else await meanwhile()
                await asyncio.wait(
                    (task, gone), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
                )
                if task.done():
                    return task.result()
                if gone.done():
                    raise ClientGone
        finally:
            task.cancel()
            gone.cancel()
            await asyncio.gather(task, gone, return_exceptions=True)

    async def _disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    def failed(self, error: TgiError | BadBody) -> None:
        """Notes what the client is told, also if it is told inside a stream."""
        if isinstance(error, BadBody):
            self.record.fail(Cause.VALIDATION, str(error))
        else:
            wire = on_wire(error)
            self.record.fail(wire.failure, wire.text.format(error))

    async def reply(
        self,
        body: bytes,
        status: int = 200,
        headers: Sequence[Header] = ((b"content-type", b"application/json"),),
    ) -> None:
        """Sends a whole response."""
        await send_whole(self.send, body, status, headers)

    async def reply_json(self, payload: object, headers: Sequence[Header] = ()) -> None:
        """Sends an object as JSON with status 200."""
        await self.reply(
            msgspec.json.encode(payload),
            headers=[(b"content-type", b"application/json"), *headers],
        )


def _path_first(error: msgspec.ValidationError) -> str:
    """`path: what is wrong`, as TGI's decoder has it."""
    what, _, where = str(error).replace(" - at `key` in `$", " - at `$").partition(" - at `$")
    what = what.replace("Object missing required field", "missing field")
    path = where.rstrip("`").lstrip(".")
    return f"{path}: {what}" if path else what


async def send_whole(send: Send, body: bytes, status: int, headers: Sequence[Header]) -> None:
    """Sends a whole response, its length included."""
    start: Message = {
        "type": "http.response.start",
        "status": status,
        "headers": [*headers, (b"content-length", b"%d" % len(body))],
    }
    await send(start)
    await send({"type": "http.response.body", "body": body})


Handler = Callable[[Exchange], Awaitable[None]]


class Endpoint:
    """An ASGI application for one route: a handler, and its dialect's way to report errors."""

    def __init__(
        self,
        handler: Handler,
        error_style: ErrorStyle,
        payload_limit: int,
        body_timeout_s: float,
        observer: Observer,
        operation: str | None = None,
    ) -> None:
        """`operation` names a request for generated text; None if the route may answer others."""
        self._handler = handler
        self._error_style = error_style
        self._payload_limit = payload_limit
        self._body_timeout_s = body_timeout_s
        self._observer = observer
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, and has it counted if it asks for generated text."""
        state = scope["state"]
        record = RequestRecord(self._observer.metrics, state["request_id"], state["span"])
        if self._operation is not None:
            record.begin(self._operation)
        try:
            exchange = Exchange(
                scope, receive, send, self._payload_limit, record, self._body_timeout_s
            )
            await self._answer(exchange)
        except BaseException:
            record.fail(Cause.INCOMPLETE, "interrupted")
            raise
        finally:
            self._observer.answered(record)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._handler(exchange)
        except (TgiError, BadBody) as error:
            exchange.failed(error)
            reply: ErrorReply = self._error_style(error)
            await exchange.reply(reply.body, reply.status, reply.headers)
        except ClientGone:
            exchange.record.fail(Cause.DROPPED, "the client went away")
