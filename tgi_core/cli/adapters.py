"""Finds and loads the adapters that the operator wants, before the server takes requests."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

from tgi_core.api.adapters import Adapters
from tgi_core.cli.daemon import in_daemon
from tgi_core.config.adapters import WantedAdapter
from tgi_core.errors import BadAdapter, BadModel, EngineError, RequestError, UsageError
from tgi_core.plugin.manager import Plugins

logger = logging.getLogger(__name__)


async def load_adapters(
    adapters: Adapters, wanted: Sequence[WantedAdapter], plugins: Plugins
) -> None:
    """Loads them one after the other.

    Raises:
        SetupError: one of them is not there, or cannot be used; a server without it would answer
            with the base model, or not at all.
    """
    for adapter in wanted:
        reference, revision = adapter.reference, adapter.revision
        files = await in_daemon(partial(plugins.model_source, reference, revision))
        try:
            await adapters.load(adapter.name, files.path)
        except BadAdapter as error:
            raise BadModel(f"the adapter {adapter.name} cannot be used: {error}.") from error
        except EngineError as error:
            raise BadModel(f"the adapter {adapter.name} could not be loaded: {error}.") from error
        except RequestError as error:
            raise UsageError(f"--lora-adapters {adapter.name}: {error}.") from error
        logger.info("loaded the adapter %s from %s", adapter.name, files.path)
