"""/v1/load_lora_adapter and /v1/unload_lora_adapter: adapters come and go while requests run.

The routes are vLLM's, with its fields and its words. They exist only if the operator named a
folder, and take nothing from anywhere else.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import msgspec

from tgi_core.api.adapters import Adapters, adapter_within
from tgi_core.api.exchange import Exchange, Header
from tgi_core.api.service import Service
from tgi_core.errors import ValidationError

logger = logging.getLogger(__name__)

_TEXT: tuple[Header, ...] = ((b"content-type", b"text/plain; charset=utf-8"),)


class LoadLora(msgspec.Struct):
    """Body of /v1/load_lora_adapter."""

    lora_name: str
    lora_path: str
    """A folder, as seen from --lora-folder or from the root of the file system."""


class UnloadLora(msgspec.Struct):
    """Body of /v1/unload_lora_adapter."""

    lora_name: str
    lora_int_id: int | None = None
    """Has no meaning here."""


_load_decoder = msgspec.json.Decoder(LoadLora)
_unload_decoder = msgspec.json.Decoder(UnloadLora)


class AdapterRoutes:
    """The handlers; each answers one exchange."""

    def __init__(self, service: Service, folder: Path | None) -> None:
        """Without a folder nothing can be loaded."""
        self._service = service
        self._folder = folder

    async def load(self, exchange: Exchange) -> None:
        """POST /v1/load_lora_adapter.

        Raises:
            ValidationError: the name or the path is wrong, or there are too many.
            BadAdapter: the files are no adapter for this model.
        """
        wanted = await exchange.read(_load_decoder)
        adapters = self._adapters()
        if self._folder is None:
            raise ValidationError("adapters cannot be loaded while this server runs")
        path = await asyncio.to_thread(adapter_within, self._folder, wanted.lora_path)
        await adapters.load(wanted.lora_name, path)
        logger.info("loaded the adapter %s from %s", wanted.lora_name, path)
        await self._say(exchange, f"LoRA adapter '{wanted.lora_name}' added")

    async def unload(self, exchange: Exchange) -> None:
        """POST /v1/unload_lora_adapter.

        Raises:
            UnknownAdapter: there is none of that name.
        """
        wanted = await exchange.read(_unload_decoder)
        self._adapters().unload(wanted.lora_name)
        logger.info("unloaded the adapter %s", wanted.lora_name)
        await self._say(exchange, f"LoRA adapter '{wanted.lora_name}' removed")

    def _adapters(self) -> Adapters:
        adapters = self._service.ready_model().adapters
        if adapters is None:
            raise ValidationError("the backend of this server holds no adapters")
        return adapters

    async def _say(self, exchange: Exchange, what: str) -> None:
        await exchange.reply(f"Success: {what} successfully.".encode(), headers=_TEXT)
