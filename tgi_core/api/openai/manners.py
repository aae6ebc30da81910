"""Where TGI and OpenAI treat one request of /v1 differently: what this server does about it.

A server has one set of manners, chosen when it starts. The code that makes answers makes OpenAI's;
TGI's are made from these, here. So nothing else asks whom the client was made for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from tgi_core.api.errors import on_wire, openai_stream_body
from tgi_core.api.openai.chat_schema import (
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    Delta,
)
from tgi_core.api.openai.completion_schema import Completion, CompletionRequest
from tgi_core.api.openai.sampling_schema import StreamOptions, Usage
from tgi_core.config.settings import Compat
from tgi_core.errors import TgiError
from tgi_core.text.stops import CutStop, KeepStop

logger = logging.getLogger(__name__)

T = TypeVar("T")

_TGI_STREAM_STATUS = 422
"""TGI says so of every error inside a stream of /v1."""


def _as_it_is(thing: T) -> T:
    return thing


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """What is done to requests before they are understood, and to answers before they are sent."""

    stop_filter: Callable[[Sequence[str]], CutStop | KeepStop] = CutStop
    """Whether a stop string stays in the text."""
    streams_begin_at_once: bool = False
    """A stream has status 200 whatever happens, or that of an error before its first event."""
    stream_error: Callable[[TgiError], object] = openai_stream_body
    """What a stream says of an error."""
    chat_request: Callable[[ChatRequest], ChatRequest] = _as_it_is
    completion_request: Callable[[CompletionRequest], CompletionRequest] = _as_it_is
    chat: Callable[[ChatCompletion], ChatCompletion] = _as_it_is
    chat_chunk: Callable[[ChatChunk], ChatChunk] = _as_it_is
    completion: Callable[[Completion], Completion] = _as_it_is
    completion_chunk: Callable[[Completion], Completion] = _as_it_is


OPENAI = Manners()


class TgiStreamError(msgspec.Struct):
    """The inner object of an error in TGI's streams of /v1."""

    message: str
    http_status_code: int


class TgiStreamErrorBody(msgspec.Struct):
    """An error in TGI's streams of /v1."""

    error: TgiStreamError


def _stream_error(error: TgiError) -> TgiStreamErrorBody:
    text = on_wire(error).text.format(error)
    return TgiStreamErrorBody(TgiStreamError(text, _TGI_STREAM_STATUS))


def _chat_request(request: ChatRequest) -> ChatRequest:
    """TGI makes a repetition penalty of the presence penalty.

    What it takes and ignores, such as `n`, is done: nobody asks for what he does not want. Only of
    a list of biases nobody knows what it should do.
    """
    if isinstance(request.logit_bias, list):
        if request.logit_bias:
            logger.warning("`logit_bias` is a list, which has no meaning: ignored, as TGI does")
        request = replace(request, logit_bias=None)
    if request.presence_penalty is None:
        return request
    repetition = request.presence_penalty + 2.0
    return replace(request, presence_penalty=None, repetition_penalty=repetition)


def _completion_request(request: CompletionRequest) -> CompletionRequest:
    """The usage is wanted for the last chunk of each prompt, and not as a chunk of its own."""
    return replace(request, stream_options=StreamOptions(continuous_usage_stats=True))


def _chat(answer: ChatCompletion) -> ChatCompletion:
    choices = [
        replace(
            choice,
            finish_reason=_reason(choice.finish_reason, choice.stop_reason),
            stop_reason=msgspec.UNSET,
            logprobs=_logprobs(choice.logprobs),
        )
        for choice in answer.choices
    ]
    return replace(answer, id="", choices=choices, usage=_usage(answer.usage))


def _chat_chunk(chunk: ChatChunk) -> ChatChunk:
    choices = [_chunk_choice(choice) for choice in chunk.choices]
    usage = None if chunk.usage is None else _usage(chunk.usage)
    return replace(chunk, id="", choices=choices, usage=usage)


def _chunk_choice(choice: ChatChunkChoice) -> ChatChunkChoice:
    """TGI says with each chunk who speaks."""
    nothing_new = replace(choice.delta, role=None) == Delta()
    delta = replace(choice.delta, role="assistant")
    return replace(
        choice,
        delta=replace(delta, content="") if nothing_new else delta,
        logprobs=_logprobs(choice.logprobs),
        finish_reason=choice.finish_reason and _reason(choice.finish_reason, choice.stop_reason),
        stop_reason=msgspec.UNSET,
    )


def _completion(answer: Completion) -> Completion:
    choices = [
        replace(
            choice,
            finish_reason=choice.finish_reason
            and _reason(choice.finish_reason, choice.stop_reason),
            stop_reason=msgspec.UNSET,
        )
        for choice in answer.choices
    ]
    usage = _usage(answer.usage) if isinstance(answer.usage, Usage) else answer.usage
    return replace(answer, id="", choices=choices, usage=usage)


def _completion_chunk(chunk: Completion) -> Completion:
    """The last chunk of a prompt alone has usage; the reason is that of TGI's own routes."""
    chunk = _completion(chunk)
    [choice] = chunk.choices
    match choice.finish_reason:
        case None:
            choice = replace(choice, finish_reason="")
            return replace(chunk, choices=[choice], usage=msgspec.UNSET)
        case "stop":
            return replace(chunk, choices=[replace(choice, finish_reason="eos_token")])
        case _:
            return chunk


def _reason(reason: str, stop_string: str | msgspec.UnsetType) -> str:
    stopped = reason == "stop" and stop_string is not msgspec.UNSET
    return "stop_sequence" if stopped else reason


def _usage(usage: Usage) -> Usage:
    return replace(usage, prompt_tokens_details=msgspec.UNSET)


def _logprobs(logprobs: ChatLogprobs | None) -> ChatLogprobs | None:
    if logprobs is None:
        return None
    return ChatLogprobs(
        [
            replace(
                token,
                bytes=msgspec.UNSET,
                top_logprobs=[replace(top, bytes=msgspec.UNSET) for top in token.top_logprobs],
            )
            for token in logprobs.content
        ]
    )


TGI = Manners(
    stop_filter=KeepStop,
    streams_begin_at_once=True,
    stream_error=_stream_error,
    chat_request=_chat_request,
    completion_request=_completion_request,
    chat=_chat,
    chat_chunk=_chat_chunk,
    completion=_completion,
    completion_chunk=_completion_chunk,
)


def manners_of(compat: Compat) -> Manners:
    """The manners of a server."""
    match compat:
        case Compat.OPENAI:
            return OPENAI
        case Compat.TGI:
            return TGI
