"""/v1/models: the one model that is served."""

from __future__ import annotations

import msgspec

from tgi_core.api.exchange import Exchange
from tgi_core.api.service import Service


class ModelInfo(msgspec.Struct):
    """A model."""

    id: str
    object: str
    created: int
    owned_by: str


class ModelsInfo(msgspec.Struct):
    """Answer of /v1/models."""

    object: str
    data: list[ModelInfo]


class ModelRoutes:
    """The handlers; each answers one exchange."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def models(self, exchange: Exchange) -> None:
        """GET /v1/models."""
        name = self._service.ready_model().model_id
        await exchange.reply_json(ModelsInfo("list", [ModelInfo(name, "model", 0, name)]))
