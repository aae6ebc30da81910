"""A hub on this machine: as much of its API as fetching a model takes, and its faults."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_letmein"


class Hub(ThreadingHTTPServer):
    """Serves one repository, org/tiny."""

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(files)
        self.fault = ""
        """"gated", "private", "expired", "forbidden", "down", or "stalls"."""
        self.cuts = 0
        """So many downloads of weights end in the middle."""
        self.requests: Counter[str] = Counter()
        self.ranges: list[str] = []
        self.bytes_sent = 0
        """Of files, whole or in part."""
        self.agents: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self, home: Path, **more: str) -> dict[str, str]:
        """For a process that should ask this hub and keep what it gets under `home`."""
        inherited = {key: value for key, value in os.environ.items() if "HF_" not in key}
        return {
            **inherited,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            **more,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.requests[path.rpartition("/")[2]] += 1
        self.server.agents.add(self.headers.get("user-agent", ""))
        if self.server.fault == "down":
            self._send(503, b"busy")
        elif self.server.fault == "gated" and self._token() != TOKEN:
            self._send(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "restricted"})
        elif self.server.fault == "expired":
            words = "Invalid credentials in Authorization header"
            self._send(401, b"{}", {"X-Error-Message": words})
        elif self.server.fault == "forbidden":
            self._send(403, b"{}")
        elif "org/tiny" not in path or (self.server.fault == "private" and self._token() != TOKEN):
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif match := re.fullmatch(r"/api/models/org/tiny(?:/revision/(.+))?", path):
            self._info(match.group(1) or "main")
        elif path.startswith("/api/models/org/tiny/tree/"):
            self._send_json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": _etag(data)}
                    for name, data in self.server.files.items()
                ]
            )
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            self._file(path.removeprefix(f"/org/tiny/resolve/{COMMIT}/"), with_body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})

    def _token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    def _info(self, revision: str) -> None:
        if revision not in ("main", "v1", COMMIT):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return
        self._send_json({"id": "org/tiny", "modelId": "org/tiny", "sha": COMMIT, "siblings": []})

    def _file(self, name: str, with_body: bool) -> None:
        data = self.server.files.get(name)
        if data is None:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": COMMIT}
        body = data
        if wanted := self.headers.get("range"):
            self.server.ranges.append(wanted)
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            body = data[int(start) : int(end) + 1 if end else len(data)]
            last = int(start) + len(body) - 1
            headers["Content-Range"] = f"bytes {start}-{last}/{len(data)}"
        self.server.bytes_sent += len(body) if with_body else 0
        self.send_response(206 if wanted else 200)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if not with_body:
            return
        if name.endswith(".safetensors") and self.server.fault == "stalls":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.rfile.read(1)  # until the client goes away
        elif name.endswith(".safetensors") and self.server.cuts:
            self.server.cuts -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silence."""


def _etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@contextmanager
def hub_of(files: Mapping[str, bytes]) -> Iterator[Hub]:
    with Hub(files) as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
