"""What operators and load balancers ask for."""

from __future__ import annotations

import asyncio

import pytest

from tgi_core import __version__
from tgi_core.config.settings import Compat

UNHEALTHY = {"error": "unhealthy", "error_type": "healthcheck"}


@pytest.mark.parametrize("path", ["/health", "/ping", "/", "/readyz"])
def test_readiness_is_false_while_the_model_loads_the_engine_is_away_or_the_server_drains(
    server, path
):
    service = server.service
    assert (server.get(path).status, server.get(path).body) == (200, b"")
    model, service.model = service.model, None
    assert (server.get(path).status, server.get(path).json) == (503, UNHEALTHY)
    service.model, server.engine.ready = model, False
    assert server.get(path).status == 503
    server.engine.ready, service.draining = True, True
    assert server.get(path).status == 503
    service.draining = False
    assert server.get(path).status == 200


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
def test_liveness_is_never_false(server, path):
    server.service.model, server.engine.ready, server.service.draining = None, False, True
    assert (server.get(path).status, server.get(path).body) == (200, b"")


def test_start_up_is_over_when_the_model_is_loaded_whatever_comes_then(server):
    server.engine.ready, server.service.draining = False, True
    assert server.get("/startupz").status == 200
    server.service.model = None
    assert (server.get("/startupz").status, server.get("/startupz").json) == (503, UNHEALTHY)


def test_info_is_tgis_object(server):
    info = server.get("/info").json
    assert (info["model_id"], info["router"]) == ("org/model", "text-generation-router")
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (100, 128)
    assert list(info) == [
        "model_id",
        "model_sha",
        "model_pipeline_tag",
        "max_concurrent_requests",
        "max_best_of",
        "max_stop_sequences",
        "max_input_tokens",
        "max_total_tokens",
        "validation_workers",
        "max_client_batch_size",
        "router",
        "version",
        "sha",
        "docker_label",
    ]


def test_the_image_is_named_if_there_is_one(server):
    body = {"messages": [{"role": "user", "content": "a"}]}
    for label in (None, "sha-1234-rocm"):
        server.service.docker_label = label
        assert server.get("/info").json["docker_label"] == label
        fingerprint = server.post("/v1/chat/completions", body).json["system_fingerprint"]
        assert fingerprint == f"{__version__}-{label or 'native'}"


def test_models_lists_the_one_model(server):
    server.service.started = 1700000000.5
    model = {"id": "org/model", "object": "model", "created": 1700000000, "owned_by": "org/model"}
    assert server.get("/v1/models").json == {"object": "list", "data": [model]}
    assert server.get("/v1/models/org/model").json == model


@pytest.mark.parametrize("compat", Compat)
def test_codex_alone_finds_its_own_list_beside_the_models(server, compat):
    server.with_options(compat=compat)
    plain = server.get("/v1/models").json
    for query in ("client_version=0.153.4", "a=b&client_version"):
        assert server.get("/v1/models", query=query).json == plain | {"models": []}
    for query in ("&", "client_versions=1", "limit=5&after=client_version"):
        assert server.get("/v1/models", query=query).json == plain


@pytest.mark.parametrize("name", ["other", "org", "org/model/", "ORG/MODEL", "x" * 10_000])
def test_no_other_model_is_served(server, name):
    reply = server.get(f"/v1/models/{name}")
    assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")
    assert name not in reply.body.decode() or name == "org"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/generate", 405),
        ("TRACE", "/health", 405),
        ("POST", "/nothing", 404),
        ("POST", "/generate/", 404),
        ("POST", "//generate", 404),
        ("POST", "/GENERATE", 404),
        ("POST", "/v1/../generate", 404),
    ],
)
def test_wrong_methods_and_paths_have_empty_answers(server, method, path, status):
    reply = asyncio.run(server.exchange(method, path, b""))
    assert (reply.status, reply.body) == (status, b"")
    assert ("allow" in reply.headers) is (status == 405)


def test_every_response_has_a_request_id_the_clients_if_it_makes_sense(server):
    made = {server.get("/health").headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    for given, kept in (("abc-1.2:3", True), ("a b", False), ("x" * 129, False)):
        reply = server.post("/generate", {"inputs": "x"}, headers={"x-request-id": given})
        assert (reply.headers["x-request-id"] == given) is kept


def test_clients_with_one_request_id_do_not_meet_in_the_engine(server):
    for _ in range(2):
        server.post("/generate", {"inputs": "x"}, headers={"x-request-id": "same"})
    first, second = server.engine.generations
    assert first.request.request_id != second.request.request_id


def test_the_trace_of_the_client_goes_to_the_engine(server):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    server.post("/v1/completions", {"prompt": "x"}, headers={"traceparent": trace})
    assert server.engine.last.trace_parent == trace
