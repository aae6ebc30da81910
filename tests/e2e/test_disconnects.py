"""Clients that go away: whatever was done for them ends at once, is freed, and is counted."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

PROMPT_TOKENS = 1500
NEW_TOKENS = 2000


def send(server: Server, body: dict[str, object]) -> socket.socket:
    """A request whose answer nobody has read yet."""
    data = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    client.sendall(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(data), data)
    )
    return client


def metrics(server: Server) -> dict[str, float]:
    status, page = server.get("/metrics")
    assert status == 200
    lines = (line for line in page.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def wait_for(server: Server, **wanted: float) -> dict[str, float]:
    deadline = time.monotonic() + 30
    while True:
        found = metrics(server)
        if all(found[name] == value for name, value in wanted.items()):
            return found
        assert time.monotonic() < deadline, {name: found[name] for name in wanted}
        time.sleep(0.02)


def test_clients_that_leave_free_what_they_held(serve: ServerFactory, tmp_path: Path) -> None:
    model = str(write_fake_model(tmp_path))
    # two are computed, token by token, and the others wait
    flags = ("--backend", "fake", "--max-batch-size", "2", "--max-chunk-tokens", "1")
    with serve(model, *flags, "--max-total-tokens", "4000") as server:
        body = {"max_tokens": NEW_TOKENS, "ignore_eos": True, "stream": True}
        decoding = [send(server, {**body, "prompt": [i]}) for i in (5, 6)]
        for client in decoding:
            assert b"data:" in client.recv(65536) + client.recv(65536)
        for client in decoding:
            client.close()
        prompts = [[i] * PROMPT_TOKENS for i in range(10, 20)]
        others = [
            send(server, {**body, "prompt": prompt, "stream": i % 2 == 0})
            for i, prompt in enumerate(prompts)
        ]
        wait_for(server, tgi_batch_current_size=2, tgi_queue_size=8)
        for client in others:
            client.close()
        found = wait_for(server, tgi_batch_current_size=0, tgi_queue_size=0)
        assert sum(v for k, v in found.items() if k.startswith("tgi_request_cancelled")) == 12
        assert found['tgi_request_failure{err="dropped"}'] == 12
        assert found["tgi_request_success"] == 0
        # had they not been stopped, all of it would have been computed
        assert 0 < found["tgi_generated_tokens_total"] < NEW_TOKENS * 2
        assert 0 < found["tgi_prompt_tokens_total"] < PROMPT_TOKENS * 9
        status, _ = server.post("/v1/completions", {"prompt": "a", "max_tokens": 5})
        assert status == 200
        assert metrics(server)["tgi_request_success"] == 1
