"""What runs out: memory, and files, of which every connection is one that strangers open."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.e2e.test_termination import until
from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LIMIT = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_fake_model(tmp_path_factory.mktemp("fake")))


@pytest.fixture(scope="module")
def server(serve: ServerFactory, model: str) -> Iterator[Server]:
    with serve(model, "--backend", "fake") as running:
        yield running


def num_open(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def refused(shell: str, model: str, *flags: str) -> str:
    """What is said at the start by a server that cannot start now."""
    serve = f"{shell} exec {sys.executable} -m tgi_core serve {model} --backend fake --port 0 "
    command = ["sh", "-c", serve + " ".join(flags)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 75 and "Traceback" not in ended.stderr
    return ended.stderr


def test_too_few_files_for_a_server_are_a_line_and_a_status_for_trying_again(model: str) -> None:
    assert "only 16 files may be open" in refused("ulimit -n 16;", model)


def test_an_engine_without_memory_is_a_line_and_a_status_for_trying_again(model: str) -> None:
    told = refused("", model, "--backend-option", f"vocab_size={10**11}")
    assert "this machine has no more memory to give" in told


def test_a_server_may_open_as_many_files_as_the_system_lets_it(server: Server) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)[0] >= min(hard, 65_536)


def test_clients_beyond_all_files_are_hung_up_on_and_the_others_are_served(server: Server) -> None:
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (LIMIT, LIMIT))
    engine, before = server.engine_pid(), num_open(server)
    with ExitStack() as clients:
        crowd = [
            clients.enter_context(socket.create_connection(("127.0.0.1", server.port), 30))
            for _ in range(3 * LIMIT)
        ]
        for client in crowd[:20]:
            client.sendall(HEALTH)
            assert client.recv(100).startswith(b"HTTP/1.1 200")
        assert num_open(server) <= LIMIT
        try:
            crowd[-1].sendall(HEALTH)
            assert crowd[-1].recv(100) == b""
        except ConnectionError:
            pass
    until(lambda: num_open(server) == before)
    status, _ = server.post("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 2}})
    assert (status, server.engine_pid()) == (200, engine)
    assert "Traceback" not in server.log.read_text()
