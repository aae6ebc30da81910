"""Requests with images for the fake backend, whose images are any bytes."""

from __future__ import annotations

from tgi_core.contract import (
    Image,
    Request,
    RequestFailed,
    RequestStarted,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.step_engine import StepEngine

PLACEHOLDER = 99


def picture(data: bytes, *spans: tuple[int, int]) -> Image:
    return Image(data=data, digest=data.hex(), spans=spans)


def show(name: str, data: bytes = b"cat", *, size: int = 40, max_new: int = 6) -> Request:
    prompt = (7, 8, 9, *[PLACEHOLDER] * size, *range(20, 40))
    return Request(
        request_id=name,
        prompt=prompt,
        images=(picture(data, (3, 3 + size)),),
        stop=StopRule(max_new_tokens=max_new),
    )


def cached(engine: StepEngine, request: Request) -> int:
    """Tokens that the request did not have to compute."""
    engine.submit(request)
    found = -1
    while engine.busy:
        for event in engine.poll(0.01):
            if isinstance(event, RequestStarted):
                found = event.num_cached
    return found


def run_failing(engine: StepEngine, *requests: Request) -> tuple[list[int], RequestFailed]:
    """Runs requests of which one must fail: the tokens of the others, and its failure."""
    for request in requests:
        engine.submit(request)
    tokens: list[int] = []
    failures: list[RequestFailed] = []
    while engine.busy:
        for event in engine.poll(0.01):
            if isinstance(event, TokenEvent):
                tokens += event.tokens
            elif isinstance(event, RequestFailed):
                failures.append(event)
    [failure] = failures
    return tokens, failure
