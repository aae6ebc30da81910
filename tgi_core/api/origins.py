"""Keeps web pages of strangers from using the server through the browser of its user.

A page that a browser has loaded from somewhere else can send requests here; the Origin header
tells. Programs that are no browsers send none, and pass. What a page may read without sending one
is the business of hosts.py.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from tgi_core.api.exchange import send_whole
from tgi_core.observe.catalog import Refusal
from tgi_core.observe.refusals import Refusals

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HARMLESS = ("GET", "HEAD", "OPTIONS")


class OriginGuard:
    """Pure ASGI middleware."""

    def __init__(
        self, app: ASGIApp, *, allowed: Collection[str], local: bool, refusals: Refusals
    ) -> None:
        """Of a `local` server only pages of this machine, and those `allowed`, are friends."""
        self._app = app
        self._refusals = refusals
        self._allowed = allowed
        self._local = local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or passes it on."""
        if scope.get("method") in (None, *_HARMLESS) or self._is_friend(scope):
            await self._app(scope, receive, send)
            return
        self._refusals.refused(Refusal.ORIGIN, scope)
        text = b"Pages of this origin may not call this server; see --cors-allow-origin."
        await send_whole(send, text, 403, [(b"content-type", b"text/plain; charset=utf-8")])

    def _is_friend(self, scope: Scope) -> bool:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = headers.get(b"origin", b"").decode("latin-1")
        if not origin or origin in self._allowed:
            return True
        try:
            url = urlsplit(origin)
            host = url.hostname
        except ValueError:
            return False
        if host in _LOOPBACK:
            return True
        if host is None or self._local:
            return False
        # a page that this server's own address delivered; only a public one can be told by name
        return url.netloc == headers.get(b"host", b"").decode("latin-1")
