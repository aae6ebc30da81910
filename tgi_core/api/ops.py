"""Routes for operators: probes, /info and /metrics. None of them waits for the engine."""

from __future__ import annotations

import msgspec

from tgi_core import __version__
from tgi_core.api.errors import ErrorBody
from tgi_core.api.exchange import Exchange
from tgi_core.api.service import Service
from tgi_core.observe.exposition import CONTENT_TYPE
from tgi_core.observe.metrics import EngineState
from tgi_core.plugin.report import ConformanceReport


class Conformance(msgspec.Struct):
    """What the report says that came with the backend."""

    level: str
    date: str
    version: str
    """Of the backend's distribution when it was examined."""
    device: str
    simulator: str | None
    """What stood in for the device; None if it was there."""


class Info(msgspec.Struct):
    """Answer of /info; the order of fields is TGI's."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None
    docker_label: str | None
    adapters: list[str] | msgspec.UnsetType
    """Names of the adapters that are loaded; TGI tells of none."""
    input_modalities: list[str] | msgspec.UnsetType
    """Told of a model that takes more than text; TGI tells of none."""
    backend: str | msgspec.UnsetType
    """Which backend runs the model; TGI has one for each device."""
    conformance: Conformance | msgspec.UnsetType
    """Told if the backend ships a report of the conformance kit."""


class OpsRoutes:
    """The handlers; each answers one exchange."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def live(self, exchange: Exchange) -> None:
        """GET /livez and /healthz: whoever reads this is alive."""
        await self._status(exchange, True)

    async def started(self, exchange: Exchange) -> None:
        """GET /startupz: whether the model has been loaded, whatever came after."""
        await self._status(exchange, self._service.model is not None)

    async def health(self, exchange: Exchange) -> None:
        """GET /readyz, and TGI's /health, /ping and /: whether requests should be sent here."""
        await self._status(exchange, self._service.ready)

    async def _status(self, exchange: Exchange, well: bool) -> None:
        if well:
            await exchange.reply(b"", headers=[])
            return
        body = msgspec.json.encode(ErrorBody("unhealthy", "healthcheck"))
        await exchange.reply(body, status=503)

    async def info(self, exchange: Exchange) -> None:
        """GET /info."""
        model, limits = self._service.ready_model(), self._service.limits
        names = model.adapters.names if model.adapters is not None else ()
        await exchange.reply_json(
            Info(
                model_id=model.model_id,
                model_sha=model.sha,
                model_pipeline_tag=model.pipeline_tag,
                max_concurrent_requests=limits.max_concurrent_requests,
                max_best_of=model.limits.max_best_of,
                max_stop_sequences=model.limits.max_stop_sequences,
                max_input_tokens=model.limits.max_input_tokens,
                max_total_tokens=model.limits.max_total_tokens,
                # tokenizing needs no workers here; TGI's default keeps dashboards working
                validation_workers=2,
                max_client_batch_size=limits.max_client_batch_size,
                # clients tell TGI by this name
                router="text-generation-router",
                version=__version__,
                sha=None,
                docker_label=self._service.docker_label,
                adapters=list(names) if names else msgspec.UNSET,
                input_modalities=["text", "image"] if model.images else msgspec.UNSET,
                backend=model.backend or msgspec.UNSET,
                conformance=_conformance(model.conformance) if model.conformance else msgspec.UNSET,
            )
        )

    async def metrics(self, exchange: Exchange) -> None:
        """GET /metrics, for Prometheus."""
        engine = self._service.engine
        state = EngineState(
            ready=engine.ready,
            stats=engine.stats,
            cache_tokens=engine.info.cache_tokens if engine.info is not None else 0,
            num_deaths=engine.num_deaths,
        )
        page = self._service.observer.metrics.page(state)
        await exchange.reply(page, headers=[(b"content-type", CONTENT_TYPE)])


def _conformance(report: ConformanceReport) -> Conformance:
    return Conformance(
        level=report.level.value,
        date=report.date,
        version=report.version,
        device=report.device,
        simulator=report.simulator or None,
    )
