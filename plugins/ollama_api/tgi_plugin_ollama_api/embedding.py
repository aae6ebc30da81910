"""Ollama's two routes for vectors, the newer one and the older one."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated, Any

import msgspec

from tgi_core.contract import ChatServer, HttpReply, HttpRequest
from tgi_core.errors import ValidationError
from tgi_plugin_ollama_api.schema import read


class EmbedRequest(msgspec.Struct, kw_only=True):
    """Body of /api/embed."""

    model: str
    input: str | list[str] | None = None
    truncate: bool | None = None
    """None is true."""
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    """Body of /api/embeddings."""

    model: str
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: Any = None


class Embedded(msgspec.Struct, kw_only=True):
    """Answer of /api/embed."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    """Nanoseconds, like all durations."""
    load_duration: int = 0
    prompt_eval_count: int


class OneEmbedded(msgspec.Struct):
    """Answer of /api/embeddings."""

    embedding: list[float]


_embed_decoder = msgspec.json.Decoder(EmbedRequest)
_embeddings_decoder = msgspec.json.Decoder(EmbeddingsRequest)


async def embed(request: HttpRequest, server: ChatServer) -> HttpReply:
    """POST /api/embed: vectors of length 1. Without input it is about loading the model."""
    began = time.perf_counter_ns()
    asked = read(_embed_decoder, request.body)
    inputs = [asked.input] if isinstance(asked.input, str) else asked.input or []
    if not inputs or inputs == [""]:
        server.models()
        return _json(
            Embedded(model=asked.model, embeddings=[], total_duration=0, prompt_eval_count=0)
        )
    size = server.models()[0].embedding_size
    if asked.dimensions is not None and size is not None and asked.dimensions > size:
        raise ValidationError(f"`dimensions` must be at most {size}. Given: {asked.dimensions}")
    found = await server.embed(inputs, truncate=asked.truncate is not False)

    def answer() -> HttpReply:
        return _json(
            Embedded(
                model=asked.model,
                embeddings=found.unit(asked.dimensions).tolist(),
                total_duration=time.perf_counter_ns() - began,
                prompt_eval_count=found.num_tokens,
            )
        )

    # thousands of vectors take long to write
    return await asyncio.to_thread(answer)


async def embeddings(request: HttpRequest, server: ChatServer) -> HttpReply:
    """POST /api/embeddings: one vector, as the model made it."""
    asked = read(_embeddings_decoder, request.body)
    if not asked.prompt:
        server.models()
        return _json(OneEmbedded([]))
    found = await server.embed([asked.prompt], truncate=True)
    return _json(OneEmbedded(found.vectors[0].tolist()))


def _json(answer: object) -> HttpReply:
    return HttpReply(body=msgspec.json.encode(answer), media_type="application/json; charset=utf-8")
