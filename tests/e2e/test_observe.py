"""What an operator sees of a running server: metrics, log lines and traces, after real traffic."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.collector import attributes, collecting
from tests.exposition import samples
from tests.servers import Server, ServerFactory
from tgi_core.observe.catalog import CATALOG, Kind
from tgi_core.testing.models import write_fake_model

BOARD = """
tgi_request_queue_duration_bucket
tgi_batch_inference_duration_bucket method=prefill
tgi_batch_inference_duration_bucket method=decode
tgi_batch_forward_duration_bucket method=prefill
tgi_batch_forward_duration_bucket method=decode
tgi_batch_decode_duration_bucket method=prefill
tgi_batch_decode_duration_bucket method=decode
tgi_batch_filter_duration_bucket method=prefill
tgi_batch_filter_duration_bucket method=decode
tgi_batch_concat_duration_bucket method=decode
tgi_request_generated_tokens_sum
tgi_request_generated_tokens_count
tgi_request_generated_tokens_bucket
tgi_request_input_length_bucket
tgi_request_success
tgi_request_failure err=
tgi_request_mean_time_per_token_duration_bucket
tgi_request_count
tgi_queue_size
tgi_batch_current_max_tokens
tgi_request_skipped_tokens_bucket
tgi_request_duration_bucket
tgi_batch_current_size
tgi_batch_concat reason=
""".strip().splitlines()
"""The series that the panels of TGI's Grafana board ask for, some by a label."""


PROMPT = "Once upon a time there was a road" * 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("fake"))


@pytest.fixture(scope="module")
def server(serve: ServerFactory, model: Path) -> Iterator[Server]:
    flags = ("--backend", "fake", "--max-total-tokens", "4096", "--max-concurrent-requests", "4")
    with serve(str(model), *flags, "--json-output") as server:
        yield server


def generate(server: Server, num_tokens: int) -> tuple[int, bytes]:
    """As many tokens as wanted, come what may."""
    body = {"prompt": PROMPT, "max_tokens": num_tokens, "ignore_eos": True}
    return server.post("/v1/completions", body)


def metrics(server: Server) -> dict[str, float]:
    status, page = server.get("/metrics")
    assert status == 200
    return samples(page)


def eventually(server: Server, true: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The metrics when they say so; those of the engine come twice a second."""
    deadline = time.monotonic() + 30
    while not true(found := metrics(server)):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def open_stream(server: Server, num_tokens: int) -> Any:
    """A stream of which the first event has come."""
    body = {"prompt": "x", "max_tokens": num_tokens, "ignore_eos": True, "stream": True}
    request = urllib.request.Request(
        server.url + "/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    reply = urllib.request.urlopen(request, timeout=60)
    assert reply.readline().startswith(b"data:")
    return reply


def lines(server: Server) -> list[dict[str, Any]]:
    """The log, where it is about requests."""
    found = [json.loads(line) for line in server.log.read_text().splitlines() if line[:1] == "{"]
    return [line for line in found if line["target"] == "tgi_core.observe.requests"]


def test_every_metric_after_traffic(server: Server) -> None:
    before = metrics(server)
    assert generate(server, 30)[0] == 200
    assert generate(server, 0)[0] == 422
    assert server.post("/generate", {"inputs": 5})[0] == 422
    # several at once: sequences join and leave a running batch
    threads = [threading.Thread(target=generate, args=(server, 200 * n)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
    for thread in threads:
        thread.join(60)
    # a full house, then one too many, then they all leave
    streams = [open_stream(server, 4000) for _ in range(4)]
    running = eventually(server, lambda found: found["tgi_batch_current_size"] > 0)
    assert running["tgi_batch_current_max_tokens"] > 4000
    assert generate(server, 5)[0] == 429
    for stream in streams:
        stream.close()
    dropped = "tgi_request_failure{err=dropped}"
    eventually(server, lambda found: found[dropped] + found["tgi_request_success"] >= 9)
    found = eventually(server, lambda found: found["tgi_batch_current_size"] == 0)

    grown = {name: value - before[name] for name, value in found.items()}
    assert grown["tgi_request_count"] == 12
    assert grown["tgi_request_failure{err=validation}"] == 2
    assert grown["tgi_request_failure{err=overloaded}"] == 1
    assert grown[dropped] + grown["tgi_request_success"] == 9
    assert grown[dropped] >= 1
    assert grown["tgi_request_cancelled_total{progress=inference}"] == grown[dropped]
    succeeded = grown["tgi_request_success"]
    for metric in CATALOG:
        if metric.kind is Kind.HISTOGRAM and metric.name.startswith("tgi_request_"):
            assert grown[metric.name + "_count"] >= succeeded, metric.name
    assert grown["tgi_request_duration_count"] == succeeded
    generated = grown["tgi_request_generated_tokens_sum"]
    assert generated >= 30 + 200 + 400 + 600 + 800
    assert grown["tgi_generated_tokens_total"] >= generated
    assert grown["tgi_prompt_tokens_total"] > 0
    for method in ("prefill", "decode"):
        assert grown[f"tgi_batch_inference_count{{method={method}}}"] > 0
        for part in ("inference", "forward", "decode", "filter"):
            name = f"tgi_batch_{part}_duration"
            if (part, method) == ("filter", "prefill"):
                continue  # a sequence that ends with its first token
            assert grown[f"{name}_count{{method={method}}}"] > 0, (part, method)
            assert grown[f"{name}_sum{{method={method}}}"] > 0, (part, method)
    decodes = "{method=decode}"
    assert (
        grown["tgi_batch_inference_duration_sum" + decodes]
        >= grown["tgi_batch_forward_duration_sum" + decodes]
    )
    assert grown["tgi_batch_next_size_sum"] == grown["tgi_request_input_length_count"]
    assert grown["tgi_batch_concat{reason=chunking}"] > 0
    assert found["tgi_batch_max_total_tokens"] == found["tgi_kv_cache_capacity_tokens"] > 0
    assert found["tgi_engine_ready"] == 1


def test_prefix_hits_parked_sequences_and_the_cache_show(server: Server) -> None:
    before = metrics(server)
    for _ in range(2):
        assert generate(server, 20)[0] == 200
    found = eventually(
        server,
        lambda found: (
            found["tgi_prefix_cache_hit_tokens_total"] > before["tgi_prefix_cache_hit_tokens_total"]
        ),
    )
    assert found["tgi_kv_cache_parked_sequences"] > 0
    assert 0 < found["tgi_kv_cache_used_tokens"] <= found["tgi_kv_cache_capacity_tokens"]


def test_every_panel_of_tgis_board_finds_its_series(server: Server) -> None:
    assert generate(server, 5)[0] == 200
    found = metrics(server)
    missing = []
    for wanted in BOARD:
        name, _, label = wanted.partition(" ")
        if not any(series.split("{")[0] == name and label in series for series in found):
            missing.append(wanted)
    assert not missing


def test_each_request_is_one_line_with_tgis_fields_and_no_text(server: Server) -> None:
    request_id = "one-line-please"
    body = json.dumps({"inputs": "a-secret-prompt", "parameters": {"max_new_tokens": 3}}).encode()
    for path, sent in (("/generate", body), ("/generate", b"{"), ("/generate_stream", body)):
        request = urllib.request.Request(
            server.url + path,
            sent,
            {"Content-Type": "application/json", "x-request-id": request_id},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                reply.read()
                assert reply.headers["x-request-id"] == request_id
        except urllib.error.HTTPError as error:
            error.close()
    deadline = time.monotonic() + 30
    while True:
        whole, bad, *more = [
            *(line for line in lines(server) if line["request_id"] == request_id),
            *[None] * 3,
        ][:3]
        if more[0] is not None:
            break
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (whole["level"], whole["message"]) == ("INFO", "Success")
    assert (whole["prompt_tokens"] > 0, whole["generated_tokens"]) == (True, 3)
    assert whole["parameters"] == "max_new_tokens: 3"
    for name in ("total_time", "validation_time", "queue_time", "inference_time", "time_per_token"):
        assert re.fullmatch(r"[\d.]+(s|ms|µs|ns)", whole[name]), name
    assert (bad["level"], bad["err"]) == ("ERROR", "validation")
    assert more[0]["operation"] == "generate_stream"
    assert "a-secret-prompt" not in server.log.read_text()


def test_counters_survive_an_engine(serve: ServerFactory, model: Path) -> None:
    with serve(str(model), "--backend", "fake") as server:
        assert generate(server, 50)[0] == 200
        steps = "tgi_batch_inference_count{method=decode}"
        before = eventually(server, lambda found: found[steps] > 0)
        pid = server.engine_pid()
        assert pid is not None
        subprocess.run(["kill", "-KILL", str(pid)], check=True)
        eventually(server, lambda found: found["tgi_engine_ready"] == 0)
        found = eventually(server, lambda found: found["tgi_engine_ready"] == 1)
        assert found["tgi_engine_restarts_total"] == 1
        assert found[steps] >= before[steps]
        assert generate(server, 50)[0] == 200
        eventually(server, lambda found: found[steps] > before[steps])


def test_traces_reach_a_collector_as_children_of_the_clients(
    serve: ServerFactory, model: Path
) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with collecting() as collector:
        flags = ("--otlp-endpoint", f"http://{collector.address}", "--otlp-service-name", "mine")
        with serve(str(model), "--backend", "fake", *flags) as server:
            request = urllib.request.Request(
                server.url + "/v1/completions",
                json.dumps({"prompt": "x", "max_tokens": 5, "temperature": 0}).encode(),
                {"Content-Type": "application/json", "traceparent": f"00-{trace}-{parent}-01"},
            )
            with urllib.request.urlopen(request, timeout=60) as reply:
                returned = reply.headers["traceparent"]
            body = {"inputs": PROMPT, "parameters": {"max_new_tokens": 3}}
            assert server.post("/generate", body)[0] == 200
        # the server has ended, so all was sent
        spans = {span.name: span for span in collector.spans}
        parts = {"validate", "queued", "infer", "prefill", "decode"}
        assert set(spans) == {"completions", "generate", *parts}
        whole = spans["completions"]
        assert returned == f"00-{trace}-{whole.span_id.hex()}-01"
        assert (whole.trace_id.hex(), whole.parent_span_id.hex()) == (trace, parent)
        assert attributes(whole)["gen_ai.usage.output_tokens"] == 5
        assert collector.resources[0]["service.name"] == "mine"


def test_an_endpoint_without_the_plugin_says_what_to_install(model: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ("--otlp-endpoint", "http://127.0.0.1:1", "--no-plugins", "--port", str(port))
    ran = subprocess.run(
        [sys.executable, "-m", "tgi_core", "serve", str(model), "--backend", "fake", *flags],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 2
    assert 'pip install "tgi-core[otlp]"' in ran.stderr
