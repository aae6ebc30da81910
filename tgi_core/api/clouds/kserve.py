"""KServe's v2 protocol. Whatever model the path names, the one that is served answers."""

from __future__ import annotations

import msgspec

from tgi_core import __version__
from tgi_core.api.clouds.kserve_schema import (
    InferRequest,
    InferResponse,
    Input,
    Live,
    ModelMetadata,
    Output,
    ServerMetadata,
)
from tgi_core.api.clouds.whole_texts import whole_texts
from tgi_core.api.errors import LengthMismatch, NotUtf8
from tgi_core.api.exchange import Exchange
from tgi_core.api.generate.convert import whole_wishes
from tgi_core.api.generate.schema import GenerateRequest
from tgi_core.api.service import Service
from tgi_core.errors import NotReady

_decoder = msgspec.json.Decoder(InferRequest)


class KServeRoutes:
    """The handlers; each answers one exchange."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def server(self, exchange: Exchange) -> None:
        """GET /v2."""
        await exchange.reply_json(
            ServerMetadata(
                # KServe's clients tell TGI by this name
                "text-generation-inference",
                __version__,
                ["health", "models", "metrics"],
            )
        )

    async def live(self, exchange: Exchange) -> None:
        """GET /v2/health/live."""
        await exchange.reply_json(Live(True))

    async def ready(self, exchange: Exchange) -> None:
        """GET /v2/health/ready, and the readiness of a model.

        Raises:
            NotReady: it is loading or about to end.
        """
        if not self._service.ready:
            raise NotReady("unhealthy")
        await exchange.reply_json(Live(True))

    async def model(self, exchange: Exchange) -> None:
        """GET /v2/models/{model}, with or without a version."""
        parts = exchange.scope["path_params"]
        await exchange.reply_json(
            ModelMetadata(parts["model"], parts.get("version", ""), ["infer", "ready"])
        )

    async def infer(self, exchange: Exchange) -> None:
        """POST to the infer route.

        Raises:
            LengthMismatch: not every input has an output.
            NotUtf8: an input is no text.
        """
        request = await exchange.read(_decoder)
        if len(request.inputs) != len(request.outputs):
            raise LengthMismatch("Inputs and outputs length mismatch")
        prompts = [_text(tensor) for tensor in request.inputs]
        model = self._service.ready_model()
        wishes = [
            whole_wishes(GenerateRequest(prompt, request.parameters), model) for prompt in prompts
        ]
        texts = await whole_texts(self._service, model, exchange, wishes)
        outputs = [
            Output(output.name, [1, len(data)], "BYTES", list(data))
            for output, data in zip(request.outputs, map(str.encode, texts), strict=True)
        ]
        await exchange.reply_json(InferResponse(request.id, outputs))


def _text(tensor: Input) -> str:
    try:
        return bytes(tensor.data).decode()
    except UnicodeDecodeError as error:
        raise NotUtf8(f"invalid utf-8 sequence from index {error.start}") from error
