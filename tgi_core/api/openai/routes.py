"""OpenAI's routes that generate: /v1/chat/completions and /v1/completions."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from tgi_core.api.choice import Choice, all_of
from tgi_core.api.exchange import Exchange, Header
from tgi_core.api.openai.answer import AnswerFormat, answer_format
from tgi_core.api.openai.chat import ChatChunks, chat_completion
from tgi_core.api.openai.chat import usage_event as chat_usage_event
from tgi_core.api.openai.chat_schema import ChatCompletion, ChatRequest
from tgi_core.api.openai.completion import CompletionChunks, completion, usage_event
from tgi_core.api.openai.completion_schema import Completion, CompletionRequest
from tgi_core.api.openai.convert import (
    Head,
    chat_head,
    chat_wishes,
    completion_head,
    completion_wishes,
    num_prompt_tokens,
)
from tgi_core.api.openai.echo import Echo, echo_of
from tgi_core.api.openai.manners import Manners
from tgi_core.api.openai.prompt import chat_prompt
from tgi_core.api.openai.sampling_schema import SamplingFields
from tgi_core.api.openai.stream import run_stream, send_pieces
from tgi_core.api.openai.tools import wanted_tools
from tgi_core.api.response_headers import stream_headers, whole_headers
from tgi_core.api.service import Clock, ServedModel, Service, maybe_in_thread, to_engine_requests
from tgi_core.api.sse import EventStream
from tgi_core.api.together import together
from tgi_core.text.validate import Wishes, check

_chat_decoder = msgspec.json.Decoder(ChatRequest)
_completion_decoder = msgspec.json.Decoder(CompletionRequest)


class OpenAIRoutes:
    """The handlers; each answers one exchange."""

    def __init__(self, service: Service, manners: Manners) -> None:
        self._service = service
        self._manners = manners

    async def chat(self, exchange: Exchange) -> None:
        """POST /v1/chat/completions."""
        clock = Clock()
        request = self._manners.chat_request(await exchange.read(_chat_decoder))
        model = self._service.ready_model()
        prompt = await chat_prompt(model, request)
        wishes = chat_wishes(request, prompt)
        answers = answer_format(model, wanted_tools(request), prompt.text)
        if answers.forced is not None:
            wishes = replace(wishes, grammar=answers.forced.grammar)
        head = chat_head(request, model.model_id, self._manners, self._service.fingerprint)
        if request.stream:
            events = self._events(exchange, model, len(prompt))
            await run_stream(
                exchange,
                events,
                self._manners,
                lambda: self._send_chat(exchange, answers, request, wishes, head, clock, events),
            )
        else:
            answer, headers = await exchange.while_connected(
                self._whole_chat(exchange, answers, request, wishes, head, clock, len(prompt))
            )
            await exchange.reply_json(answer, headers)

    async def completions(self, exchange: Exchange) -> None:
        """POST /v1/completions."""
        clock = Clock()
        request = self._manners.completion_request(await exchange.read(_completion_decoder))
        model = self._service.ready_model()
        wishes = completion_wishes(request, self._service.limits.max_client_batch_size)
        num_chars = sum(len(wish.prompt) for wish in wishes if isinstance(wish.prompt, str))
        head = completion_head(model.model_id, self._manners, self._service.fingerprint)
        if request.stream:
            events = self._events(exchange, model, num_chars)
            await run_stream(
                exchange,
                events,
                self._manners,
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
        answers: AnswerFormat,
        request: ChatRequest,
        wishes: Wishes,
        head: Head,
        clock: Clock,
        num_chars: int,
    ) -> tuple[ChatCompletion, list[Header]]:
        with ExitStack() as stack:
            [choices] = await self._open(stack, exchange, answers.model, [wishes], clock)
            results = await all_of(choices)
            return (
                chat_completion(head, request, answers, results),
                whole_headers(
                    answers.model, num_chars, clock, choices, num_prompt_tokens([choices])
                ),
            )

    async def _send_chat(
        self,
        exchange: Exchange,
        answers: AnswerFormat,
        request: ChatRequest,
        wishes: Wishes,
        head: Head,
        clock: Clock,
        events: EventStream,
    ) -> None:
        with ExitStack() as stack:
            [choices] = await self._open(stack, exchange, answers.model, [wishes], clock)
            await together(
                [
                    send_pieces(events, choice, ChatChunks(head, request, answers, index).of)
                    for index, choice in enumerate(choices)
                ]
            )
            if _include_usage(request):
                await events.send(chat_usage_event(head, choices))

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
            groups = await self._open(stack, exchange, model, wishes, clock)
            echoes = await _echoes(model, request, wishes)
            choices = [choice for group in groups for choice in group]
            results = await all_of(choices)
            size = wishes[0].num_choices
            grouped = [results[i : i + size] for i in range(0, len(results), size)]
            return (
                completion(head, request, model.tokenizer, grouped, echoes),
                whole_headers(model, num_chars, clock, choices, num_prompt_tokens(groups)),
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
            groups = await self._open(stack, exchange, model, wishes, clock)
            echoes = await _echoes(model, request, wishes)
            sending: list[Coroutine[Any, Any, None]] = []
            for place, group in enumerate(groups):
                echo = echoes[place] if echoes else None
                for choice in group:
                    chunks = CompletionChunks(head, request, model.tokenizer, len(sending), echo)
                    sending.append(send_pieces(events, choice, chunks.of))
            await together(sending)
            if _include_usage(request):
                await events.send(usage_event(head, request, groups))

    async def _open(
        self,
        stack: ExitStack,
        exchange: Exchange,
        model: ServedModel,
        wishes: Sequence[Wishes],
        clock: Clock,
    ) -> list[list[Choice]]:
        """Admits and submits all choices of each prompt; leaving `stack` gives them up."""
        for wish in wishes:
            check(wish, model.limits)
        stack.enter_context(
            self._service.admission.permits(sum(wish.num_choices for wish in wishes))
        )
        groups = [await to_engine_requests(model, wish, exchange.caller) for wish in wishes]
        clock.validated_now()
        stop_filter = self._manners.stop_filter
        return [
            [
                stack.enter_context(
                    Choice(self._service, model, request, wish.stop, stop_filter, exchange.record)
                )
                for request in group
            ]
            for group, wish in zip(groups, wishes, strict=True)
        ]

    def _events(self, exchange: Exchange, model: ServedModel, num_chars: int) -> EventStream:
        return EventStream(
            exchange, stream_headers(model, num_chars), self._service.limits.keep_alive_s
        )


async def _echoes(
    model: ServedModel, request: CompletionRequest, wishes: Sequence[Wishes]
) -> list[Echo]:
    """What is given back of each prompt; empty if nothing is."""
    if not request.echo:
        return []
    return [
        await maybe_in_thread(len(wish.prompt), partial(echo_of, model.tokenizer, wish.prompt))
        for wish in wishes
    ]


def _include_usage(request: SamplingFields) -> bool:
    return request.stream_options is not None and request.stream_options.include_usage
