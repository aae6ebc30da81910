"""The HTTP surface of `tgi serve` as strangers meet it: keys, origins, odd bytes, and the log."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import Server, ServerFactory
from tgi_core.config.sources import environment
from tgi_core.testing.models import write_fake_model

KEY = "sk-E2e-key"
PROMPT = json.dumps({"inputs": "a secret prompt", "parameters": {"max_new_tokens": 4}})


@pytest.fixture(scope="module")
def fake_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="module")
def guarded(serve: ServerFactory, fake_model: Path) -> Iterator[Server]:
    flags = ("--cors-allow-origin", "https://friend.example", "--payload-limit", "10000")
    # the key comes from the environment, as it should: all may read a command line
    env = {**environment(), "TGI_API_KEY": KEY, "AIP_PREDICT_ROUTE": "/p", "AIP_HEALTH_ROUTE": "/h"}
    with serve(str(fake_model), "--backend", "fake", *flags, env=env) as server:
        yield server


def ask(
    server: Server, method: str, path: str, body: str = "", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        given = {"content-type": "application/json"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        connection.request(method, path, body or None, given)
        reply = connection.getresponse()
        found = {name.lower(): value for name, value in reply.getheaders()}
        return reply.status, found, reply.read()
    finally:
        connection.close()


def raw(server: Server, data: bytes) -> bytes:
    """What comes back until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(data)
        found = b""
        try:
            while part := connection.recv(65536):
                found += part
        except ConnectionResetError:
            pass
        return found


def test_probes_need_no_key_and_the_rest_does(guarded: Server) -> None:
    for path in ("/health", "/livez", "/readyz", "/startupz", "/h"):
        assert ask(guarded, "GET", path)[0] == 200
    for path in ("/info", "/metrics", "/docs", "/openapi.json", "/v1/models", "/nothing"):
        assert ask(guarded, "GET", path)[0] == 401
        assert ask(guarded, "GET", f"{path}?api_key={KEY}&key={KEY}")[0] == 401
        status = ask(guarded, "GET", path, authorization=f"Bearer {KEY}")[0]
        assert status == (404 if path == "/nothing" else 200)


def test_a_key_opens_what_generates(guarded: Server) -> None:
    assert ask(guarded, "POST", "/generate", PROMPT)[0] == 401
    status, headers, body = ask(guarded, "POST", "/generate", PROMPT, x_api_key=KEY)
    assert (status, "generated_text" in json.loads(body)) == (200, True)
    assert int(headers["x-generated-tokens"]) >= 1 and "server" not in headers
    body = json.dumps({"instances": [json.loads(PROMPT)]}).encode()
    status, _, body = ask(guarded, "POST", "/p", body.decode(), x_api_key=KEY)
    assert (status, len(json.loads(body)["predictions"])) == (200, 1)


def test_a_friendly_page_is_let_in_and_no_other(guarded: Server) -> None:
    status, headers, _ = ask(
        guarded,
        "OPTIONS",
        "/generate",
        origin="https://friend.example",
        access_control_request_method="POST",
        access_control_request_headers="authorization",
    )
    assert (status, headers["access-control-allow-origin"]) == (200, "https://friend.example")
    for origin in ("https://evil.example", "null"):
        status, headers, _ = ask(guarded, "POST", "/generate", PROMPT, x_api_key=KEY, origin=origin)
        assert (status, "access-control-allow-origin" in headers) == (403, False)


def test_odd_bytes_are_refused_and_the_server_stays(guarded: Server) -> None:
    pid = guarded.engine_pid()
    for data, status in [
        (b"GET /livez HTTP/1.1\r\nx: " + b"a" * 10**6 + b"\r\n\r\n", 431),
        (b"GET /livez HTTP/1.1\r\n" + b"".join(b"x%d: 1\r\n" % i for i in range(10**4)), 431),
        (b"\x00\x01\x02\x03" * 100, 400),
        (b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n"
         b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /livez HTTP/1.0\r\n\r\n", 200),
    ]:  # fmt: skip
        # a client that is still sending when the server hangs up may miss the answer
        assert raw(guarded, data).startswith(b"HTTP/1.1 %d " % status) or len(data) > 65_536
    body = json.dumps({"inputs": "x" * 20_000})
    assert ask(guarded, "POST", "/generate", body, x_api_key=KEY)[0] == 413
    assert ask(guarded, "POST", "/generate", PROMPT, x_api_key=KEY)[0] == 200
    assert guarded.engine_pid() == pid


def test_nothing_that_clients_send_forges_a_line_of_the_log(guarded: Server) -> None:
    forged = "\r\n2026-01-01T00:00:00Z ERROR forged: line"
    chat = {"messages": [{"role": "user", "content": [{"type": f"x{forged}\x1b[31m"}]}]}
    status, _, _ = ask(guarded, "POST", "/v1/chat/completions", json.dumps(chat), x_api_key=KEY)
    assert status == 422
    agent = "x" * 8000 + '", "level": "ERROR", "message": "forged'
    assert ask(guarded, "POST", "/generate", PROMPT, x_api_key=KEY, user_agent=agent)[0] == 200
    ask(guarded, "GET", "/%0d%0aERROR%20forged%1b[31m", x_api_key=KEY)
    ask(guarded, "GET", "/health", x_request_id="a%0d%0aERROR forged")
    raw(guarded, b"GET / HTTP/1.1\r\nx-request-id: a\rERROR forged\r\n\r\n")
    log = guarded.log.read_text()
    assert "\x1b" not in log and "\r" not in log
    lines = [line for line in log.splitlines() if "forged" in line]
    assert all(re.match(r"\d{4}-\d\d-\d\dT.* (INFO|WARN|ERROR) ", line) for line in lines)
    assert not any(line.startswith("2026-01-01T00:00:00Z") for line in log.splitlines())
    assert KEY not in log and "secret prompt" not in log


def test_metrics_and_docs_hold_nothing_of_clients_and_no_secret(guarded: Server) -> None:
    body = json.dumps({"model": "odd-name-7f3", "prompt": "a secret prompt", "max_tokens": 1})
    assert ask(guarded, "POST", "/v1/completions", body, x_api_key=KEY)[0] == 200
    for path in ("/metrics", "/docs", "/openapi.json"):
        text = ask(guarded, "GET", path, x_api_key=KEY)[2].decode()
        for secret in (KEY, "odd-name-7f3", "secret prompt", "/tmp", "site-packages"):
            assert secret not in text


def test_compat_a_chat_template_and_a_compute_type_are_flags(
    serve: ServerFactory, fake_model: Path, tmp_path: Path
) -> None:
    template = tmp_path / "tokenizer_config.json"
    template.write_text(json.dumps({"chat_template": "{{ bos_token }}own", "bos_token": "<b>"}))
    flags = ("--backend", "fake", "--compat", "tgi", "--api-key", "a", "--api-key", "b")
    flags += ("--chat-template", str(template), "--compute-type", "1-nvidia-a10g")
    with serve(str(fake_model), *flags) as server:
        chat = json.dumps({"messages": [{"role": "user", "content": "x"}]})
        status, _, answer = ask(server, "POST", "/chat_tokenize", chat)
        assert (status, json.loads(answer)["templated_text"]) == (200, "<b>own")
        assert ask(server, "GET", "/info")[0] == 200
        assert ask(server, "GET", "/v1/models")[0] == 200
        body = json.dumps({"prompt": "x", "max_tokens": 2, "stream": True})
        assert ask(server, "POST", "/v1/completions", body)[2] == b""
        status, headers, answer = ask(
            server, "POST", "/v1/completions", body, authorization="Bearer b", origin="http://any"
        )
        assert (status, headers["access-control-allow-origin"]) == (200, "*")
        assert headers["x-compute-type"] == "1-nvidia-a10g"
        first = json.loads(answer.split(b"\n\n")[0].removeprefix(b"data: "))
        assert (first["id"], first["choices"][0]["finish_reason"]) == ("", "")
        wrong = ask(server, "POST", "/v1/completions", '{"prompt": []}', x_api_key="a")
        assert json.loads(wrong[2])["error_type"] == "validation"
