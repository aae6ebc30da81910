"""API keys: every request needs one, except to the routes that are listed as open.

Decides by method and path as the router sees them, never by the Host header; what no route
matches needs a key too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from tgi_core.api.errors import ErrorReply, Unauthorized, openai_reply, tgi_reply
from tgi_core.api.exchange import send_whole
from tgi_core.api.operation import Operation
from tgi_core.config.settings import Compat
from tgi_core.observe.catalog import Refusal
from tgi_core.observe.refusals import Refusals


class KeyGuard:
    """Pure ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Iterable[str],
        compat: Compat,
        operations: Iterable[Operation],
        refusals: Refusals,
    ) -> None:
        self._app = app
        self._refusals = refusals
        # of equal length, so that a comparison tells nothing of the key's
        self._digests = [sha256(key.encode()).digest() for key in keys]
        self._compat = compat
        operations = tuple(operations)
        # the router's own patterns, so that both see the same paths
        self._open = [
            (operation.method, compile_path(operation.path)[0])
            for operation in operations
            if operation.is_open(compat)
        ]
        self._styles = {operation.path: operation.error_style(compat) for operation in operations}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or passes it on."""
        if scope["type"] == "lifespan" or self._is_open(scope) or self._has_key(scope["headers"]):
            await self._app(scope, receive, send)
            return
        self._refusals.refused(Refusal.KEY, scope)
        reply = self._refusal(scope["path"])
        await send_whole(send, reply.body, reply.status, reply.headers)

    def _is_open(self, scope: Scope) -> bool:
        method = scope.get("method")
        method = "GET" if method == "HEAD" else method
        return any(
            method == known and pattern.fullmatch(scope["path"]) for known, pattern in self._open
        )

    def _has_key(self, headers: Sequence[tuple[bytes, bytes]]) -> bool:
        given = _given(headers)
        if given is None:
            return False
        digest = sha256(given).digest()
        # all are compared, so that the time does not tell which one it was
        return any([compare_digest(digest, known) for known in self._digests])

    def _refusal(self, path: str) -> ErrorReply:
        style = self._styles.get(path)
        if style is None:
            openai = path.startswith("/v1/") and self._compat is Compat.OPENAI
            style = openai_reply if openai else tgi_reply
        return style(
            Unauthorized("This server needs an API key: send `Authorization: Bearer KEY`.")
        )


def _given(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The key of `Authorization: Bearer`, else that of `x-api-key`; None if either comes twice."""
    bearers = [value for name, value in headers if name == b"authorization"]
    plain = [value for name, value in headers if name == b"x-api-key"]
    if len(bearers) > 1 or len(plain) > 1:
        return None
    if bearers:
        scheme, _, key = bearers[0].partition(b" ")
        return key if scheme.lower() == b"bearer" else None
    return plain[0] if plain else None
