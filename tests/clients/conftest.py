"""Servers for the clients: started with the project's Python, asked with the clients' own.

An environment of clients has no tgi_core, so everything of ours runs as another process.
"""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import Server

ROOT = Path(__file__).parents[2]

WRITE_FAKE_MODEL = """
import sys
from pathlib import Path
from tgi_core.testing.models import write_fake_model
write_fake_model(Path(sys.argv[1]))
"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--server-python",
        default=str(ROOT / ".venv/bin/python"),
        help="the Python that has tgi_core; default: that of .venv",
    )
    parser.addoption(
        "--prometheus",
        default=str(ROOT / ".venv-clients/prometheus/usr/bin/prometheus"),
        help="a Prometheus server; default: the one that `make clients` puts there",
    )


Serve = Callable[..., Server]


@pytest.fixture(scope="session")
def serve(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Starts `tgi serve` with arguments; it runs until the session ends."""
    python = request.config.getoption("--server-python")

    def start(*arguments: str) -> Server:
        running = _running(python, tmp_path_factory.mktemp("server"), *arguments)
        server = running.__enter__()
        request.addfinalizer(lambda: running.__exit__(None, None, None))
        return server

    return start


@contextmanager
def _running(python: str, folder: Path, *arguments: str) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log"
    command = [python, "-m", "tgi_core", "serve", *arguments, "--threads", "1"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=output, stderr=output, text=True, cwd=ROOT
        )
    try:
        server = Server(process, port, log)
        server.wait_ready()
        yield server
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def fake_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "fake-model"
    python = request.config.getoption("--server-python")
    subprocess.run([python, "-c", WRITE_FAKE_MODEL, str(folder)], check=True, cwd=ROOT)
    return folder


@pytest.fixture(scope="session")
def server(serve: Serve, fake_model: Path) -> Server:
    """Noise in the shape of answers: quick, and the same each time."""
    return serve(str(fake_model), "--backend", "fake", "--served-model-name", "fake-model")


@pytest.fixture(scope="session")
def embedding_server(serve: Serve, fake_model: Path) -> Server:
    """The same, and vectors."""
    flags = ("--backend", "fake", "--backend-option", "embedding_size=16")
    return serve(str(fake_model), *flags, "--served-model-name", "fake-model")


@pytest.fixture(scope="session")
def narrow_server(serve: Serve, fake_model: Path) -> Server:
    """Room for one sequence: whoever asks for two choices finds it overloaded."""
    return serve(str(fake_model), "--backend", "fake", "--max-concurrent-requests", "1")


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M-Instruct, where the text itself matters."""
    folder = ROOT / ".models/smollm2-135m-instruct"
    python = request.config.getoption("--server-python")
    subprocess.run([python, str(ROOT / "tests/smollm2.py"), str(folder)], check=True)
    return folder
