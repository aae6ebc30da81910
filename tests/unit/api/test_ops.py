"""What operators and load balancers ask for."""

from __future__ import annotations

import asyncio

import pytest


@pytest.mark.parametrize("path", ["/health", "/ping", "/"])
def test_health_follows_the_engine_and_not_the_model(server, path):
    server.service.model = None
    reply = server.get(path)
    assert (reply.status, reply.body) == (200, b"")
    server.engine.ready = False
    reply = server.get(path)
    assert (reply.status, reply.json) == (
        503,
        {"error": "unhealthy", "error_type": "healthcheck"},
    )


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


def test_models_lists_the_one_model(server):
    assert server.get("/v1/models").json == {
        "object": "list",
        "data": [{"id": "org/model", "object": "model", "created": 0, "owned_by": "org/model"}],
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/generate", 405), ("POST", "/nothing", 404), ("POST", "/generate/", 404)],
)
def test_wrong_methods_and_paths_have_empty_answers(server, method, path, status):
    reply = asyncio.run(server.exchange(method, path, b""))
    assert (reply.status, reply.body) == (status, b"")


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
