"""One TCP connection: uvicorn's, with bounds on what a client may send besides bodies.

uvicorn itself waits for ever for the headers of a request, and takes them at any length.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 65_536
"""Of the request line and all headers together, trailers too."""
MAX_HEADERS = 128


class _TooLarge(Exception):
    """Stops the parser."""


class Connection(HttpToolsProtocol):
    """Satisfies asyncio.Protocol; for `uvicorn.Config(http=...)`."""

    header_timeout_s = 30.0
    """From the first byte of a request to the end of its headers."""

    _num_unparsed = 0
    """Bytes since the parser last made something of them: unfinished headers, chunk extensions."""
    _num_header_bytes = 0
    _num_headers = 0
    _refused_with: HTTPStatus | None = None
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected; it may be silent as long as between two requests."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some bytes have come."""
        if not self._answering and self._timer is None:
            self._timer = self.loop.call_later(self.header_timeout_s, self._too_slow)
        self._num_unparsed += len(data)
        super().data_received(data)
        if self._num_unparsed > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._num_header_bytes = self._num_headers = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a chunked body."""
        self._num_headers += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A body follows, or nothing."""
        self._num_unparsed = 0
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._num_unparsed = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._num_unparsed = 0
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """What a stranger asks for in vain is no fault of the server's: uvicorn would warn."""

    def send_400_response(self, msg: str) -> None:
        """The parser has given up."""
        if self._refused_with is None:
            super().send_400_response(msg)
        else:
            self._refuse(self._refused_with)

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _count(self, num_bytes: int) -> None:
        self._num_unparsed = 0
        self._num_header_bytes += num_bytes
        if self._num_header_bytes > MAX_HEADER_BYTES or self._num_headers > MAX_HEADERS:
            self._refused_with = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            raise _TooLarge

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def _refuse(self, status: HTTPStatus) -> None:
        # nothing may be written into the middle of another answer
        if not self._answering:
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                % (status, status.phrase.encode())
            )
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
