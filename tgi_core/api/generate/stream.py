"""A stream of TGI's events. Whatever goes wrong is an event too: the status is always 200."""

from __future__ import annotations

from tgi_core.api.choice import Choice
from tgi_core.api.errors import in_stream, tgi_body
from tgi_core.api.exchange import Exchange
from tgi_core.api.generate.convert import (
    full_text_prefix,
    stream_details,
    stream_response,
    stream_wishes,
)
from tgi_core.api.generate.schema import GenerateRequest
from tgi_core.api.response_headers import stream_headers
from tgi_core.api.service import ServedModel, Service, to_engine_requests
from tgi_core.api.sse import EventStream, event
from tgi_core.errors import TgiError
from tgi_core.observe.requests import GENERATE_STREAM
from tgi_core.text.stops import KeepStop


async def stream(
    service: Service,
    model: ServedModel,
    exchange: Exchange,
    request: GenerateRequest,
    *,
    full_text: bool,
) -> None:
    """Answers with one event a token; `full_text` is the route's default of return_full_text."""
    exchange.record.begin(GENERATE_STREAM)
    events = EventStream(
        exchange, stream_headers(model, len(request.inputs)), service.limits.keep_alive_s
    )

    async def work() -> None:
        try:
            await _generate(service, model, exchange, request, events, full_text)
        except TgiError as found:
            error = in_stream(found)
            exchange.failed(error)
            await events.send(event(tgi_body(error)))
        await events.close()

    await exchange.while_connected(work(), events.keep_alive)


async def _generate(
    service: Service,
    model: ServedModel,
    exchange: Exchange,
    request: GenerateRequest,
    events: EventStream,
    full_text: bool,
) -> None:
    wishes = stream_wishes(request, model)
    with service.admission.permits():
        [engine_request] = await to_engine_requests(model, wishes, exchange.caller)
        texts = [full_text_prefix(request, unsaid=full_text)]
        index = 0
        with Choice(
            service, model, engine_request, wishes.stop, KeepStop, exchange.record
        ) as choice:
            while choice.ending is None:
                pieces = await choice.next()
                body: list[bytes] = []
                for piece in pieces:
                    index += 1
                    texts.append(piece.shown)
                    last = None
                    if choice.ending is not None and piece is pieces[-1]:
                        details = stream_details(choice) if request.parameters.details else None
                        last = ("".join(texts), details)
                    body.append(event(stream_response(index, piece, model.tokenizer, last)))
                if body:
                    await events.send(b"".join(body))
