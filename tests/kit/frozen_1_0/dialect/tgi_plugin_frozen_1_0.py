"""A dialect in plain text: a question goes in, the answer comes out while it is generated."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from tgi_core.contract import (
    ChatServer,
    Dialect,
    Failure,
    HttpReply,
    HttpRequest,
    HttpStream,
    Route,
)
from tgi_core.errors import ValidationError
from tgi_core.plugin import hookimpl

TEXT = "text/plain; charset=utf-8"


async def answer(request: HttpRequest, server: ChatServer) -> HttpStream:
    """POST /frozen-1-0."""
    deltas = server.chat(chat_body(request.body))

    async def parts() -> AsyncGenerator[bytes, None]:
        async for delta in deltas:
            if delta.text:
                yield delta.text.encode()

    return HttpStream(parts=parts(), failure=failed_in_stream, media_type=TEXT)


async def count(request: HttpRequest, server: ChatServer) -> HttpReply:
    """POST /frozen-1-0/count: how many tokens a question has, the chat template's included."""
    num_tokens = await server.count_tokens(chat_body(request.body))
    return HttpReply(body=f"{num_tokens}\n".encode(), media_type=TEXT)


def chat_body(question: bytes) -> dict[str, object]:
    """A question as a body of /v1/chat/completions."""
    try:
        text = question.decode()
    except UnicodeDecodeError as error:
        raise ValidationError("a question must be UTF-8") from error
    if not text.strip():
        raise ValidationError("ask something: the body is empty")
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 100}


def failed(failure: Failure) -> HttpReply:
    """The answer to a request that failed."""
    text = f"{failure.message}\n"
    return HttpReply(body=text.encode(), status=failure.status, media_type=TEXT)


def failed_in_stream(failure: Failure) -> bytes:
    """The end of an answer that failed after its beginning."""
    return f"\n[{failure.message}]\n".encode()


@hookimpl
def tgi_routes() -> list[Dialect]:
    """The dialect."""
    return [
        Dialect(
            name="frozen-1-0",
            contract=(1, 0),
            routes=[
                Route(method="POST", path="/frozen-1-0", handler=answer),
                Route(method="POST", path="/frozen-1-0/count", handler=count),
            ],
            failure=failed,
        )
    ]
