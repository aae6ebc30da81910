"""What clients of the Responses API send. Fields that are not here are tolerated and ignored."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from tgi_core.errors import ValidationError

Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Part(msgspec.Struct):
    """A part of an item's content."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None


class Item(msgspec.Struct):
    """An item of the conversation. Which fields it has depends on its type."""

    type: str = "message"
    role: str | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None


class Format(msgspec.Struct, omit_defaults=True):
    """What the text must be."""

    type: str
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextOptions(msgspec.Struct):
    """How the text must be."""

    format: Format | None = None


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """Body of /v1/responses, and of /v1/responses/input_tokens."""

    model: str | None = None
    input: str | list[Item] | None = None
    instructions: str | None = None
    max_output_tokens: Count | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    text: TextOptions | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    metadata: dict[str, str] | None = None
    reasoning: dict[str, Any] | None = None
    user: str | None = None
    previous_response_id: str | None = None
    top_logprobs: int | None = None
    background: bool | None = None
    conversation: Any = None
    prompt: Any = None


_decoder = msgspec.json.Decoder(ResponsesRequest)


def read_request(body: bytes) -> ResponsesRequest:
    """The body of a request.

    Raises:
        ValidationError: it is no JSON, or not what it should be.
    """
    try:
        return _decoder.decode(body)
    except (ValueError, RecursionError) as error:
        raise ValidationError(f"the body is not as expected: {error}") from error
