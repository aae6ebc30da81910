"""What clients of the Messages API send. Fields that are not here are tolerated and ignored."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

import msgspec

from tgi_core.errors import ValidationError

T = TypeVar("T")

Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class Source(msgspec.Struct):
    """Where an image is: in `data`, as base64, or at an address."""

    type: str = ""
    media_type: str = ""
    data: str = ""
    url: str = ""


class Block(msgspec.Struct):
    """A part of a message. Which fields it has depends on its type."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    tool_use_id: str | None = None
    content: str | list[Block] | None = None
    source: Source | None = None


class InputMessage(msgspec.Struct):
    """One turn of the conversation."""

    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class Tool(msgspec.Struct):
    """A tool of the client; those of type other than custom are Anthropic's own."""

    name: str
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(msgspec.Struct):
    """Which tool may or must be used."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class OutputFormat(msgspec.Struct):
    """A schema that the answer must follow."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct):
    """How the answer must look."""

    format: OutputFormat | None = None


class Prompt(msgspec.Struct, kw_only=True):
    """Body of /v1/messages/count_tokens: all that the prompt is made of."""

    model: str
    messages: list[InputMessage]
    system: str | list[Block] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(Prompt, kw_only=True):
    """Body of /v1/messages."""

    max_tokens: Count
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None


_prompt = msgspec.json.Decoder(Prompt)
_request = msgspec.json.Decoder(MessagesRequest)


def read_prompt(body: bytes) -> Prompt:
    """The body of a request to count.

    Raises:
        ValidationError: it is no JSON, or not what it should be.
    """
    return _read(_prompt, body)


def read_request(body: bytes) -> MessagesRequest:
    """The body of a request to answer.

    Raises:
        ValidationError: it is no JSON, or not what it should be.
    """
    return _read(_request, body)


def _read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as error:
        raise ValidationError(f"the body is not as expected: {error}") from error
