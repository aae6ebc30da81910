"""OpenAI's routes that generate: /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import msgspec

from tgi_core.api.choice import Choice
from tgi_core.api.exchange import Exchange, Header
from tgi_core.api.openai.chat import ChatChunks, chat_completion
from tgi_core.api.openai.chat_schema import ChatCompletion, ChatRequest
from tgi_core.api.openai.completion import CompletionChunks, completion, usage_event
from tgi_core.api.openai.completion_schema import Completion, CompletionRequest
from tgi_core.api.openai.convert import (
    Head,
    chat_head,
    chat_messages,
    chat_wishes,
    completion_head,
    completion_wishes,
)
from tgi_core.api.openai.sampling_schema import SamplingFields
from tgi_core.api.openai.stream import run_stream, send_pieces
from tgi_core.api.response_headers import stream_headers, whole_headers
from tgi_core.api.service import Clock, ServedModel, Service, maybe_in_thread, to_engine_request
from tgi_core.api.sse import EventStream
from tgi_core.api.together import together
from tgi_core.text.stops import CutStop
from tgi_core.text.validate import Wishes

_chat_decoder = msgspec.json.Decoder(ChatRequest)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)


class OpenAIRoutes:
    """The handlers; each answers one exchange."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def chat(self, exchange: Exchange) -> None:
        """POST /v1/chat/completions."""
        clock = Clock()
        request = await exchange.read(_chat_decoder)
        model = self._service.ready_model()
        messages = chat_messages(request)
        num_chars = sum(len(message.content) for message in messages)
        prompt = await maybe_in_thread(num_chars, lambda: model.template.render(messages))
        wishes = chat_wishes(request, prompt)
        head = chat_head(request, model.model_id)
        if request.stream:
            events = self._events(exchange, model, len(prompt))
            await run_stream(
                exchange,
                events,
                lambda: self._send_chat(exchange, model, request, wishes, head, clock, events),
            )
        else:
            answer, headers = await exchange.while_connected(
                self._whole_chat(exchange, model, request, wishes, head, clock, len(prompt))
            )
            await exchange.reply_json(answer, headers)

    async def completions(self, exchange: Exchange) -> None:
        """POST /v1/completions."""
        clock = Clock()
        request = await exchange.read(_completion_decoder)
        model = self._service.ready_model()
        wishes = completion_wishes(request, self._service.limits.max_client_batch_size)
        num_chars = sum(len(wish.prompt) for wish in wishes if isinstance(wish.prompt, str))
        head = completion_head(model.model_id)
        if request.stream:
            events = self._events(exchange, model, num_chars)
            await run_stream(
                exchange,
                events,
                lambda: self._send_completion(
                    exchange, model, request, wishes, head, clock, events
                ),
            )
        else:
            answer, headers = await exchange.while_connected(
                self._whole_completion(exchange, model, request, wishes, head, clock, num_chars)
            )
            await exchange.reply_json(answer, headers)

    async def _whole_chat(
        self,
        exchange: Exchange,
        model: ServedModel,
        request: ChatRequest,
        wishes: Wishes,
        head: Head,
        clock: Clock,
        num_chars: int,
    ) -> tuple[ChatCompletion, list[Header]]:
        with ExitStack() as stack:
            [choice] = await self._open(stack, exchange, model, [wishes], clock)
            pieces = await choice.all()
            return (
                chat_completion(head, request, model.tokenizer, choice, pieces),
                whole_headers(model, num_chars, clock, [choice]),
            )

    async def _send_chat(
        self,
        exchange: Exchange,
        model: ServedModel,
        request: ChatRequest,
        wishes: Wishes,
        head: Head,
        clock: Clock,
        events: EventStream,
    ) -> None:
        with ExitStack() as stack:
            [choice] = await self._open(stack, exchange, model, [wishes], clock)
            chunks = ChatChunks(head, request, model.tokenizer)
            await send_pieces(events, choice, chunks.of)
            if _include_usage(request):
                await events.send(chunks.usage(choice))

    async def _whole_completion(
        self,
        exchange: Exchange,
        model: ServedModel,
        request: CompletionRequest,
        wishes: Sequence[Wishes],
        head: Head,
        clock: Clock,
        num_chars: int,
    ) -> tuple[Completion, list[Header]]:
        with ExitStack() as stack:
            choices = await self._open(stack, exchange, model, wishes, clock)
            texts = await together([choice.all() for choice in choices])
            results = list(zip(choices, texts, strict=True))
            return (
                completion(head, request, model.tokenizer, results),
                whole_headers(model, num_chars, clock, choices),
            )

    async def _send_completion(
        self,
        exchange: Exchange,
        model: ServedModel,
        request: CompletionRequest,
        wishes: Sequence[Wishes],
        head: Head,
        clock: Clock,
        events: EventStream,
    ) -> None:
        with ExitStack() as stack:
            choices = await self._open(stack, exchange, model, wishes, clock)
            await together(
                [
                    send_pieces(
                        events,
                        choice,
                        CompletionChunks(head, request, model.tokenizer, index).of,
                    )
                    for index, choice in enumerate(choices)
                ]
            )
            if _include_usage(request):
                await events.send(usage_event(head, choices))

    async def _open(
        self,
        stack: ExitStack,
        exchange: Exchange,
        model: ServedModel,
        wishes: Sequence[Wishes],
        clock: Clock,
    ) -> list[Choice]:
        """Admits and submits all sequences of a request; leaving `stack` gives them up."""
        stack.enter_context(self._service.admission.permits(len(wishes)))
        trace_parent = exchange.header(b"traceparent")
        requests = [
            await to_engine_request(model, wish, trace_parent=trace_parent) for wish in wishes
        ]
        clock.validated_now()
        return [
            stack.enter_context(Choice(self._service, model, request, wish.stop, CutStop))
            for request, wish in zip(requests, wishes, strict=True)
        ]

    def _events(self, exchange: Exchange, model: ServedModel, num_chars: int) -> EventStream:
        return EventStream(
            exchange, stream_headers(model, num_chars), self._service.limits.keep_alive_s
        )


def _include_usage(request: SamplingFields) -> bool:
    return request.stream_options is not None and request.stream_options.include_usage
