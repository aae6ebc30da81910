"""Builds the HTTP application: routes from the table, and what stands before all of them."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HTTPRequest
from starlette.responses import Response
from starlette.routing import Route

from tgi_core.api.errors import openai_reply, tgi_reply
from tgi_core.api.exchange import Endpoint
from tgi_core.api.handlers import Handlers
from tgi_core.api.hosts import HostGuard
from tgi_core.api.keys import KeyGuard
from tgi_core.api.middleware import RequestId
from tgi_core.api.operation import Operation
from tgi_core.api.options import HttpOptions
from tgi_core.api.origins import OriginGuard
from tgi_core.api.service import Service
from tgi_core.api.table import operations
from tgi_core.config.settings import Compat
from tgi_core.contract import Dialect
from tgi_core.errors import TgiError

EXPOSED_HEADERS = ("x-request-id", "retry-after")
"""What pages of other origins may read, besides what browsers always let them read."""


def create_app(
    service: Service, dialects: Sequence[Dialect] = (), options: HttpOptions | None = None
) -> Starlette:
    """The application. It serves at once; until `service.model` is set most routes answer 503.

    Raises:
        PluginConflict: a dialect wants an address that core answers.
    """
    options = options or HttpOptions()
    listed = operations(options, dialects)
    handlers = Handlers(service, listed, options)

    def route(operation: Operation) -> Route:
        endpoint = Endpoint(
            operation.handler(handlers),
            operation.error_style(options.compat),
            service.limits.payload_limit,
            service.limits.body_timeout_s,
            service.observer,
            operation.counted_as,
        )
        return Route(operation.path, endpoint, methods=[operation.method])

    app = Starlette(
        routes=[route(operation) for operation in listed],
        middleware=_middleware(service, options, listed),
        exception_handlers={HTTPException: _empty, Exception: _Unexpected(options.compat)},
    )
    app.router.redirect_slashes = False
    return app


def _middleware(
    service: Service, options: HttpOptions, listed: tuple[Operation, ...]
) -> list[Middleware]:
    """From the outside in."""
    refusals = service.observer.metrics.refusals
    middleware = [Middleware(RequestId, traced=service.observer.exports)]
    if options.guards_host:
        middleware.append(Middleware(HostGuard, allowed=options.allowed_hosts, refusals=refusals))
    if options.allow_origins:
        # before the keys: a browser asks without one what it may send
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=options.allow_origins,
                allow_methods=("GET", "POST"),
                # nothing here works by cookies, so no header is a danger
                allow_headers=("*",),
                expose_headers=EXPOSED_HEADERS,
            )
        )
    if "*" not in options.allow_origins:
        middleware.append(
            Middleware(
                OriginGuard,
                allowed=options.allow_origins,
                local=options.local,
                refusals=refusals,
            )
        )
    if options.api_keys or options.admin_keys:
        middleware.append(
            Middleware(
                KeyGuard,
                keys=options.api_keys,
                admin_keys=options.admin_keys,
                compat=options.compat,
                operations=listed,
                refusals=refusals,
            )
        )
    return middleware


async def _empty(request: HTTPRequest, error: Exception) -> Response:
    """404 and 405 have no body, as in TGI."""
    assert isinstance(error, HTTPException)
    return Response(status_code=error.status_code, headers=error.headers)


class _Unexpected:
    """A fault of ours. The client learns no more than that; the server's log has the rest."""

    def __init__(self, compat: Compat) -> None:
        self._compat = compat

    async def __call__(self, request: HTTPRequest, error: Exception) -> Response:
        openai = self._compat is Compat.OPENAI and request.scope["path"].startswith(
            ("/v1/", "/openai/v1/")
        )
        reply = (openai_reply if openai else tgi_reply)(TgiError("internal error"))
        return Response(reply.body, reply.status, media_type="application/json")
