"""Refuses requests that came by a name which may be anybody's, so that pages cannot read answers.

A page's owner can make the name of its host point to this machine ("DNS rebinding"). To the browser
the server is then part of that page, which may read whatever a GET answers, without any Origin
header. The Host header has the name, though. Who asks by an address, or by a name that no stranger
can own, passes.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from starlette.types import ASGIApp, Receive, Scope, Send

from tgi_core.api.exchange import send_whole
from tgi_core.observe.catalog import Refusal
from tgi_core.observe.refusals import Refusals

_NOBODYS = (".localhost", ".local", ".internal")
"""Ends of names that are never sold; host.docker.internal is one."""
_TEXT = (
    b"This server does not know itself by this name; see --allowed-host. Addresses, such as "
    b"127.0.0.1, always work."
)


class HostGuard:
    """Pure ASGI middleware."""

    def __init__(self, app: ASGIApp, *, allowed: Iterable[str], refusals: Refusals) -> None:
        """`allowed`: names besides those that are nobody's."""
        self._app = app
        self._allowed = frozenset(name.lower() for name in allowed)
        self._refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or passes it on."""
        if scope["type"] != "http" or all(map(self._is_ours, _hosts(scope))):
            await self._app(scope, receive, send)
            return
        self._refusals.refused(Refusal.HOST, scope)
        await send_whole(send, _TEXT, 403, [(b"content-type", b"text/plain; charset=utf-8")])

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host).lower().rstrip(".")
        # a name without a dot is known to a network of one's own alone
        if name in self._allowed or "." not in name or name.endswith(_NOBODYS):
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True


def _hosts(scope: Scope) -> list[str]:
    """All that are given; programs of HTTP/1.0 give none, and are no browsers."""
    return [str(value, "latin-1") for name, value in scope["headers"] if name == b"host"]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
