"""Vectors of several texts from the engine, for whichever dialect asks. Knows nothing of HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tgi_core.api.caller import Caller
from tgi_core.api.service import ServedModel, Service, maybe_in_thread
from tgi_core.api.together import together
from tgi_core.contract import Embedded, PromptEmbedded, Request, RequestFailed, RequestStarted
from tgi_core.errors import GenerationError, IncompleteGeneration, ValidationError
from tgi_core.observe.requests import RequestRecord
from tgi_core.text.embedding import check_embeds, embedding_request, prompt_of

MAX_INPUTS = 2048
"""Texts in one request: OpenAI's own limit."""

_AT_ONCE = 32
"""Texts of one request that the engine has at a time: the others wait here, so that a request of
two thousand texts does not stand before everybody else's in the engine's queue."""


async def embed(
    service: Service,
    inputs: Sequence[str | Sequence[int]],
    record: RequestRecord,
    caller: Caller,
    *,
    truncate: bool,
) -> Embedded:
    """The vectors of all inputs; takes one permit, however many there are.

    Raises:
        ValidationError: the model does not embed, or something about an input is out of limits.
        Overloaded: there are too many requests at once.
        GenerationError: the model or its backend failed.
        EngineLost: there is no engine any more.
    """
    model = service.ready_model()
    check_embeds(model.limits)
    if not inputs:
        raise ValidationError("`input` cannot be empty")
    if len(inputs) > MAX_INPUTS:
        raise ValidationError(f"`input` may hold at most {MAX_INPUTS} texts. Given: {len(inputs)}")
    with service.admission.permits():
        prompts = await _prompts(model, inputs, truncate=truncate)
        engine_has_room = asyncio.Semaphore(_AT_ONCE)

        async def one(prompt: Sequence[int]) -> NDArray[np.float32]:
            async with engine_has_room:
                request = embedding_request(
                    prompt,
                    request_id=uuid4().hex,
                    cache_salt=caller.cache_salt(None),
                    trace_parent=caller.trace_parent,
                )
                return await _vector(service, request, record)

        vectors = await together([one(prompt) for prompt in prompts])
    return Embedded(vectors=np.stack(vectors), num_tokens=sum(map(len, prompts)))


async def _prompts(
    model: ServedModel, inputs: Sequence[str | Sequence[int]], *, truncate: bool
) -> list[list[int]]:
    return await maybe_in_thread(
        sum(map(len, inputs)),
        lambda: [
            prompt_of(text, model.tokenizer, model.limits, truncate=truncate) for text in inputs
        ],
    )


async def _vector(service: Service, request: Request, record: RequestRecord) -> NDArray[np.float32]:
    generation = service.engine.submit(request)
    sequence = record.sequence(request)
    try:
        while events := await generation.next():
            for event in events:
                match event:
                    case RequestStarted():
                        sequence.left_queue(event.queue_s, event.num_cached)
                    case RequestFailed():
                        raise (ValidationError if event.invalid else GenerationError)(event.message)
                    case PromptEmbedded():
                        sequence.ended()
                        return np.frombuffer(event.vector, "<f4")
        raise IncompleteGeneration("the engine sent nothing")
    finally:
        generation.cancel()
