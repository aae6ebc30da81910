"""From error classes to HTTP: one table of statuses and TGI's `error_type` strings.

Also the two bodies that an error has on the wire: TGI's, and OpenAI's under /v1.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

import msgspec

from tgi_core.errors import (
    BadAdapter,
    EngineError,
    EngineLost,
    GenerationError,
    IncompleteGeneration,
    NotReady,
    Overloaded,
    RequestError,
    TemplateError,
    TgiError,
    ToolError,
    ValidationError,
)
from tgi_core.observe.catalog import Cause

RETRY_AFTER_S = 1
"""What 429 and 503 ask a client to wait."""

_JSON = b"application/json"
_TEXT = b"text/plain; charset=utf-8"


class TooManyPrompts(ValidationError):
    """A completion request holds more prompts than one request may."""


class SuffixNotSupported(ValidationError):
    """A completion request has a suffix."""


class NoInstances(ValidationError):
    """A request of Vertex AI holds nothing to predict."""


class LengthMismatch(ValidationError):
    """A request of KServe has more inputs than outputs, or fewer."""


class NotUtf8(ValidationError):
    """A request of KServe holds bytes that are no text."""


class UnknownModel(RequestError):
    """No model of this name is served."""


class UnknownAdapter(RequestError):
    """No adapter of this name is loaded."""


class Unauthorized(RequestError):
    """The request has no API key, or none of this server's."""


class Forbidden(RequestError):
    """The key is right, and not one for administrators."""


class IncompleteStream(IncompleteGeneration):
    """What IncompleteGeneration is called inside a stream."""


class BadBody(Exception):
    """The body could not be turned into a request; found before any dialect looks at it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class OnWire:
    """How a class of errors appears on the wire."""

    status: int
    error_type: str
    failure: Cause
    """How it is counted."""
    text: str = "{}"
    """Holds the error's own message at {}."""


TABLE: dict[type[TgiError], OnWire] = {
    ValidationError: OnWire(422, "validation", Cause.VALIDATION, "Input validation error: {}"),
    TooManyPrompts: OnWire(422, "batch size exceeded", Cause.VALIDATION),
    SuffixNotSupported: OnWire(422, "suffix not supported", Cause.VALIDATION),
    TemplateError: OnWire(422, "template_error", Cause.TEMPLATE, "Template error: {}"),
    ToolError: OnWire(422, "tool_error", Cause.VALIDATION, "Tool error: {}"),
    NoInstances: OnWire(422, "Input validation error", Cause.VALIDATION),
    LengthMismatch: OnWire(422, "length mismatch", Cause.VALIDATION),
    NotUtf8: OnWire(422, "utf8", Cause.VALIDATION),
    BadAdapter: OnWire(422, "validation", Cause.VALIDATION, "The adapter cannot be used: {}"),
    UnknownAdapter: OnWire(404, "adapter_not_found", Cause.VALIDATION),
    UnknownModel: OnWire(404, "model_not_found", Cause.VALIDATION),
    Unauthorized: OnWire(401, "invalid_api_key", Cause.VALIDATION),
    Forbidden: OnWire(403, "permission_denied", Cause.VALIDATION),
    Overloaded: OnWire(429, "overloaded", Cause.OVERLOADED, "Model is overloaded"),
    RequestError: OnWire(422, "validation", Cause.VALIDATION, "Input validation error: {}"),
    GenerationError: OnWire(
        424, "generation", Cause.GENERATION, "Request failed during generation: {}"
    ),
    IncompleteGeneration: OnWire(
        500, "incomplete_generation", Cause.INCOMPLETE, "Incomplete generation"
    ),
    IncompleteStream: OnWire(
        500, "incomplete_generation_stream", Cause.INCOMPLETE, "Incomplete generation stream"
    ),
    EngineLost: OnWire(503, "healthcheck", Cause.GENERATION),
    NotReady: OnWire(503, "healthcheck", Cause.GENERATION),
    EngineError: OnWire(500, "incomplete_generation", Cause.INCOMPLETE, "Incomplete generation"),
    # anything else is ours, and its text is for the operator alone
    TgiError: OnWire(500, "incomplete_generation", Cause.INCOMPLETE, "Incomplete generation"),
}


class ErrorBody(msgspec.Struct):
    """TGI's error."""

    error: str
    error_type: str


class OpenAIError(msgspec.Struct, omit_defaults=True):
    """The inner object of OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str | None
    http_status_code: int = 0
    """In streams only, where TGI's clients look for it."""


class OpenAIErrorBody(msgspec.Struct):
    """OpenAI's error."""

    error: OpenAIError
    error_type: str | msgspec.UnsetType = msgspec.UNSET
    """Not OpenAI's: beside its object, where TGI's own clients look for the kind of error."""


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """A whole HTTP response that tells of an error."""

    status: int
    content_type: bytes
    body: bytes

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Content type, and what HTTP wants with this status."""
        headers = [(b"content-type", self.content_type)]
        match self.status:
            case 401:
                headers.append((b"www-authenticate", b"Bearer"))
            case 408 | 413:
                # the rest of the body may never come
                headers.append((b"connection", b"close"))
            case 429 | 503:
                headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
        return headers


class ErrorStyle(Protocol):
    """A dialect's way to report errors."""

    def __call__(self, error: TgiError | BadBody) -> ErrorReply:
        """The response for an error."""
        ...


def on_wire(error: TgiError) -> OnWire:
    """The nearest entry of the table among the classes of an error."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def tgi_body(error: TgiError) -> ErrorBody:
    """TGI's error object, also sent inside its streams."""
    wire = on_wire(error)
    return ErrorBody(wire.text.format(error), wire.error_type)


def in_stream(error: TgiError) -> TgiError:
    """The error as a stream tells of it."""
    return IncompleteStream(*error.args) if isinstance(error, IncompleteGeneration) else error


def tgi_reply(error: TgiError | BadBody) -> ErrorReply:
    """TGI's JSON error; plain text if the body was at fault, nothing if a key was missing."""
    if isinstance(error, BadBody):
        return ErrorReply(error.status, _TEXT, str(error).encode())
    if isinstance(error, Unauthorized):
        return ErrorReply(on_wire(error).status, _TEXT, b"")
    return ErrorReply(on_wire(error).status, _JSON, msgspec.json.encode(tgi_body(error)))


def openai_stream_body(error: TgiError) -> OpenAIErrorBody:
    """OpenAI's error object for the inside of a stream."""
    body = _openai_body(error)
    body.error.http_status_code = on_wire(error).status
    return body


def openai_reply(error: TgiError | BadBody) -> ErrorReply:
    """OpenAI's JSON error."""
    if isinstance(error, BadBody):
        kind, status = _openai_type(error.status), error.status
        body = OpenAIErrorBody(OpenAIError(str(error), kind, None, None))
    else:
        body, status = _openai_body(error), on_wire(error).status
    return ErrorReply(status, _JSON, msgspec.json.encode(body))


def _openai_body(error: TgiError) -> OpenAIErrorBody:
    wire = on_wire(error)
    return OpenAIErrorBody(
        OpenAIError(wire.text.format(error), _openai_type(wire.status), None, wire.error_type),
        wire.error_type,
    )


def _openai_type(status: int) -> str:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "rate_limit_error"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.FAILED_DEPENDENCY:
        return "server_error"
    return "invalid_request_error"
