"""The table of all routes. The application, the keys, the documentation and the tests go by it.

More than 400 lines, for it is one table: a reader finds every route in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tgi_core.api.clouds.kserve_schema import (
    InferRequest,
    InferResponse,
    Live,
    ModelMetadata,
    ServerMetadata,
)
from tgi_core.api.clouds.vertex_schema import VertexRequest, VertexResponse
from tgi_core.api.dialects.endpoint import DialectRoute, dialect_style
from tgi_core.api.generate.schema import (
    ChatTokenizeResponse,
    CompatGenerateRequest,
    GenerateRequest,
    GenerateResponse,
    StreamResponse,
    TokenizeToken,
)
from tgi_core.api.openai.adapters import LoadLora, UnloadLora
from tgi_core.api.openai.chat_schema import ChatChunk, ChatCompletion, ChatRequest
from tgi_core.api.openai.completion_schema import Completion, CompletionRequest
from tgi_core.api.openai.models import ModelInfo, ModelsInfo
from tgi_core.api.operation import Access, Group, Operation
from tgi_core.api.ops import Info
from tgi_core.api.options import HttpOptions
from tgi_core.contract import Dialect, Route
from tgi_core.errors import PluginConflict
from tgi_core.observe.requests import CHAT, COMPLETIONS, GENERATE, GENERATE_STREAM, VERTEX

_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"


def operations(options: HttpOptions, dialects: Sequence[Dialect] = ()) -> tuple[Operation, ...]:
    """All routes of a server, the busiest first: they are tried in this order.

    Raises:
        PluginConflict: a dialect wants an address that core answers.
    """
    adapters = _ADAPTERS if options.adapter_folder is not None else ()
    fixed = (
        *_GENERATING,
        *_MODELS,
        *adapters,
        _METRICS,
        *_PROBES,
        *_CLOUDS,
        *_KSERVE_OPENAI,
        *_DOCS,
    )
    taken = {(operation.method, operation.path) for operation in fixed}
    named = tuple(aip for aip in _aip(options) if (aip.method, aip.path) not in taken)
    taken |= {(operation.method, operation.path) for operation in named}
    of_plugins = []
    for dialect in dialects:
        for route in dialect.routes:
            if (route.method, route.path) in taken:
                raise PluginConflict(
                    f"the dialect {dialect.name!r} wants to answer {route.method} {route.path}, "
                    "which core answers. Leave its plugin out with --disable-plugin."
                )
            of_plugins.append(_of_plugin(dialect, route))
    return (*fixed, *named, *of_plugins)


def _of_plugin(dialect: Dialect, route: Route) -> Operation:
    return Operation(
        route.method,
        route.path,
        lambda to: DialectRoute(to.service, to.plain_openai, dialect, route),
        Group.PLUGINS,
        f"Is a route of the dialect {dialect.name}.",
        errors=dialect_style(dialect),
    )


_GENERATING = (
    Operation(
        "POST",
        "/v1/chat/completions",
        lambda to: to.openai.chat,
        Group.OPENAI,
        "Answers a conversation.",
        request=ChatRequest,
        response=ChatCompletion,
        event=ChatChunk,
        counted_as=CHAT,
    ),
    Operation(
        "POST",
        "/v1/completions",
        lambda to: to.openai.completions,
        Group.OPENAI,
        "Continues one or several texts.",
        request=CompletionRequest,
        response=Completion,
        event=Completion,
        counted_as=COMPLETIONS,
    ),
    Operation(
        "POST",
        "/generate",
        lambda to: to.tgi.generate,
        Group.TGI,
        "Continues a text.",
        request=GenerateRequest,
        response=GenerateResponse,
        counted_as=GENERATE,
    ),
    Operation(
        "POST",
        "/generate_stream",
        lambda to: to.tgi.generate_stream,
        Group.TGI,
        "Continues a text, one event a token.",
        request=GenerateRequest,
        event=StreamResponse,
        counted_as=GENERATE_STREAM,
    ),
    Operation(
        "POST",
        "/",
        lambda to: to.tgi.root,
        Group.TGI,
        "Continues a text, as the hub's hosted inference does.",
        request=CompatGenerateRequest,
        response=list[GenerateResponse],
        event=StreamResponse,
        counted_as=GENERATE,
    ),
    Operation(
        "POST",
        "/tokenize",
        lambda to: to.tokenize.tokenize,
        Group.TGI,
        "Says what tokens a text becomes.",
        request=GenerateRequest,
        response=list[TokenizeToken],
    ),
    Operation(
        "POST",
        "/chat_tokenize",
        lambda to: to.tokenize.chat_tokenize,
        Group.TGI,
        "Says what prompt and tokens a conversation becomes.",
        request=ChatRequest,
        response=ChatTokenizeResponse,
        access=Access.TGI_OPEN,
    ),
)

_MODELS = (
    Operation(
        "GET",
        "/info",
        lambda to: to.ops.info,
        Group.TGI,
        "Says what is served, and its limits.",
        response=Info,
        access=Access.TGI_OPEN,
    ),
    Operation(
        "GET",
        "/v1/models",
        lambda to: to.models.models,
        Group.OPENAI,
        "Lists what is served.",
        response=ModelsInfo,
        access=Access.TGI_OPEN,
    ),
    Operation(
        "GET",
        # names of models have slashes
        "/v1/models/{id:path}",
        lambda to: to.models.model,
        Group.OPENAI,
        "Describes one model.",
        response=ModelInfo,
    ),
)


_ADAPTERS = (
    Operation(
        "POST",
        "/v1/load_lora_adapter",
        lambda to: to.adapters.load,
        Group.OPENAI,
        "Loads an adapter, as in vLLM. Only with --lora-folder.",
        request=LoadLora,
        response=str,
        media_type="text/plain",
        access=Access.ADMIN,
    ),
    Operation(
        "POST",
        "/v1/unload_lora_adapter",
        lambda to: to.adapters.unload,
        Group.OPENAI,
        "Unloads an adapter, as in vLLM. Only with --lora-folder.",
        request=UnloadLora,
        response=str,
        media_type="text/plain",
        access=Access.ADMIN,
    ),
)


def _probe(path: str, summary: str) -> Operation:
    return Operation(
        "GET", path, lambda to: to.ops.health, Group.PROBES, summary, access=Access.OPEN
    )


_METRICS = Operation(
    "GET",
    "/metrics",
    lambda to: to.ops.metrics,
    Group.TGI,
    "Counts and measures, for Prometheus.",
    response=str,
    access=Access.TGI_OPEN,
    media_type="text/plain",
)

_PROBES = (
    _probe("/health", "Says whether requests should be sent here."),
    _probe("/ping", "Is /health under SageMaker's name."),
    _probe("/", "Is /health, as in TGI."),
    _probe("/readyz", "Is /health under Kubernetes' name: false while loading and draining."),
    Operation(
        "GET",
        "/livez",
        lambda to: to.ops.live,
        Group.PROBES,
        "Says that the process works; never false.",
        access=Access.OPEN,
    ),
    Operation(
        "GET",
        "/healthz",
        lambda to: to.ops.live,
        Group.PROBES,
        "Is /livez under its older name.",
        access=Access.OPEN,
    ),
    Operation(
        "GET",
        "/startupz",
        lambda to: to.ops.started,
        Group.PROBES,
        "Says whether the model has been loaded.",
        access=Access.OPEN,
    ),
)


def _infer(path: str) -> Operation:
    return Operation(
        "POST",
        path,
        lambda to: to.kserve.infer,
        Group.CLOUDS,
        "Continues texts, by KServe's v2 protocol.",
        request=InferRequest,
        response=InferResponse,
        counted_as=GENERATE,
    )


def _kserve_model(path: str) -> Operation:
    return Operation(
        "GET",
        path,
        lambda to: to.kserve.model,
        Group.CLOUDS,
        "Describes a model, by KServe's v2 protocol.",
        response=ModelMetadata,
        access=Access.TGI_OPEN,
    )


def _kserve_ready(path: str, access: Access) -> Operation:
    return Operation(
        "GET",
        path,
        lambda to: to.kserve.ready,
        Group.CLOUDS,
        "Is /health, by KServe's v2 protocol.",
        response=Live,
        access=access,
    )


_CLOUDS = (
    Operation(
        "POST",
        "/invocations",
        lambda to: to.sagemaker.invocations,
        Group.CLOUDS,
        "Is SageMaker's route to /, /v1/chat/completions or /v1/completions, whichever fits.",
        request=(CompatGenerateRequest, ChatRequest, CompletionRequest),
        response=(list[GenerateResponse], ChatCompletion, Completion),
        event=(StreamResponse, ChatChunk, Completion),
    ),
    Operation(
        "POST",
        "/vertex",
        lambda to: to.vertex.predict,
        Group.CLOUDS,
        "Continues prompts and answers conversations, for Vertex AI.",
        request=VertexRequest,
        response=VertexResponse,
        counted_as=VERTEX,
    ),
    Operation(
        "GET",
        "/v2",
        lambda to: to.kserve.server,
        Group.CLOUDS,
        "Describes the server, by KServe's v2 protocol.",
        response=ServerMetadata,
        access=Access.TGI_OPEN,
    ),
    Operation(
        "GET",
        "/v2/health/live",
        lambda to: to.kserve.live,
        Group.CLOUDS,
        "Is /livez, by KServe's v2 protocol.",
        response=Live,
        access=Access.OPEN,
    ),
    _kserve_ready("/v2/health/ready", Access.OPEN),
    _infer(f"{_VERSION}/infer"),
    _infer(f"{_MODEL}/infer"),
    _kserve_ready(f"{_VERSION}/ready", Access.TGI_OPEN),
    _kserve_ready(f"{_MODEL}/ready", Access.TGI_OPEN),
    _kserve_model(_VERSION),
    _kserve_model(_MODEL),
)


_KSERVE_OPENAI = tuple(
    replace(
        operation,
        path=f"/openai{operation.path}",
        summary=f"Is {operation.path.replace(':path', '')} where KServe's own runtimes have it.",
    )
    for operation in (*_GENERATING, *_MODELS)
    if operation.group is Group.OPENAI
)


def _aip(options: HttpOptions) -> tuple[Operation, ...]:
    """The two routes of which Vertex AI chooses the names."""
    found: tuple[Operation, ...] = ()
    if options.predict_route is not None:
        found += (
            Operation(
                "POST",
                options.predict_route,
                lambda to: to.vertex.predict,
                Group.CLOUDS,
                "Is /vertex under the name that Vertex AI chose.",
                request=VertexRequest,
                response=VertexResponse,
                counted_as=VERTEX,
            ),
        )
    if options.health_route is not None:
        found += (_probe(options.health_route, "Is /health under the name that Vertex AI chose."),)
    return found


_DOCS = (
    Operation(
        "GET",
        "/docs",
        lambda to: to.docs.page,
        Group.TGI,
        "Shows this list to people.",
        response=str,
        access=Access.TGI_OPEN,
        media_type="text/html; charset=utf-8",
    ),
    Operation(
        "GET",
        "/api-doc/openapi.json",
        lambda to: to.docs.document,
        Group.TGI,
        "Describes all routes to programs.",
        response=dict,
        access=Access.TGI_OPEN,
    ),
    Operation(
        "GET",
        "/openapi.json",
        lambda to: to.docs.document,
        Group.TGI,
        "Is /api-doc/openapi.json under its usual name.",
        response=dict,
        access=Access.TGI_OPEN,
    ),
)
