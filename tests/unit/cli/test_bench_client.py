import asyncio
import json
import re
import subprocess
import sys
import time

import pytest

from tgi_core.cli.bench_client import Connection, Reply, Target
from tgi_core.cli.bench_load import Span, Workload, run_load
from tgi_core.errors import UsageError


def body(model, tokens=5):
    return json.dumps({"model": model, "max_tokens": tokens}).encode()


def send(server, *bodies, timeout_s=30.0):
    """Sends requests one after another on one `Connection`."""

    async def all_of_them():
        connection = Connection(Target.parse(server.url, None))
        try:
            return [await connection.complete(each, timeout_s) for each in bodies]
        finally:
            connection.close()

    return asyncio.run(all_of_them())


def test_one_connection_carries_many_requests(server):
    replies = send(server, *[body("good", tokens) for tokens in (1, 5, 200)])
    assert [reply.error for reply in replies] == ["", "", ""]
    assert [reply.events for reply in replies] == [1, 5, 200]
    assert [reply.output_tokens for reply in replies] == [1, 5, 200]
    assert {reply.prompt_tokens for reply in replies} == {7}
    assert len(server.connections) == 1


def test_times_are_in_order_and_gaps_add_up(server):
    [reply] = send(server, body("good", 50))
    assert reply.start_s < reply.first_s <= reply.last_s <= reply.end_s
    assert len(reply.gaps_s) == 49
    assert sum(reply.gaps_s) == pytest.approx(reply.last_s - reply.first_s)


def test_events_that_come_together_share_the_time_before_them():
    reply = Reply(start_s=0.0)
    reply.count(2, 1.0)
    reply.count(4, 3.0)
    assert reply.first_s == 1.0
    assert reply.gaps_s == [0.0, 0.5, 0.5, 0.5, 0.5]


def test_without_usage_the_events_are_the_tokens(server):
    [reply] = send(server, body("crlf", 6))
    assert reply.output_tokens == 6
    assert reply.completion_tokens is None


def test_usage_counts_tokens_better_than_events(server):
    [reply] = send(server, body("two-tokens-an-event", 6))
    assert reply.events == 3
    assert reply.output_tokens == 6


def test_a_server_that_closes_is_connected_to_again(server):
    replies = send(server, *[body("closes-each-time")] * 3)
    assert [reply.error for reply in replies] == ["", "", ""]
    assert len(server.connections) == 3


def test_a_request_that_meets_a_closing_connection_is_sent_again(server):
    replies = send(server, *[body("gives-up-idle-connections")] * 3)
    assert [reply.error for reply in replies] == ["", "", ""]
    assert len(server.connections) == 3
    assert len(server.requests) == 5


def test_a_stream_may_end_with_a_finish_reason_alone(server):
    [reply] = send(server, body("ends-with-a-finish-reason"))
    assert reply.error == ""
    assert reply.output_tokens > 0


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("refuses", "status 429: .*Model is overloaded"),
        ("fails-in-the-middle", "the engine is gone"),
        ("hangs-up", "lost after 1 events"),
        ("forgets-the-end", r"without \[DONE\]"),
        ("speaks-no-http", "not HTTP"),
    ],
)
def test_a_failure_is_told_and_the_next_request_succeeds(server, model, error):
    failed, good = send(server, body(model), body("good"))
    assert re.search(error, failed.error)
    assert good.error == ""


def test_a_server_that_never_answers_runs_into_the_timeout(server):
    failed, good = send(server, body("never-answers"), body("good"), timeout_s=0.2)
    assert failed.error == "no end within 0.2 s"
    assert good.error == ""


def test_nobody_listening_is_an_error_of_the_request(server):
    server.url = "http://127.0.0.1:1"
    [reply] = send(server, body("good"))
    assert reply.error
    assert reply.output_tokens == 0


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "tls"),
    [
        ("http://127.0.0.1:3000", "127.0.0.1", 3000, "/v1/completions", False),
        ("http://server/v1/", "server", 80, "/v1/completions", False),
        ("https://server/prefix", "server", 443, "/prefix/v1/completions", True),
        ("http://[::1]:80/v1", "::1", 80, "/v1/completions", False),
    ],
)
def test_urls_are_understood(url, host, port, path, tls):
    target = Target.parse(url, "secret")
    assert (target.host, target.port, target.tls is not None) == (host, port, tls)
    assert target.head.startswith(f"POST {path} HTTP/1.1\r\n".encode())
    assert b"Authorization: Bearer secret\r\n" in target.head


@pytest.mark.parametrize("url", ["localhost:3000", "ftp://server", "http://", "http://a:b"])
def test_other_urls_are_refused(url):
    with pytest.raises(UsageError, match="--url"):
        Target.parse(url, None)


SERVER = r"""
import asyncio, json, sys

EVENT = b'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","created":1800000000,' \
    b'"model":"m","choices":[{"index":0,"text":" word","finish_reason":null}]}\n\n'
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
TAIL = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"

async def answer(reader, writer):
    while head := await reader.readuntil(b"\r\n\r\n"):
        length = int(head.rpartition(b":")[2])
        tokens = json.loads(await reader.readexactly(length))["max_tokens"]
        writer.write(HEAD)
        for _ in range(tokens):
            writer.write(CHUNK)
            await asyncio.sleep(0)
            await writer.drain()
        writer.write(TAIL)

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@pytest.mark.slow
def test_one_core_receives_more_than_forty_thousand_events_a_second():
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        target = Target.parse(f"http://127.0.0.1:{int(process.stdout.readline())}", None)
        workload = Workload(
            model="m",
            prompt_tokens=Span(low=32, high=512),
            output_tokens=Span(low=1000, high=1000),
            shared_prefix=0,
            ignore_eos=True,
            seed=0,
        )
        before_s = time.process_time()
        load = asyncio.run(run_load(target, workload.bodies(32, 64), 32, 60, lambda reply: None))
        used_s = time.process_time() - before_s
        process.kill()
    assert not any(reply.error for reply in load.replies)
    events = sum(reply.events for reply in load.replies)
    assert events == 64_000
    print(f"{events / used_s:.0f} events for each second of the client's own time")
    assert events / used_s > 40_000
