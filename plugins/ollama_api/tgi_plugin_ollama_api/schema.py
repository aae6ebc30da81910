"""What Ollama's clients send and get. Fields that are not here are tolerated and ignored."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from tgi_core.errors import ValidationError

T = TypeVar("T")


class Options(msgspec.Struct):
    """How to generate. Those about loading a model mean nothing here."""

    num_predict: int | None = None
    """0 or less is: as many as the context has left."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    seed: int | None = None
    stop: list[str] | str | None = None
    repeat_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None


class CalledFunction(msgspec.Struct):
    """What to call."""

    name: str
    arguments: dict[str, Any] = {}


class ToolCall(msgspec.Struct):
    """A call that the model wants, whole."""

    function: CalledFunction


class Message(msgspec.Struct, omit_defaults=True):
    """One turn of the conversation."""

    role: str
    content: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET
    tool_name: str | UnsetType = UNSET
    images: list[str] | None = None
    """Files in base64."""


class Asked(msgspec.Struct, kw_only=True):
    """What requests to generate have in common."""

    model: str
    stream: bool | None = None
    """None is true."""
    format: str | dict[str, Any] | None = None
    options: Options | None = None
    keep_alive: Any = None
    logprobs: bool | None = None


class ChatRequest(Asked, kw_only=True):
    """Body of /api/chat."""

    messages: list[Message] | None = None
    tools: list[dict[str, Any]] | None = None


class GenerateRequest(Asked, kw_only=True):
    """Body of /api/generate."""

    prompt: str | None = None
    system: str | None = None
    raw: bool | None = None
    suffix: str | None = None
    template: str | None = None
    context: list[int] | None = None
    images: list[str] | None = None
    """Files in base64."""


class Line(msgspec.Struct, kw_only=True):
    """A line of a stream, or a whole answer. A chat has a message, a completion a response."""

    model: str
    created_at: str
    message: Message | UnsetType = UNSET
    response: str | UnsetType = UNSET
    thinking: str | UnsetType = UNSET
    done: bool
    done_reason: str | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    """Durations are in nanoseconds."""
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET


class Error(msgspec.Struct):
    """Why there is no answer, or no more of it."""

    error: str


chat_decoder = msgspec.json.Decoder(ChatRequest)
generate_decoder = msgspec.json.Decoder(GenerateRequest)


def read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """A body as a request.

    Raises:
        ValidationError: it is no JSON, or not what it should be.
    """
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError) as error:
        raise ValidationError(f"the body is not as expected: {error}") from error
