"""TGI's own routes that generate: /generate, /generate_stream and POST /."""

from __future__ import annotations

from contextlib import ExitStack

import msgspec

from tgi_core.api.choice import Choice, all_of
from tgi_core.api.exchange import Exchange, Header
from tgi_core.api.generate.convert import best, full_text_prefix, whole_response, whole_wishes
from tgi_core.api.generate.schema import (
    CompatGenerateRequest,
    GenerateRequest,
    GenerateResponse,
)
from tgi_core.api.generate.stream import stream
from tgi_core.api.response_headers import whole_headers
from tgi_core.api.service import Clock, ServedModel, Service, to_engine_requests
from tgi_core.text.stops import KeepStop
from tgi_core.text.validate import check_best_of

_generate_decoder = msgspec.json.Decoder(GenerateRequest)
_compat_decoder = msgspec.json.Decoder(CompatGenerateRequest)


class GenerateRoutes:
    """The handlers; each answers one exchange."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def generate(self, exchange: Exchange) -> None:
        """POST /generate."""
        clock = Clock()
        request = await exchange.read(_generate_decoder)
        model = self._service.ready_model()
        response, headers = await exchange.while_connected(
            self._whole(exchange, model, request, clock, full_text=False)
        )
        await exchange.reply_json(response, headers)

    async def generate_stream(self, exchange: Exchange) -> None:
        """POST /generate_stream."""
        request = await exchange.read(_generate_decoder)
        model = self._service.ready_model()
        await stream(self._service, model, exchange, request, full_text=False)

    async def root(self, exchange: Exchange) -> None:
        """POST /: what the hosted inference API of the hub looks like."""
        clock = Clock()
        request = await exchange.read(_compat_decoder)
        model = self._service.ready_model()
        full_text = model.pipeline_tag in (None, "text-generation")
        if request.stream:
            await stream(self._service, model, exchange, request, full_text=full_text)
            return
        response, headers = await exchange.while_connected(
            self._whole(exchange, model, request, clock, full_text=full_text)
        )
        await exchange.reply_json([response], headers)

    async def _whole(
        self,
        exchange: Exchange,
        model: ServedModel,
        request: GenerateRequest,
        clock: Clock,
        *,
        full_text: bool,
    ) -> tuple[GenerateResponse, list[Header]]:
        """Generates a whole text; `full_text` is the route's default of return_full_text."""
        wishes = whole_wishes(request, model)
        # before admission, as in TGI: a wish for too many is not an overload
        check_best_of(wishes, model.limits)
        with ExitStack() as stack:
            stack.enter_context(self._service.admission.permits(wishes.num_choices))
            requests = await to_engine_requests(model, wishes, exchange.caller)
            clock.validated_now()
            results = await all_of(
                [
                    stack.enter_context(
                        Choice(self._service, model, one, wishes.stop, KeepStop, exchange.record)
                    )
                    for one in requests
                ]
            )
            prefix = full_text_prefix(request, unsaid=full_text)
            return (
                whole_response(request, model.tokenizer, results, prefix),
                whole_headers(
                    model,
                    len(request.inputs),
                    clock,
                    [best(results).choice],
                    num_prompt_tokens=len(requests[0].prompt),
                ),
            )
