"""Wires the API process: socket, model files, tokenizer, engine and HTTP application.

The address is bound first, so /health answers while everything else is still being loaded.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from time import monotonic
from typing import Any

from tgi_core.api.adapters import Adapters
from tgi_core.api.app import create_app
from tgi_core.api.options import http_options
from tgi_core.api.service import ApiLimits, ServedModel, Service
from tgi_core.builtin import hub_source, local_source, reasoning_parsers, tool_parsers
from tgi_core.cli.adapters import load_adapters
from tgi_core.cli.daemon import in_daemon, leave_at_once_if_busy
from tgi_core.cli.http_server import HTTPServer, bind
from tgi_core.cli.load_request import load_request
from tgi_core.cli.speculation import Served, check_vocabularies, find_models
from tgi_core.cli.termination import Termination, end
from tgi_core.config.adapters import wanted_adapters
from tgi_core.config.settings import (
    ImageSettings,
    PluginSettings,
    ServerSettings,
    Settings,
    TraceSettings,
)
from tgi_core.config.sources import docker_label
from tgi_core.contract import EngineInfo, Feature, ModelFiles, RequestSink, Tokenizer
from tgi_core.engine.supervise import Supervisor
from tgi_core.engine.trials import GrammarTrials
from tgi_core.errors import BadModel, EngineLost, UnsupportedModel, UsageError
from tgi_core.images.fetch import FetchLimits, PinnedFetcher
from tgi_core.images.layouts import layout_of
from tgi_core.images.prompt import ImageLimits, ImagePrompts
from tgi_core.ipc.generation import GrammarCheck
from tgi_core.ipc.messages import Loading, Start
from tgi_core.observe.progress import ProgressDisplay
from tgi_core.observe.requests import Observer
from tgi_core.plugin.catalog import PluginKind, find
from tgi_core.plugin.manager import Plugins
from tgi_core.plugin.report import shipped_report
from tgi_core.text import hf_plugin
from tgi_core.text.chat import ChatTemplate
from tgi_core.text.formats import check_wish, choose_reasoning_parser, choose_tool_parser
from tgi_core.text.own_template import OwnTemplate, read_own_template
from tgi_core.text.validate import Limits

logger = logging.getLogger(__name__)

_ENGINE_LOST_EXIT = 70


def run_server(settings: Settings) -> int:
    """Serves until a signal ends it.

    Returns:
        Exit status: 0 after a clean end, 128 and the number of a signal if requests were cut, 70
        if no engine could be kept alive.

    Raises:
        SetupError: the server cannot start.
    """
    with bind(settings.server) as listening:
        status = _run(_serve(settings, listening))
    leave_at_once_if_busy(status)
    return status


async def _serve(settings: Settings, listening: socket.socket) -> int:
    plugins = _load_plugins(settings.plugins)
    _check_parsers(settings.server, plugins)
    wanted = wanted_adapters(settings.adapters.wanted or "")
    file = settings.model.chat_template
    own_template = None if file is None else read_own_template(file)
    display = ProgressDisplay()

    def show(progress: Loading) -> None:
        display.show(progress.phase, progress.done, progress.total, progress.unit)

    supervisor = Supervisor(show, settings.scheduling.step_timeout_s)
    service = Service(
        engine=supervisor,
        limits=_api_limits(settings.server),
        docker_label=docker_label(),
        observer=Observer(_sinks(plugins, settings.traces)),
    )
    http = HTTPServer(
        create_app(service, plugins.routes(), http_options(settings.server, settings.adapters))
    )
    termination = Termination(service, http, settings.server.graceful_termination_timeout_s)
    began = monotonic()
    first_ready = asyncio.Event()

    def on_ready(info: EngineInfo) -> None:
        logger.info(
            "engine ready after %.1f s: %s on %s, %d tokens a sequence, %d in the cache",
            monotonic() - began,
            supervisor.backend,
            info.device,
            info.max_sequence_tokens,
            info.cache_tokens,
        )
        first_ready.set()

    ending = AsyncExitStack()

    async def supervise() -> None:
        await supervisor.run(_start_message(settings, await asyncio.shield(fetching)), on_ready)

    async def load_model() -> None:
        served = await asyncio.shield(fetching)
        files = served.model
        tokenizer = await asyncio.to_thread(_load_tokenizer, plugins, files)
        if served.draft_model is not None and served.drafts_by_model:
            other = await asyncio.to_thread(_load_tokenizer, plugins, served.draft_model)
            await asyncio.to_thread(
                check_vocabularies,
                files.reference,
                tokenizer,
                served.draft_model.reference,
                other,
            )
        await first_ready.wait()
        assert supervisor.info is not None  # it is ready
        trials = _grammar_trials(settings, tokenizer, supervisor, ending)
        info = supervisor.info
        images = _image_prompts(settings.images, files, info, tokenizer)
        template = _chat_template(tokenizer, own_template, images)
        model = _served_model(settings, plugins, files, info, tokenizer, template, trials)
        model = replace(
            model,
            images=images,
            backend=supervisor.backend,
            conformance=shipped_report(find(PluginKind.BACKEND, supervisor.backend)),
        )
        if Feature.ADAPTER in info.features:
            adapters = Adapters(supervisor, model.model_id, settings.adapters.max_known)
            model = replace(model, adapters=adapters)
            await load_adapters(adapters, wanted, plugins)
        elif wanted:
            raise UnsupportedModel(
                f"the backend {supervisor.backend} holds no adapters: leave out --lora-adapters, "
                "merge the adapter into the model, or choose another backend with --backend."
            )
        service.serve(model)
        host, port = listening.getsockname()[:2]
        logger.info("serving %s on http://%s:%d", settings.model.reference, host, port)

    fetching = in_daemon(lambda: find_models(settings, plugins))
    serving = asyncio.create_task(http.serve(sockets=[listening]))
    draining = asyncio.create_task(termination.drained(serving))
    supervising = asyncio.create_task(supervise())
    loading = asyncio.create_task(load_model())
    pending: set[asyncio.Task[Any]] = {serving, draining, supervising, loading}
    try:
        while draining in pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        return draining.result()
    except EngineLost as error:
        logger.error("%s", error)
        return _ENGINE_LOST_EXIT
    finally:
        await supervisor.close()
        await end(http, serving)
        await ending.aclose()
        for task in (draining, supervising, loading):
            task.cancel()
        await asyncio.gather(draining, supervising, loading, return_exceptions=True)
        await asyncio.to_thread(service.observer.close)


def _load_plugins(settings: PluginSettings) -> Plugins:
    plugins = Plugins(
        builtins=(hub_source, local_source, hf_plugin, tool_parsers, reasoning_parsers),
        disabled=frozenset(settings.disabled),
    )
    if settings.installed:
        plugins.load_plugins()
    return plugins


def _sinks(plugins: Plugins, traces: TraceSettings) -> list[RequestSink]:
    """Who is told of requests.

    Raises:
        UsageError: traces should be sent, and no plugin can do it.
    """
    sinks = plugins.request_sinks(traces.otlp_endpoint, traces.otlp_service_name)
    if traces.otlp_endpoint is not None and "otlp" not in sinks:
        raise UsageError(
            f"--otlp-endpoint {traces.otlp_endpoint} needs a plugin that sends traces, and none is "
            'loaded: pip install "tgi-core[otlp]", and use neither --no-plugins nor '
            "--disable-plugin trace-otlp."
        )
    return list(sinks.values())


def _check_parsers(server: ServerSettings, plugins: Plugins) -> None:
    """Refuses unknown names before a model is loaded."""
    check_wish("--tool-call-parser", server.tool_call_parser, plugins.tool_parsers())
    check_wish("--reasoning-parser", server.reasoning_parser, plugins.reasoning_parsers())


def _start_message(settings: Settings, served: Served) -> Start:
    model, scheduling = settings.model, settings.scheduling
    return Start(
        load=load_request(settings, served.model),
        backend=model.backend,
        disabled_plugins=settings.plugins.disabled,
        only_builtin_plugins=not settings.plugins.installed,
        queue_policy=scheduling.queue_policy,
        guidance_engine=None if settings.guidance.disabled else settings.guidance.engine,
        watermark_gamma=settings.watermark.gamma,
        watermark_delta=settings.watermark.delta,
        watermark_key=settings.watermark.key,
        max_step_tokens=scheduling.max_step_tokens,
        max_chunk_tokens=scheduling.max_chunk_tokens,
        prefix_caching=scheduling.prefix_caching,
        num_drafts=served.num_drafts,
        speculator=served.speculator,
        draft_model=served.draft_model,
        log_level=settings.logs.level,
        json_logs=settings.logs.json,
    )


def _api_limits(server: ServerSettings) -> ApiLimits:
    return ApiLimits(
        max_concurrent_requests=server.max_concurrent_requests,
        max_client_batch_size=server.max_client_batch_size,
        payload_limit=server.payload_limit,
    )


def _load_tokenizer(plugins: Plugins, files: ModelFiles) -> Tokenizer:
    tokenizer = plugins.load_tokenizer(files)
    if tokenizer is None:
        raise BadModel(
            f"no installed plugin can read the tokenizer of {files.reference}: a Hugging Face "
            "folder needs a tokenizer.json, a GGUF file the llamacpp backend's package."
        )
    return tokenizer


def _chat_template(
    tokenizer: Tokenizer, own: OwnTemplate | None, images: ImagePrompts | None
) -> ChatTemplate:
    layout = None if images is None else images.layout
    return ChatTemplate(
        own.source if own else tokenizer.chat_template,
        bos_token=(own and own.bos_token) or tokenizer.bos_token,
        eos_token=(own and own.eos_token) or tokenizer.eos_token,
        special_texts=[*tokenizer.special_texts, *(layout.special_texts if layout else ())],
        image_marker=layout.marker if layout else None,
    )


def _grammar_trials(
    settings: Settings, tokenizer: Tokenizer, supervisor: Supervisor, ending: AsyncExitStack
) -> GrammarTrials | None:
    """Who looks at grammars first; `ending` ends it."""
    if settings.guidance.disabled:
        return None
    trials = GrammarTrials(
        tokenizer.vocabulary,
        supervisor.use_vocabulary,
        guidance_engine=settings.guidance.engine,
        disabled_plugins=settings.plugins.disabled,
        only_builtin_plugins=not settings.plugins.installed,
    )
    ending.push_async_callback(trials.close)
    return trials


def _served_model(
    settings: Settings,
    plugins: Plugins,
    files: ModelFiles,
    info: EngineInfo,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    grammars: GrammarCheck | None,
) -> ServedModel:
    server = settings.server
    longest_prompt = info.max_prompt_tokens
    if server.max_input_tokens is not None:
        longest_prompt = min(longest_prompt, server.max_input_tokens)
    return ServedModel(
        model_id=server.served_model_name or settings.model.reference,
        tokenizer=tokenizer,
        limits=Limits(
            max_input_tokens=longest_prompt,
            max_total_tokens=info.max_sequence_tokens,
            vocab_size=info.vocab_size,
            features=info.features,
            generates=info.generates,
            embedding_size=None if info.embedding is None else info.embedding.size,
            max_best_of=server.max_best_of,
            max_choices=server.max_choices,
            max_stop_sequences=server.max_stop_sequences,
            max_top_n_tokens=server.max_top_n_tokens,
        ),
        template=template,
        tool_parser=choose_tool_parser(
            server.tool_call_parser, plugins.tool_parsers(), template, tokenizer
        ),
        reasoning_parser=choose_reasoning_parser(
            server.reasoning_parser, plugins.reasoning_parsers(), template
        ),
        compute_type=server.compute_type or info.device,
        sha=files.commit,
        pipeline_tag=files.pipeline_tag,
        grammars=grammars,
    )


def _image_prompts(
    settings: ImageSettings, files: ModelFiles, info: EngineInfo, tokenizer: Tokenizer
) -> ImagePrompts | None:
    """How prompts with images are written; None if the engine takes none, or nobody knows how."""
    if Feature.IMAGE not in info.features:
        return None
    layout = layout_of(files.path, tokenizer.bos_token)
    if layout is None:
        logger.warning("the engine takes images, but how this model writes them is not known")
        return None
    fetcher = None
    if settings.fetch:
        limits = FetchLimits(max_bytes=settings.max_fetch_bytes, timeout_s=settings.fetch_timeout_s)
        fetcher = PinnedFetcher(settings.fetch, limits)
    return ImagePrompts(
        layout,
        tokenizer,
        ImageLimits(
            max_images=settings.max_images,
            max_pixels=settings.max_image_pixels,
            max_adjacent=info.max_adjacent_images,
        ),
        fetcher,
    )


def _run(main: Coroutine[None, None, int]) -> int:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform
        return asyncio.run(main)
    return int(uvloop.run(main))
