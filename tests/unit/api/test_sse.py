"""A stream that is silent says so, and one that is busy does not."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/chat/completions", CHAT), ("/generate_stream", {"inputs": "Hi"})],
)
def test_a_silent_stream_gets_comments_and_still_notices_that_the_client_leaves(server, path, body):
    server.service.limits = replace(server.service.limits, keep_alive_s=0.005)
    server.engine.script = lambda request: []

    async def wait_for_comments():
        gone = asyncio.Event()
        reply = server.new_reply()
        exchange = asyncio.ensure_future(
            server.exchange("POST", path, body, gone=gone, reply=reply)
        )
        while len(reply.chunks) < 2:
            await asyncio.sleep(0)
        gone.set()
        return await exchange

    reply = asyncio.run(wait_for_comments())
    assert set(reply.chunks) == {b":\n\n"}
    assert (reply.status, reply.ended) == (200, False)
    assert server.idle


def test_a_busy_stream_gets_no_comments(server):
    reply = server.post("/v1/chat/completions", CHAT)
    assert b"\n:" not in reply.body and not reply.body.startswith(b":")


def test_an_error_after_a_comment_is_an_event(server):
    server.service.limits = replace(server.service.limits, keep_alive_s=0.0)
    server.engine.script = lambda request: [()]
    reply = server.post("/v1/chat/completions", CHAT)
    assert reply.status == 200
    assert reply.events[0]["error"]["http_status_code"] == 500
    assert reply.events[1] == "[DONE]"
