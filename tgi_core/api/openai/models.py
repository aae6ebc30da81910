"""/v1/models and /v1/models/{id}: the one model that is served."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi_core.api.errors import UnknownModel
from tgi_core.api.exchange import Exchange
from tgi_core.api.service import Service

_CODEX_ASKS = "client_version"
"""Sent by Codex alone; other clients take `models` beside `data` for a sign of other servers."""


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
        await exchange.reply_json(ModelsInfo("list", [self._info()], models))

    async def model(self, exchange: Exchange) -> None:
        """GET /v1/models/{id}.

        Raises:
            UnknownModel: another model is served.
        """
        info = self._info()
        if exchange.path_part("id") != info.id:
            raise UnknownModel(
                "No such model is served here; GET /v1/models names the one that is."
            )
        await exchange.reply_json(info)

    def _info(self) -> ModelInfo:
        name = self._service.ready_model().model_id
        return ModelInfo(name, "model", int(self._service.started), name)
