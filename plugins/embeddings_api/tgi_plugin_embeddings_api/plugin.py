"""The routes: OpenAI's /v1/embeddings and TEI's /embed."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from http import HTTPStatus
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import ChatServer, Dialect, Failure, HttpReply, HttpRequest, Route
from tgi_core.errors import ValidationError
from tgi_core.plugin import hookimpl
from tgi_plugin_embeddings_api.schema import (
    Embedding,
    EmbeddingList,
    Error,
    ErrorBody,
    TeiError,
    Usage,
    embed_decoder,
    embeddings_decoder,
    read,
    texts,
)

_STATUSES: dict[int, int] = {
    HTTPStatus.UNPROCESSABLE_ENTITY: 400,
    HTTPStatus.FAILED_DEPENDENCY: 500,
}

_TEI_TYPES = {429: "overloaded", 503: "unhealthy", 500: "backend"}
"""TEI's words; what is wrong with a request is "Validation"."""


async def embeddings(request: HttpRequest, server: ChatServer) -> HttpReply:
    """POST /v1/embeddings. Vectors have length 1, as OpenAI's."""
    asked = read(embeddings_decoder, request.body)
    inputs = texts("input", asked.input)
    _check_dimensions(asked.dimensions, server)
    embedded = await server.embed(inputs)
    model = asked.model or server.models()[0].name

    def answer() -> bytes:
        vectors = embedded.unit(asked.dimensions)
        data = [
            Embedding(index=index, embedding=_written(vector, asked.encoding_format))
            for index, vector in enumerate(vectors)
        ]
        usage = Usage(embedded.num_tokens, embedded.num_tokens)
        return msgspec.json.encode(EmbeddingList(data=data, model=model, usage=usage))

    # thousands of vectors take long to write
    return HttpReply(body=await asyncio.to_thread(answer))


async def embed(request: HttpRequest, server: ChatServer) -> HttpReply:
    """POST /embed."""
    asked = read(embed_decoder, request.body)
    inputs = texts("inputs", asked.inputs)
    _check_dimensions(asked.dimensions, server)
    embedded = await server.embed(inputs, truncate=asked.truncate)

    def answer() -> bytes:
        if asked.normalize:
            return msgspec.json.encode(embedded.unit(asked.dimensions).tolist())
        return msgspec.json.encode(embedded.vectors[:, : asked.dimensions].tolist())

    return HttpReply(body=await asyncio.to_thread(answer))


def openai_failure(failure: Failure) -> HttpReply:
    """OpenAI calls bad input 400, whatever is bad about it."""
    status = _STATUSES.get(failure.status, failure.status)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "rate_limit_error"
    error = Error(failure.message, kind, code=failure.error_type)
    return HttpReply(body=msgspec.json.encode(ErrorBody(error)), status=status)


def tei_failure(failure: Failure) -> HttpReply:
    """TEI's statuses for bad input are TGI's."""
    kind = _TEI_TYPES.get(failure.status, "Validation" if failure.status < 424 else "backend")
    body = msgspec.json.encode(TeiError(failure.message, kind))
    return HttpReply(body=body, status=failure.status)


def _check_dimensions(wanted: int | None, server: ChatServer) -> None:
    size = server.models()[0].embedding_size
    if wanted is not None and size is not None and wanted > size:
        raise ValidationError(
            f"`dimensions` must be at most {size}, the size of this model's vectors. "
            f"Given: {wanted}"
        )


def _written(
    vector: NDArray[np.float32], encoding: Literal["float", "base64"]
) -> list[float] | str:
    match encoding:
        case "float":
            numbers: list[float] = vector.tolist()
            return numbers
        case "base64":
            return b64encode(vector.astype("<f4").tobytes()).decode()


@hookimpl
def tgi_routes() -> list[Dialect]:
    """The dialects."""
    return [
        Dialect(
            name="openai-embeddings",
            contract=(1, 0),
            routes=[Route(method="POST", path="/v1/embeddings", handler=embeddings)],
            failure=openai_failure,
        ),
        Dialect(
            name="tei",
            contract=(1, 0),
            routes=[Route(method="POST", path="/embed", handler=embed)],
            failure=tei_failure,
        ),
    ]
