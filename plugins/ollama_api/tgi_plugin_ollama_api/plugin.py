"""The routes of Ollama's API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus

import msgspec

from tgi_core.contract import (
    ChatDelta,
    ChatServer,
    Dialect,
    Failure,
    HttpReply,
    HttpRequest,
    HttpStream,
    Route,
)
from tgi_core.plugin import hookimpl
from tgi_plugin_ollama_api.answer import Answer, now, whole
from tgi_plugin_ollama_api.embedding import embed, embeddings
from tgi_plugin_ollama_api.models import API_VERSION, Models, Version, listed, running, shown
from tgi_plugin_ollama_api.prompt import chat_body, generate_body, max_tokens
from tgi_plugin_ollama_api.schema import (
    Asked,
    Error,
    Line,
    chat_decoder,
    generate_decoder,
    read,
)

_STARTED = now()

_STATUSES: dict[int, int] = {
    HTTPStatus.UNPROCESSABLE_ENTITY: 400,
    HTTPStatus.FAILED_DEPENDENCY: 500,
}


async def chat(request: HttpRequest, server: ChatServer) -> HttpReply | HttpStream:
    """POST /api/chat."""
    asked = read(chat_decoder, request.body)
    answer = Answer(asked.model, chat=True)
    if not asked.messages:
        return _loaded(asked, answer, server)
    body = chat_body(asked)
    wanted = max_tokens(asked)
    if wanted is not None:
        body["max_tokens"] = await server.fit(body, wanted)
    return await _answered(asked, answer, server.chat(body))


async def generate(request: HttpRequest, server: ChatServer) -> HttpReply | HttpStream:
    """POST /api/generate."""
    asked = read(generate_decoder, request.body)
    answer = Answer(asked.model, chat=False)
    body = generate_body(asked)
    if not asked.prompt:
        return _loaded(asked, answer, server)
    if asked.raw:
        return await _answered(asked, answer, server.complete(body))
    wanted = max_tokens(asked)
    if wanted is not None:
        body["max_tokens"] = await server.fit(body, wanted)
    return await _answered(asked, answer, server.chat(body))


async def tags(request: HttpRequest, server: ChatServer) -> HttpReply:
    """GET /api/tags."""
    return _json(Models([listed(card, _STARTED) for card in server.models()]))


async def ps(request: HttpRequest, server: ChatServer) -> HttpReply:
    """GET /api/ps."""
    return _json(Models([running(card) for card in server.models()]))


async def show(request: HttpRequest, server: ChatServer) -> HttpReply:
    """POST /api/show. Whatever name is asked for, the model is the one that is served."""
    return _json(shown(server.models()[0], _STARTED))


async def version(request: HttpRequest, server: ChatServer) -> HttpReply:
    """GET /api/version."""
    return _json(Version(API_VERSION))


def failed(failure: Failure) -> HttpReply:
    """The answer to a request that failed."""
    status = _STATUSES.get(failure.status, failure.status)
    return HttpReply(body=msgspec.json.encode(Error(failure.message)), status=status)


def failed_in_stream(failure: Failure) -> bytes:
    """The last line of a stream that failed."""
    return msgspec.json.encode(Error(failure.message)) + b"\n"


def _loaded(asked: Asked, answer: Answer, server: ChatServer) -> HttpReply:
    """Without a question it is about loading the model, which is always there."""
    server.models()
    return _json(answer.loaded("unload" if asked.keep_alive == 0 else "load"))


async def _answered(
    asked: Asked, answer: Answer, deltas: AsyncIterator[ChatDelta]
) -> HttpReply | HttpStream:
    async def lines() -> AsyncGenerator[list[Line], None]:
        async for delta in deltas:
            yield answer.push(delta)
        yield answer.finish()

    async def parts() -> AsyncGenerator[bytes, None]:
        async for several in lines():
            if several:
                yield msgspec.json.Encoder().encode_lines(several)

    if asked.stream is None or asked.stream:
        return HttpStream(
            parts=parts(),
            failure=failed_in_stream,
            media_type="application/x-ndjson",
            # a space before the next object; clients would choke on an empty line
            keep_alive=b" ",
        )
    return _json(whole([line async for several in lines() for line in several]))


def _json(answer: object) -> HttpReply:
    return HttpReply(body=msgspec.json.encode(answer), media_type="application/json; charset=utf-8")


@hookimpl
def tgi_routes() -> list[Dialect]:
    """The dialect."""
    return [
        Dialect(
            name="ollama",
            contract=(1, 0),
            routes=[
                Route(method="POST", path="/api/chat", handler=chat),
                Route(method="POST", path="/api/generate", handler=generate),
                Route(method="POST", path="/api/embed", handler=embed),
                Route(method="POST", path="/api/embeddings", handler=embeddings),
                Route(method="GET", path="/api/tags", handler=tags),
                Route(method="GET", path="/api/ps", handler=ps),
                Route(method="POST", path="/api/show", handler=show),
                Route(method="GET", path="/api/version", handler=version),
            ],
            failure=failed,
        )
    ]
