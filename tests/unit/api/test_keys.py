"""Who may call what, if the server has API keys."""

from __future__ import annotations

from hmac import compare_digest

import pytest

from tests.exposition import samples
from tgi_core.api import keys
from tgi_core.api.operation import Access
from tgi_core.api.options import HttpOptions
from tgi_core.api.table import operations
from tgi_core.config.settings import Compat

KEY = "sk-Secret1"
RIGHT = {"authorization": f"Bearer {KEY}"}

OPEN = {
    ("GET", "/"),
    ("GET", "/health"),
    ("GET", "/healthz"),
    ("GET", "/livez"),
    ("GET", "/ping"),
    ("GET", "/readyz"),
    ("GET", "/startupz"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/aip/health"),
}
OPEN_IN_TGI = {
    ("POST", "/chat_tokenize"),
    ("GET", "/info"),
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/openai/v1/models"),
    ("GET", "/docs"),
    ("GET", "/api-doc/openapi.json"),
    ("GET", "/openapi.json"),
    ("GET", "/v2"),
    ("GET", "/v2/models/m"),
    ("GET", "/v2/models/m/ready"),
    ("GET", "/v2/models/m/versions/1"),
    ("GET", "/v2/models/m/versions/1/ready"),
}
AIP = {"predict_route": "/aip/predict", "health_route": "/aip/health"}


@pytest.fixture
def guarded(server):
    return server.with_options(api_keys=("other", KEY), **AIP)


def every_route(compat):
    """Each method and path, with names in place of braces."""
    for operation in operations(HttpOptions(compat=compat, **AIP)):
        path = operation.path.replace("{id:path}", "org/model")
        yield operation.method, path.replace("{model}", "m").replace("{version}", "1")


@pytest.mark.parametrize("compat", Compat)
def test_without_a_key_only_the_listed_routes_answer(server, compat):
    server.with_options(api_keys=(KEY,), compat=compat, **AIP)
    answered = {
        (method, path)
        for method, path in every_route(compat)
        if server.request(method, path).status != 401
    }
    assert answered == OPEN | (OPEN_IN_TGI if compat is Compat.TGI else set())
    assert not server.engine.generations


def test_with_a_key_every_route_answers(guarded):
    for method, path in every_route(Compat.OPENAI):
        assert guarded.request(method, path, RIGHT).status not in (401, 404, 405), path


def test_without_keys_in_the_settings_all_routes_are_open(server):
    for method, path in every_route(Compat.OPENAI):
        if "aip" not in path:
            assert server.request(method, path).status not in (401, 404, 405), path


@pytest.mark.parametrize(
    "headers",
    [
        RIGHT,
        {"authorization": f"bearer {KEY}"},
        {"authorization": f"BEARER {KEY}"},
        {"authorization": "Bearer other"},
        {"x-api-key": KEY},
    ],
)
def test_a_right_key_is_right_in_either_header(guarded, headers):
    assert guarded.get("/info", headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": KEY},
        {"authorization": "Bearer"},
        {"authorization": "Bearer "},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer {KEY.lower()}"},
        {"authorization": f"Bearer {KEY.upper()}"},
        {"authorization": f"Bearer {KEY[:-1]}"},
        {"authorization": f"Bearer {KEY}x"},
        {"authorization": f"Bearer  {KEY}"},
        {"authorization": f"Bearer {KEY} "},
        {"authorization": f"Bearer {KEY},other"},
        {"authorization": "Bearer " + "x" * 10**6},
        {"authorization": "Bearer wrong", "x-api-key": KEY},
        {"x-api-key": KEY.lower()},
        {"x-api-key": f"Bearer {KEY}"},
        {"cookie": f"authorization=Bearer {KEY}"},
        [("authorization", f"Bearer {KEY}"), ("authorization", "Bearer x")],
        [("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {KEY}")],
        [("x-api-key", KEY), ("x-api-key", "x")],
    ],
)
def test_anything_else_is_wrong(guarded, headers):
    assert guarded.request("POST", "/generate", headers, {"inputs": "x"}).status == 401
    assert not guarded.engine.generations


@pytest.mark.parametrize(
    "host", ["x/health?", "", "x\\health", "u:p@localhost", "/health", "localhost/health#"]
)
def test_the_host_header_decides_nothing(guarded, host):
    assert guarded.get("/info", {"host": host}).status == 401
    two = [("host", "localhost"), ("host", host)]
    assert guarded.request("POST", "/generate", two, {"inputs": "x"}).status == 401


@pytest.mark.parametrize(
    "path",
    [
        "//generate", "/generate/", "/Generate", "/health/../generate", "/health/",
        "/%67enerate", "/generate;x", "/health;/../info", "/info?", "/nothing", "*", "",
        "/health\n", "/v2/health/live\n", "/x\n/health",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "TRACE", "HEAD", "DELETE"])
def test_no_spelling_of_a_path_gets_past(guarded, method, path):
    assert guarded.request(method, path).status == 401


def test_head_of_an_open_route_is_open_and_its_post_is_not(guarded):
    assert guarded.request("HEAD", "/health").status == 200
    assert guarded.request("POST", "/health").status == 401
    assert guarded.request("POST", "/", {}, {"inputs": "x"}).status == 401


def test_a_refusal_is_empty_in_tgis_dialect_and_an_error_in_openais(guarded):
    reply = guarded.get("/info")
    assert (reply.body, reply.headers["www-authenticate"]) == (b"", "Bearer")
    for path in ("/v1/models", "/v1/nothing"):
        reply = guarded.get(path)
        assert reply.json["error"]["code"] == "invalid_api_key"
        assert reply.json["error"]["type"] == "invalid_request_error"
        assert KEY not in reply.body.decode()
    guarded.with_options(api_keys=(KEY,), compat=Compat.TGI)
    assert guarded.request("POST", "/v1/completions").body == b""


ADMIN = {"authorization": "Bearer root"}
CHANGING = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")


def administered(server, tmp_path, *keys):
    return server.with_options(api_keys=keys, admin_keys=("root",), adapter_folder=tmp_path)


def test_what_changes_the_server_is_for_administrators_if_there_are_any(server, tmp_path):
    administered(server, tmp_path, KEY)
    for path in CHANGING:
        assert server.request("POST", path, {}).status == 401
        reply = server.request("POST", path, RIGHT, {})
        assert (reply.status, reply.json["error"]["code"]) == (403, "permission_denied")
        assert server.request("POST", path, ADMIN, {}).status == 422
        for method in ("GET", "HEAD", "PUT", "DELETE"):
            assert server.request(method, path, ADMIN).status == 405
    for who in (RIGHT, ADMIN):
        assert server.request("POST", "/generate", who, {"inputs": "x"}).status == 200


def test_keys_of_administrators_alone_leave_the_rest_open(server, tmp_path):
    administered(server, tmp_path)
    assert server.post("/generate", {"inputs": "x"}).status == 200
    assert server.get("/info").status == 200
    for path in CHANGING:
        assert server.post(path, {}).status == 401
        assert server.request("POST", path, ADMIN, {}).status == 422


def test_nothing_but_generating_and_what_administrators_do_is_a_post(server, tmp_path):
    """A GET changes nothing, so no page and no crawler can make one that does."""
    options = HttpOptions(adapter_folder=tmp_path, **AIP)
    changing = {o.path for o in operations(options) if o.access is Access.ADMIN}
    assert changing == set(CHANGING)
    assert all(o.method == "POST" for o in operations(options) if o.path in changing)
    assert {o.method for o in operations(options)} == {"GET", "POST"}


def test_keys_are_compared_in_constant_time(guarded, monkeypatch):
    """By what the library has for it; what takes how long cannot be measured through this."""
    compared = []

    def watched(given, known):
        compared.append((len(given), len(known)))
        return compare_digest(given, known)

    monkeypatch.setattr(keys, "compare_digest", watched)
    for headers in (RIGHT, {"authorization": "Bearer s"}, {"x-api-key": "x" * 1000}):
        guarded.get("/info", headers)
    # digests, whose length tells nothing of the key's, and each of the two keys every time
    assert compared == [(32, 32)] * 6


def test_refusals_are_counted_and_logged_without_the_key(guarded, caplog):
    guarded.get("/info", {"authorization": "Bearer sk-guess"})
    guarded.request("POST", "/v1/completions", {"x-api-key": "sk-guess"})
    told = [(line.levelname, line.getMessage(), line.fields) for line in caplog.records]
    words = "Refused: no API key, or a wrong one"
    client = {"client": "127.0.0.1"}
    assert told == [
        ("WARNING", words, client | {"method": "GET", "path": "/info"}),
        ("WARNING", words, client | {"method": "POST", "path": "/v1/completions"}),
    ]
    assert (
        samples(guarded.get("/metrics", RIGHT).body)["tgi_refused_requests_total{reason=key}"] == 2
    )


def test_even_a_refusal_has_a_request_id(guarded):
    assert guarded.get("/info", {"x-request-id": "mine"}).headers["x-request-id"] == "mine"
