"""To test a dialect without a server: a chat server that plays a script, and a client.

Knows no dialect. Errors take the way that they take in the real server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np

from tgi_core.api.dialects.endpoint import failure_of
from tgi_core.contract import (
    ChatDelta,
    Dialect,
    Embedded,
    HttpReply,
    HttpRequest,
    HttpStream,
    ModelCard,
    TokenUsage,
)

EMBEDDING_SIZE = 4
CARD = ModelCard(
    name="org/model",
    revision="abc",
    max_prompt_tokens=1000,
    max_sequence_tokens=1024,
    chat_template="{{ messages }}",
    embedding_size=EMBEDDING_SIZE,
)
USAGE = TokenUsage(prompt=12, generated=5, cached=4)


@dataclass
class ScriptedChatServer:
    """Satisfies ChatServer. Every request is answered with the same deltas."""

    script: Sequence[ChatDelta | Exception] = ()
    """An exception is raised where it stands."""
    num_prompt_tokens: int = USAGE.prompt
    cards: Sequence[ModelCard] = (CARD,)
    chats: list[dict[str, object]] = field(default_factory=list)
    """The bodies that `chat` was given."""
    completions: list[dict[str, object]] = field(default_factory=list)
    counts: list[dict[str, object]] = field(default_factory=list)
    embedded: Embedded | Exception | None = None
    """What `embed` answers; by default ones."""
    embedded_inputs: list[tuple[list[str | list[int]], bool]] = field(default_factory=list)
    """What `embed` was given: inputs, and whether to truncate."""

    def models(self) -> Sequence[ModelCard]:
        """The cards."""
        return self.cards

    async def chat(self, body: Mapping[str, object]) -> AsyncIterator[ChatDelta]:
        """Plays the script."""
        self.chats.append(_as_sent(body))
        for item in self.script:
            if isinstance(item, Exception):
                raise item
            yield item

    async def complete(self, body: Mapping[str, object]) -> AsyncIterator[ChatDelta]:
        """Plays the script."""
        self.completions.append(_as_sent(body))
        for item in self.script:
            if isinstance(item, Exception):
                raise item
            yield item

    async def count_tokens(self, body: Mapping[str, object]) -> int:
        """The number of the script."""
        self.counts.append(_as_sent(body))
        return self.num_prompt_tokens

    async def fit(self, body: Mapping[str, object], max_tokens: int) -> int:
        """What the first card's context has left behind the scripted number."""
        room = self.cards[0].max_sequence_tokens - await self.count_tokens(body)
        return max(1, min(max_tokens, room))

    async def embed(
        self, inputs: Sequence[str | Sequence[int]], *, truncate: bool = False
    ) -> Embedded:
        """The script's vectors."""
        self.embedded_inputs.append(
            ([text if isinstance(text, str) else list(text) for text in inputs], truncate)
        )
        if isinstance(self.embedded, Exception):
            raise self.embedded
        ones = np.ones((len(inputs), EMBEDDING_SIZE), np.float32)
        return self.embedded or Embedded(vectors=ones, num_tokens=len(inputs))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a client gets."""

    status: int
    media_type: str
    headers: Mapping[str, str]
    parts: Sequence[bytes]
    """A whole reply is one part."""

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.parts)

    @property
    def json(self) -> dict[str, object]:
        """The body as an object."""
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found


def ask(
    dialect: Dialect,
    method: str,
    path: str,
    body: object = b"",
    *,
    server: ScriptedChatServer | None = None,
    headers: Mapping[str, str] | None = None,
    path_parameters: Mapping[str, str] | None = None,
) -> Answer:
    """One request to a route, from beginning to end.

    Args:
        dialect: whose route it is.
        method: of the request.
        path: the route's, as the dialect declares it.
        body: bytes, or an object that becomes JSON.
        server: what generates; by default one that says nothing.
        headers: of the request, names in lower case.
        path_parameters: what stands at the names in the path.
    """
    [route] = [r for r in dialect.routes if (r.method, r.path) == (method, path)]
    request = HttpRequest(
        path_parameters=path_parameters or {},
        headers=headers or {},
        body=body if isinstance(body, bytes) else json.dumps(body).encode(),
        request_id="the-request",
    )

    async def run() -> Answer:
        try:
            answer = await route.handler(request, server or ScriptedChatServer())
            if isinstance(answer, HttpStream):
                return await _streamed(answer)
        except Exception as error:
            answer = dialect.failure(failure_of(error, request.request_id))
        return _whole(answer)

    return asyncio.run(run())


def _whole(reply: HttpReply) -> Answer:
    return Answer(
        status=reply.status,
        media_type=reply.media_type,
        headers=reply.headers,
        parts=[reply.body],
    )


async def _streamed(stream: HttpStream) -> Answer:
    received: list[bytes] = []
    try:
        async with aclosing(stream.parts) as parts:
            async for part in parts:
                received.append(part)
    except Exception as error:
        if not received:
            raise
        received.append(stream.failure(failure_of(error, "the-request")))
    return Answer(status=200, media_type=stream.media_type, headers=stream.headers, parts=received)


def _as_sent(body: Mapping[str, object]) -> dict[str, object]:
    """What the body is as JSON: so it must be possible to make JSON of it."""
    sent = json.loads(json.dumps(body))
    assert isinstance(sent, dict)
    return sent
