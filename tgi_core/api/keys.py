"""API keys: every request needs one, except to the routes that are listed as open.

Who has the same key is the same tenant; who has an administrator's may change the server. Decides
by method and path as the router sees them, never by the Host header; what no route matches needs a
key too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest
from re import Pattern

from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from tgi_core.api.errors import ErrorStyle, Forbidden, Unauthorized, openai_reply, tgi_reply
from tgi_core.api.exchange import send_whole
from tgi_core.api.operation import Access, Operation
from tgi_core.config.settings import Compat
from tgi_core.errors import TgiError
from tgi_core.observe.catalog import Refusal
from tgi_core.observe.refusals import Refusals


class KeyGuard:
    """Pure ASGI middleware."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Iterable[str],
        admin_keys: Iterable[str] = (),
        compat: Compat,
        operations: Iterable[Operation],
        refusals: Refusals,
    ) -> None:
        self._app = app
        self._refusals = refusals
        # of equal length, so that a comparison tells nothing of the key's
        self._digests = [sha256(key.encode()).digest() for key in keys]
        self._admins = [sha256(key.encode()).digest() for key in admin_keys]
        self._compat = compat
        operations = tuple(operations)
        # without keys for all, all but what changes the server is open
        self._open = _patterns(
            operation
            for operation in operations
            if operation.is_open(compat) or not (self._digests or operation.access is Access.ADMIN)
        )
        self._for_admins = _patterns(
            operation
            for operation in operations
            if self._admins and operation.access is Access.ADMIN
        )
        self._styles = {operation.path: operation.error_style(compat) for operation in operations}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or passes it on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        digest = _digest(scope["headers"])
        # all are compared, so that the time does not tell which one it was
        ours = any([compare_digest(digest, known) for known in self._digests])
        admin = any([compare_digest(digest, known) for known in self._admins])
        if ours or admin:
            scope.setdefault("state", {})["tenant"] = sha256(b"tenant " + digest).hexdigest()
            if not admin and _matches(self._for_admins, scope):
                await self._refuse(
                    Forbidden("This route needs a key of --admin-api-key."), scope, send
                )
                return
        elif not _matches(self._open, scope):
            words = "This server needs an API key: send `Authorization: Bearer KEY`."
            await self._refuse(Unauthorized(words), scope, send)
            return
        await self._app(scope, receive, send)

    async def _refuse(self, error: TgiError, scope: Scope, send: Send) -> None:
        self._refusals.refused(Refusal.KEY, scope)
        reply = self._style(scope["path"])(error)
        await send_whole(send, reply.body, reply.status, reply.headers)

    def _style(self, path: str) -> ErrorStyle:
        style = self._styles.get(path)
        if style is not None:
            return style
        openai = path.startswith("/v1/") and self._compat is Compat.OPENAI
        return openai_reply if openai else tgi_reply


_Patterns = list[tuple[str, Pattern[str]]]


def _patterns(operations: Iterable[Operation]) -> _Patterns:
    """The router's own, so that both see the same paths."""
    return [(operation.method, compile_path(operation.path)[0]) for operation in operations]


def _matches(patterns: _Patterns, scope: Scope) -> bool:
    method = scope.get("method")
    method = "GET" if method == "HEAD" else method
    return any(method == known and pattern.fullmatch(scope["path"]) for known, pattern in patterns)


def _digest(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Of the key that was given; no key's if none was."""
    given = _given(headers)
    return bytes(32) if given is None else sha256(given).digest()


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
