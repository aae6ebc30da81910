"""Vertex AI's route: instances to predictions, each a prompt or a conversation."""

from __future__ import annotations

import msgspec

from tgi_core.api.clouds.vertex_schema import VertexGenerate, VertexRequest, VertexResponse
from tgi_core.api.clouds.whole_texts import whole_texts
from tgi_core.api.errors import BadBody, NoInstances
from tgi_core.api.exchange import Exchange
from tgi_core.api.generate.convert import whole_wishes
from tgi_core.api.generate.schema import GenerateRequest
from tgi_core.api.openai.chat_schema import ChatRequest
from tgi_core.api.openai.convert import chat_wishes
from tgi_core.api.openai.prompt import chat_prompt
from tgi_core.api.service import ServedModel, Service
from tgi_core.text.validate import Wishes

_decoder = msgspec.json.Decoder(VertexRequest)
_generate_decoder = msgspec.json.Decoder(VertexGenerate)
_chat_decoder = msgspec.json.Decoder(ChatRequest)


class VertexRoutes:
    """The handlers; each answers one exchange."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def predict(self, exchange: Exchange) -> None:
        """POST /vertex, and the route that Vertex AI itself names.

        Raises:
            NoInstances: there is nothing to predict.
        """
        request = await exchange.read(_decoder)
        if not request.instances:
            raise NoInstances("Input validation error")
        instances = [_instance(raw) for raw in request.instances]
        model = self._service.ready_model()
        wishes = [await _wishes(model, instance) for instance in instances]
        texts = await whole_texts(self._service, model, exchange, wishes)
        await exchange.reply_json(VertexResponse(texts))


def _instance(raw: msgspec.Raw) -> VertexGenerate | ChatRequest:
    for decoder in (_generate_decoder, _chat_decoder):
        try:
            return decoder.decode(raw)
        except msgspec.ValidationError:
            pass
    raise BadBody(
        422,
        "Failed to deserialize the JSON body into the target type: instances: "
        "data did not match any variant of untagged enum VertexInstance",
    )


async def _wishes(model: ServedModel, instance: VertexGenerate | ChatRequest) -> Wishes:
    if isinstance(instance, VertexGenerate):
        return whole_wishes(GenerateRequest(instance.inputs, instance.parameters), model)
    return chat_wishes(instance, await chat_prompt(model, instance))
