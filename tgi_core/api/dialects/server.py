"""The ChatServer that a dialect's handler gets: core's own OpenAI routes, asked from inside.

Each call is an exchange with the route's handler that never touches a socket. So a dialect has all
that the route has, checked in the same way, and nothing of it is written twice. What this costs is
that each event is encoded and decoded once more, a few microseconds.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence

import msgspec
from starlette.types import Message, Scope

from tgi_core.api.dialects.schema import Choice, Chunk, Usage
from tgi_core.api.embeddings import embed
from tgi_core.api.exchange import Exchange, Handler
from tgi_core.api.openai.chat_schema import ChatRequest
from tgi_core.api.openai.prompt import chat_prompt
from tgi_core.api.openai.routes import OpenAIRoutes
from tgi_core.api.service import Service, maybe_in_thread
from tgi_core.contract import ChatDelta, Embedded, Failure, ModelCard, TokenUsage, ToolCallDelta
from tgi_core.observe.requests import CHAT, COMPLETIONS, EMBEDDINGS, RequestRecord
from tgi_core.text.plain import encode

_chunk_decoder = msgspec.json.Decoder(Chunk)
_chat_decoder = msgspec.json.Decoder(ChatRequest)
_encode = msgspec.json.Encoder().encode

_TEMPLATE_BYTES = 1024
"""More than templates add to a conversation."""


class FailedInside(Exception):
    """The route failed after its first event."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class RoutesChatServer:
    """Satisfies ChatServer. For one exchange; `close` ends whatever is going on."""

    def __init__(
        self, service: Service, routes: OpenAIRoutes, scope: Scope, record: RequestRecord
    ) -> None:
        self._service = service
        self._routes = routes
        # the content type of the outer request says nothing about the inner one
        headers = [(b"content-type", b"application/json"), *scope["headers"]]
        self._scope: Scope = {**scope, "headers": headers}
        self._record = record
        self._running: set[asyncio.Task[None]] = set()

    def models(self) -> Sequence[ModelCard]:
        """The one model that is served."""
        model = self._service.ready_model()
        return [
            ModelCard(
                name=model.model_id,
                revision=model.sha,
                max_prompt_tokens=model.limits.max_input_tokens,
                max_sequence_tokens=model.limits.max_total_tokens,
                chat_template=model.tokenizer.chat_template,
                generates=model.limits.generates,
                embedding_size=model.limits.embedding_size,
            )
        ]

    def chat(self, body: Mapping[str, object]) -> AsyncIterator[ChatDelta]:
        """Answers a body of /v1/chat/completions."""
        self._record.begin(CHAT)
        return self._deltas(self._routes.chat, body)

    def complete(self, body: Mapping[str, object]) -> AsyncIterator[ChatDelta]:
        """Continues the prompt of a body of /v1/completions."""
        self._record.begin(COMPLETIONS)
        return self._deltas(self._routes.completions, body)

    async def count_tokens(self, body: Mapping[str, object]) -> int:
        """Tokens of the prompt of a body of /v1/chat/completions."""
        request = await self._exchange(body, asyncio.Queue()).read(_chat_decoder)
        model = self._service.ready_model()
        prompt = await chat_prompt(model, request)
        tokens = await maybe_in_thread(
            len(prompt), lambda: encode(model.tokenizer, prompt, add_special_tokens=False)
        )
        return len(tokens)

    async def fit(self, body: Mapping[str, object], max_tokens: int) -> int:
        """`max_tokens`, or what the context has left; at least 1, which the route may refuse."""
        context = self._service.ready_model().limits.max_total_tokens
        # a token has at least one byte, so a short prompt need not be counted
        if len(_encode(body)) + _TEMPLATE_BYTES + max_tokens <= context:
            return max_tokens
        return max(1, min(max_tokens, context - await self.count_tokens(body)))

    async def embed(
        self, inputs: Sequence[str | Sequence[int]], *, truncate: bool = False
    ) -> Embedded:
        """The vectors of texts."""
        self._record.begin(EMBEDDINGS)
        caller = self._exchange({}, asyncio.Queue()).caller
        return await embed(self._service, inputs, self._record, caller, truncate=truncate)

    async def close(self) -> None:
        """Cancels what was asked for and is still being produced."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _deltas(
        self, handler: Handler, body: Mapping[str, object]
    ) -> AsyncIterator[ChatDelta]:
        wanted = {"include_usage": True, "continuous_usage_stats": True}
        # not bounded: the tokens wait here instead of in the engine's client
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        exchange = self._exchange({**body, "stream": True, "stream_options": wanted}, parts)

        async def produce() -> None:
            try:
                await handler(exchange)
            finally:
                parts.put_nowait(None)

        task = asyncio.create_task(produce())
        self._running.add(task)
        try:
            while (part := await parts.get()) is not None:
                for event in part.split(b"\n\n"):
                    if event.startswith(b"data: {"):
                        yield _delta(_chunk_decoder.decode(event[6:]))
            await task
        finally:
            self._running.discard(task)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _exchange(self, body: Mapping[str, object], parts: asyncio.Queue[bytes | None]) -> Exchange:
        """An exchange whose client has sent `body` and stays for as long as it is listened to."""
        content = iter([_encode(body)])

        async def receive() -> Message:
            for whole in content:
                return {"type": "http.request", "body": whole}
            await asyncio.get_running_loop().create_future()
            raise AssertionError("unreachable")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                parts.put_nowait(message["body"])

        # the outer request has passed the limit
        return Exchange(self._scope, receive, send, sys.maxsize, self._record)


def _delta(chunk: Chunk) -> ChatDelta:
    if chunk.error is not None:
        error = chunk.error
        raise FailedInside(
            Failure(status=error.http_status_code, error_type=error.code, message=error.message)
        )
    choice = chunk.choices[0] if chunk.choices else Choice()
    stop = choice.stop_reason
    return ChatDelta(
        text=choice.text or choice.delta.content or "",
        reasoning=choice.delta.reasoning_content or "",
        tool_calls=tuple(
            ToolCallDelta(
                index=call.index,
                id=call.id,
                name=call.function.name,
                arguments=call.function.arguments or "",
            )
            for call in choice.delta.tool_calls or ()
        ),
        finish_reason=choice.finish_reason,
        stop_string=stop if isinstance(stop, str) else None,
        usage=None if chunk.usage is None else _usage(chunk.usage),
    )


def _usage(usage: Usage) -> TokenUsage:
    return TokenUsage(
        prompt=usage.prompt_tokens,
        generated=usage.completion_tokens,
        cached=usage.prompt_tokens_details.cached_tokens,
    )
