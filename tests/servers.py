"""Servers as users start them: `tgi serve` in a process of its own, asked over HTTP.

Imports nothing of ours, so that environments of clients can use it.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ServerFactory = Callable[..., Any]


@dataclass
class Server:
    """A `tgi serve` of one's own."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def post(
        self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        sent = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), sent)
        try:
            with urllib.request.urlopen(request, timeout=120) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def engine_pid(self) -> int | None:
        """The child process that holds the model."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        for pid in children.read_text().split():
            # one that was killed may be gone since it was listed
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if "tgi_core.engine.process" in Path(f"/proc/{pid}/cmdline").read_text():
                    return int(pid)
        return None

    def wait_ready(self, timeout_s: float = 180) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{self.log.read_text()}")
            try:
                if self.get("/health")[0] == 200:
                    return
            except (urllib.error.URLError, ConnectionError):
                pass
            time.sleep(0.1)
        raise AssertionError(f"not ready in time:\n{self.log.read_text()}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    python: str,
    folder: Path,
    *arguments: str,
    ready: bool = True,
    status: int = 0,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[Server]:
    """A server whose log is in `folder`; ends it with SIGTERM, which must give status 0.

    Who expects another status ends the server himself.
    """
    port, log = free_port(), folder / "log"
    # one thread: tests run side by side, and threads that share a core wait
    command = [python, "-m", "tgi_core", "serve", *arguments, "--threads", "1"]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=output,
            stderr=output,
            text=True,
            env=env,
            cwd=cwd,
        )
    server = Server(process, port, log)
    try:
        if ready:
            server.wait_ready()
        yield server
        if process.poll() is None and not status:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == status, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
