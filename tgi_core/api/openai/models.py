"""/v1/models and /v1/models/{id}: the model that is served, and its adapters."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi_core.api.errors import UnknownModel
from tgi_core.api.exchange import Exchange
from tgi_core.api.service import Service

_CODEX_ASKS = "client_version"
"""Sent by Codex alone; other clients take `models` beside `data` for a sign of other servers."""


class Architecture(msgspec.Struct):
    """What a model takes and gives, in OpenRouter's words."""

    input_modalities: list[str]
    output_modalities: list[str]


class ModelInfo(msgspec.Struct):
    """A model."""

    id: str
    object: str
    created: int
    owned_by: str
    parent: str | msgspec.UnsetType = msgspec.UNSET
    """The model that an adapter is for, as vLLM has it."""
    architecture: Architecture | msgspec.UnsetType = msgspec.UNSET
    """Told of a model that takes more than text."""


class ModelsInfo(msgspec.Struct):
    """Answer of /v1/models."""

    object: str
    data: list[ModelInfo]
    models: list[Any] | msgspec.UnsetType = msgspec.UNSET
    """For OpenAI's Codex, which fails without it; empty, so that it describes models itself."""


class ModelRoutes:
    """The handlers; each answers one exchange."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def models(self, exchange: Exchange) -> None:
        """GET /v1/models."""
        codex = exchange.asks(_CODEX_ASKS)
        models: list[Any] | msgspec.UnsetType = [] if codex else msgspec.UNSET
        await exchange.reply_json(ModelsInfo("list", self._infos(), models))

    async def model(self, exchange: Exchange) -> None:
        """GET /v1/models/{id}.

        Raises:
            UnknownModel: another model is served.
        """
        wanted = exchange.path_part("id")
        for info in self._infos():
            if info.id == wanted:
                await exchange.reply_json(info)
                return
        raise UnknownModel("No such model is served here; GET /v1/models names those that are.")

    def _infos(self) -> list[ModelInfo]:
        """The model first, then its adapters."""
        model = self._service.ready_model()
        name, created = model.model_id, int(self._service.started)
        adapters = model.adapters.names if model.adapters is not None else ()
        takes: Architecture | msgspec.UnsetType = msgspec.UNSET
        if model.images is not None:
            takes = Architecture(["text", "image"], ["text"])
        return [
            ModelInfo(name, "model", created, name, architecture=takes),
            *(ModelInfo(adapter, "model", created, name, name, takes) for adapter in adapters),
        ]
