"""A Prometheus server scrapes /metrics and answers queries about what it found."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.servers import Server

Query = Callable[[str], list[float]]


@pytest.fixture
def query(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Iterator[Query]:
    """Asks a Prometheus that scrapes the server five times a second."""
    binary = Path(request.config.getoption("--prometheus"))
    if not binary.exists():
        pytest.fail(f"no Prometheus at {binary}: `make clients` fetches it, --prometheus names one")
    (tmp_path / "prometheus.yml").write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms"},
                "scrape_configs": [
                    {
                        "job_name": "tgi",
                        "static_configs": [{"targets": [f"127.0.0.1:{server.port}"]}],
                    }
                ],
            }
        )
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    process = subprocess.Popen(
        [
            str(binary),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address={address}",
            "--log.level=error",
        ],
        cwd=tmp_path,
    )

    def ask(expression: str) -> list[float]:
        url = f"http://{address}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(url, timeout=10) as reply:
                found = json.loads(reply.read())["data"]["result"]
        except OSError:
            assert process.poll() is None, "Prometheus has ended"
            return []
        return [float(series["value"][1]) for series in found]

    yield ask
    process.terminate()
    process.wait(30)


def wait_for(query: Query, expression: str) -> list[float]:
    """The answer, as soon as there is one."""
    deadline = time.monotonic() + 60
    while not (found := query(expression)):
        assert time.monotonic() < deadline, f"never: {expression}"
        time.sleep(0.1)
    return found


def test_requests_are_counted_by_prometheus(server: Server, query: Query) -> None:
    assert wait_for(query, 'up{job="tgi"} == 1') == [1]
    before = sum(query("sum(tgi_request_count)"))
    for _ in range(3):
        status, _ = server.post("/generate", {"inputs": "a", "parameters": {"max_new_tokens": 5}})
        assert status == 200
    wait_for(query, f"sum(tgi_request_count) == {before + 3:.0f}")
    # two scrapes or more, each of them whole
    assert wait_for(query, 'count_over_time(up{job="tgi"}[1m]) >= 2')
    assert wait_for(query, 'min_over_time(scrape_samples_scraped{job="tgi"}[5s]) > 20')
    # as TGI's dashboard asks
    expression = "histogram_quantile(0.5, sum by (le) (tgi_request_duration_bucket))"
    [median] = wait_for(query, expression)
    assert 0 < median < 60
