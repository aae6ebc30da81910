"""What a dialect plugin is made of: its routes, what a route gets, and what it may answer.

A dialect turns its own requests into bodies of OpenAI's chat completions, which core answers like
any other, and turns the deltas back. So it never sees tokens, queues or the engine, and whatever
core's chat route learns works in every dialect at once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a request has no answer, or no more of it."""

    status: int
    """What TGI's own routes would answer: 422 for bad input, 429, 503 and so on."""
    error_type: str
    """TGI's word for it, such as "validation", "overloaded" or "generation"."""
    message: str
    """For the client; holds nothing that is not meant for it."""
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request whose body has been read, within the server's limit."""

    path_parameters: Mapping[str, str]
    """The values of `{name}` in the route's path."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    request_id: str
    """Also sent with the answer, as `x-request-id`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReply:
    """A whole answer."""

    body: bytes
    status: int = 200
    media_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpStream:
    """An answer that comes in parts. The status line leaves with the first of them.

    Until then an error is answered by `Dialect.failure`. When the client goes away, `parts` is
    cancelled and closed.
    """

    parts: AsyncGenerator[bytes, None]
    failure: Callable[[Failure], bytes]
    """The last part of a stream that fails after its first."""
    media_type: str = "text/event-stream"
    keep_alive: bytes = b""
    """What a reader of this stream skips; sent in long silences. Empty is nothing."""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUsage:
    """What a request has cost so far, in tokens."""

    prompt: int
    generated: int
    cached: int = 0
    """How many of the prompt's the prefix cache supplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A part of a tool call. Calls come one after the other."""

    index: int
    """Which call."""
    id: str | None = None
    """With the first part only."""
    name: str | None = None
    """With the first part only."""
    arguments: str = ""
    """The next characters of a JSON object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDelta:
    """What is new in an answer."""

    text: str = ""
    reasoning: str = ""
    """What a model that thinks aloud says before its answer."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    """OpenAI's word: "stop", "length", "tool_calls"; later deltas hold only usage."""
    stop_string: str | None = None
    """Which of the request's stop strings ended the text, if one did."""
    usage: TokenUsage | None = None
    """The last delta of an answer that has not failed has it; earlier ones may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """A model that is served."""

    name: str
    revision: str | None
    max_prompt_tokens: int
    max_sequence_tokens: int
    """Prompt and answer together."""
    chat_template: str | None
    generates: bool = True
    """False if it only embeds."""
    embedding_size: int | None = None
    """Numbers in a vector; None if it does not embed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Embedded:
    """The vectors of several texts."""

    vectors: NDArray[np.float32]
    """float32 (N, size), in the order of the texts. Not normalized."""
    num_tokens: int
    """What all texts had together."""

    def unit(self, dimensions: int | None = None) -> NDArray[np.float32]:
        """float32 (N, size): the vectors, or their first numbers, brought to length 1."""
        vectors = self.vectors[:, :dimensions].astype(np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: NDArray[np.float32] = (vectors / np.maximum(lengths, _TINY)).astype(np.float32)
        return unit


_TINY = 1e-12
"""Least length that is divided by: a vector of zeros stays one."""


class ChatServer(Protocol):
    """What generates and embeds. Made for one request: what goes on at its end is cancelled.

    Bodies are the JSON objects of OpenAI's API, as dictionaries; `stream` need not be said. Errors
    are those of `tgi_core.errors` and need not be caught: the dialect's `failure` tells of them.
    """

    def models(self) -> Sequence[ModelCard]:
        """The models that are served.

        Raises:
            NotReady: they are still being loaded.
        """
        ...

    def chat(self, body: Mapping[str, object]) -> AsyncIterator[ChatDelta]:
        """Answers a body of /v1/chat/completions."""
        ...

    def complete(self, body: Mapping[str, object]) -> AsyncIterator[ChatDelta]:
        """Continues the one prompt of a body of /v1/completions."""
        ...

    async def count_tokens(self, body: Mapping[str, object]) -> int:
        """How many tokens the prompt of a body of /v1/chat/completions has."""
        ...

    async def fit(self, body: Mapping[str, object], max_tokens: int) -> int:
        """`max_tokens`, or how many the context has left if those are fewer; at least 1.

        For dialects in which it is an upper limit. The chat route refuses what does not fit.
        """
        ...

    async def embed(
        self, inputs: Sequence[str | Sequence[int]], *, truncate: bool = False
    ) -> Embedded:
        """The vectors of texts; a text may also be given as tokens, to which nothing is added.

        Args:
            inputs: at least one; each has at least one token.
            truncate: cut what is too long behind its first tokens, instead of refusing it.

        Raises:
            ValidationError: the model does not embed, or an input is empty or too long.
        """
        ...


Handler = Callable[[HttpRequest, ChatServer], Coroutine[Any, Any, HttpReply | HttpStream]]
"""Answers one request. Cancelled when the client goes away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One address of a dialect."""

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    """Such as "/v1/responses/{id}"."""
    handler: Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A flavour of HTTP API: routes, and how errors look in it."""

    name: str
    contract: tuple[int, int]
    """The version of the contract that it was written for."""
    routes: Sequence[Route]
    failure: Callable[[Failure], HttpReply]
    """The answer to a request that failed before anything was sent; may choose the status."""
