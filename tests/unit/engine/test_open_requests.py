"""What the API process remembers of a request, so that it can outlive an engine."""

from __future__ import annotations

import asyncio

import pytest

from tgi_core.contract import (
    FinishReason,
    Request,
    RequestFailed,
    RequestStarted,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.open_requests import OpenRequest
from tgi_core.errors import EngineLost


def opened() -> tuple[OpenRequest, list[OpenRequest]]:
    ended: list[OpenRequest] = []
    request = Request(request_id="a", prompt=(1, 2), stop=StopRule(max_new_tokens=9), resumed=(7,))
    return OpenRequest(request, ended.append), ended


def tokens(*ids: int, finish: FinishReason | None = None) -> TokenEvent:
    return TokenEvent(request_id="a", tokens=ids, finish=finish)


def test_a_new_engine_gets_all_tokens_so_far() -> None:
    request, _ = opened()
    request.deliver(tokens(8))
    request.deliver(tokens(9, 10))
    assert request.as_resumed().resumed == (7, 8, 9, 10)


def test_a_token_clears_the_strikes() -> None:
    request, _ = opened()
    request.strikes = 2
    request.deliver(tokens(8))
    assert request.strikes == 0


def test_a_second_start_is_not_told() -> None:
    request, _ = opened()
    started = RequestStarted(request_id="a", queue_s=0.0, num_cached=0)
    request.deliver(started)
    request.deliver(started)
    assert asyncio.run(request.next()) == [started]


def test_events_that_come_together_are_read_together() -> None:
    async def scenario() -> int:
        request, _ = opened()
        reader = asyncio.create_task(request.next())
        await asyncio.sleep(0)
        request.deliver(tokens(8))
        request.deliver(tokens(9))
        return len(await reader)

    assert asyncio.run(scenario()) == 2


@pytest.mark.parametrize(
    "last", [tokens(3, finish=FinishReason.EOS), RequestFailed(request_id="a", message="x")]
)
def test_it_ends_once(last: TokenEvent | RequestFailed) -> None:
    request, ended = opened()
    request.deliver(last)
    request.deliver(tokens(4))
    request.cancel()
    assert ended == [request] and not request.cancelled
    assert asyncio.run(request.next()) == [last]


def test_cancelling_twice_ends_it_once() -> None:
    request, ended = opened()
    request.cancel()
    request.cancel()
    assert ended == [request] and request.cancelled


def test_a_lost_engine_is_an_error_after_the_last_event() -> None:
    async def scenario() -> None:
        request, _ = opened()
        request.deliver(tokens(8))
        request.lose(EngineLost("gone"))
        assert len(await request.next()) == 1
        with pytest.raises(EngineLost, match="gone"):
            await request.next()

    asyncio.run(scenario())
