"""What clients that want vectors send and get. Fields that are not here are tolerated."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

import msgspec

from tgi_core.errors import ValidationError

T = TypeVar("T")


class EmbeddingsRequest(msgspec.Struct, kw_only=True):
    """Body of /v1/embeddings. A list of numbers is one text in tokens."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


class EmbedRequest(msgspec.Struct, kw_only=True):
    """Body of TEI's /embed."""

    inputs: str | list[str | int | list[int]]
    normalize: bool = True
    truncate: bool = False
    dimensions: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Embedding(msgspec.Struct, kw_only=True):
    """One vector of an answer."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    """Numbers, or float32 in base64, little-endian."""


class Usage(msgspec.Struct):
    """What it has cost."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(msgspec.Struct, kw_only=True):
    """Answer of /v1/embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class Error(msgspec.Struct):
    """Why there is no answer, for OpenAI's clients."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct):
    """Body of a failed /v1/embeddings."""

    error: Error


class TeiError(msgspec.Struct):
    """Body of a failed /embed."""

    error: str
    error_type: str


embeddings_decoder = msgspec.json.Decoder(EmbeddingsRequest)
embed_decoder = msgspec.json.Decoder(EmbedRequest)


def read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A body as a request.

    Raises:
        ValidationError: it is no JSON, or not what it should be.
    """
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as error:
        raise ValidationError(f"the body is not as expected: {error}") from error


def texts(field: str, given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """The texts that a field holds: one, several, or one or several in tokens.

    Raises:
        ValidationError: texts and the tokens of one are mixed.
    """
    if isinstance(given, str):
        return [given]
    tokens = [item for item in given if isinstance(item, int)]
    if not tokens:
        return [item for item in given if not isinstance(item, int)]
    if len(tokens) < len(given):
        raise ValidationError(f"`{field}` mixes tokens with texts: give lists of tokens, or texts")
    return [tokens]
