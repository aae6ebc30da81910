"""How a server ends: at each phase, with open requests, and when it is told twice."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import own_scheduler
from tests.hub import Hub, hub_of
from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

LIMITS = ("--max-total-tokens", "200000", "--cache-tokens", "300000")
FAKE = ("--backend", "fake", *LIMITS)
OWN = ("--backend", own_scheduler.NAME, *LIMITS)
"""A backend of the engine contract."""

LONG = ("/generate_stream", {"inputs": "once", "parameters": {"max_new_tokens": 1500}})
ENDLESS = (
    "/v1/completions",
    {"prompt": "once", "max_tokens": 190_000, "ignore_eos": True, "stream": True},
)


@pytest.fixture(scope="session")
def fake_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="session")
def with_own_scheduler(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return own_scheduler.environment_with_it(tmp_path_factory.mktemp("plugins") / "site")


class Stream:
    """A stream that is being read in a thread."""

    def __init__(self, server: Server, path: str, body: dict[str, Any]) -> None:
        self._request = urllib.request.Request(
            server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        self.events: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with urllib.request.urlopen(self._request, timeout=120) as reply:
            for line in reply:
                if line.startswith(b"data: {"):
                    self.events.append(json.loads(line[5:]))

    def begun(self) -> bool:
        return bool(self.events)

    def end(self) -> dict[str, Any]:
        """The last event."""
        self._thread.join(120)
        assert not self._thread.is_alive()
        return self.events[-1]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def told(server: Server, words: str) -> Callable[[], bool]:
    return lambda: words in server.log.read_text()


@pytest.mark.parametrize(
    ("backend", "number"),
    [(FAKE, signal.SIGTERM), (FAKE, signal.SIGINT), (OWN, signal.SIGTERM)],
    ids=["TERM", "INT", "own scheduler"],
)
def test_open_streams_finish_while_new_requests_are_sent_elsewhere(
    serve: ServerFactory,
    fake_model: Path,
    with_own_scheduler: dict[str, str],
    backend: tuple[str, ...],
    number: signal.Signals,
) -> None:
    with serve(str(fake_model), *backend, env=with_own_scheduler) as server:
        undisturbed = Stream(server, *LONG)
        undisturbed.end()
        stream = Stream(server, *LONG)
        until(stream.begun)
        server.process.send_signal(number)
        until(told(server, f"{number.name}: finishing 1 open requests"))
        assert server.get("/health")[0] == 503
        status, body = server.post("/generate", {"inputs": "late"})
        assert status == 503 and b"shutting down" in body
        status, body = server.post("/v1/completions", {"prompt": "late"})
        assert status == 503 and b"server_error" in body
        assert stream.end()["generated_text"]
        assert stream.events == undisturbed.events
        assert server.process.wait(30) == 0


def test_time_that_is_up_cuts_the_rest_and_the_status_says_so(
    serve: ServerFactory, fake_model: Path
) -> None:
    limit = ("--graceful-termination-timeout", "0.3")
    with serve(str(fake_model), *FAKE, *limit, status=143) as server:
        stream = Stream(server, *ENDLESS)
        until(stream.begun)
        server.process.send_signal(signal.SIGTERM)
        assert stream.end()["error"]["code"] == "healthcheck"
        until(told(server, "time is up: 1 open requests are cut"))


@pytest.mark.parametrize(
    ("backend", "second", "status"),
    [(FAKE, signal.SIGTERM, 143), (FAKE, signal.SIGINT, 130), (OWN, signal.SIGTERM, 143)],
    ids=["TERM", "INT", "own scheduler"],
)
def test_a_second_signal_cuts_the_rest_at_once(
    serve: ServerFactory,
    fake_model: Path,
    with_own_scheduler: dict[str, str],
    backend: tuple[str, ...],
    second: signal.Signals,
    status: int,
) -> None:
    with serve(str(fake_model), *backend, env=with_own_scheduler, status=status) as server:
        engine = server.engine_pid()
        stream = Stream(server, *ENDLESS)
        until(stream.begun)
        server.process.send_signal(signal.SIGTERM)
        until(told(server, "SIGTERM: finishing"))
        server.process.send_signal(second)
        assert "error" in stream.end()
    assert not Path(f"/proc/{engine}").exists(), "the engine outlives its server"


def test_engines_that_die_one_after_another_end_the_server_with_a_status_of_their_own(
    serve: ServerFactory, fake_model: Path
) -> None:
    with serve(str(fake_model), *FAKE, status=70) as server:
        killed: set[int] = set()
        while server.process.poll() is None:
            pid = server.engine_pid()
            if pid is not None and pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            time.sleep(0.01)
        assert 2 <= len(killed) <= 8


def test_an_idle_connection_does_not_keep_a_server_alive(
    serve: ServerFactory, fake_model: Path
) -> None:
    with serve(str(fake_model), *FAKE) as server:
        idle = http.client.HTTPConnection("127.0.0.1", server.port)
        idle.request("GET", "/info")
        idle.getresponse().read()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
        idle.close()


@pytest.fixture
def hub(fake_model: Path) -> Iterator[Hub]:
    files = {file.name: file.read_bytes() for file in fake_model.iterdir()}
    card = b"---\npipeline_tag: text2text-generation\n---\n"
    with hub_of({**files, "model.safetensors": b"weights" * 100, "README.md": card}) as running:
        yield running


def test_a_model_of_the_hub_is_served_by_its_name(
    serve: ServerFactory, hub: Hub, tmp_path: Path
) -> None:
    env = hub.environment(tmp_path)
    with serve("org/tiny", "--revision", "v1", "--backend", "fake", env=env) as server:
        info = json.loads(server.get("/info")[1])
        assert info["model_id"] == "org/tiny" and info["model_sha"].startswith("0123456789abcdef")
        assert info["model_pipeline_tag"] == "text2text-generation"
        # so this route does not give the prompt back, as it does for a model of unknown kind
        [said] = json.loads(server.post("/", {"inputs": "Hi", "parameters": {}})[1])
        assert said["generated_text"] and not said["generated_text"].startswith("Hi")


def test_a_server_that_downloads_answers_health_and_ends_when_told(
    serve: ServerFactory, hub: Hub, tmp_path: Path
) -> None:
    hub.fault = "stalls"
    env = hub.environment(tmp_path)
    with serve("org/tiny", "--backend", "fake", ready=False, env=env) as server:
        until(lambda: hub.requests["model.safetensors"] > 1)
        assert server.get("/health")[0] == 503
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("number", "what"),
    [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")],
    ids=["TERM", "INT"],
)
def test_a_server_that_loads_a_model_ends_at_once_when_told(
    serve: ServerFactory, fake_model: Path, number: signal.Signals, what: str
) -> None:
    slow = ("--backend-option", "loading_s=600")
    with serve(str(fake_model), *FAKE, *slow, ready=False) as server:
        until(told(server, "loading weights"))
        assert server.get("/health")[0] == 503 and server.get("/livez")[0] == 200
        engine = server.engine_pid()
        began = time.monotonic()
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < 5
        assert f"{what}: finishing 0 open requests" in server.log.read_text()
        assert not Path(f"/proc/{engine}").exists(), "the engine outlives its server"


def test_a_model_that_the_hub_does_not_have_ends_the_server(
    serve: ServerFactory, hub: Hub, tmp_path: Path
) -> None:
    with serve("org/absent", ready=False, status=66, env=hub.environment(tmp_path)) as server:
        server.process.wait(30)
        assert "org/absent" in server.log.read_text()
