"""Prompts that go to an encoder: whole, once, and to nothing but the output's beginning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.engines import fake_engine, generate, requests
from tgi_core.contract import (
    Fork,
    PromptScored,
    Request,
    RequestFailed,
    RequestStarted,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.limits import EngineLimits

START = 5
SHAPES: dict[str, dict[str, Any]] = {
    "plainly": {},
    "a small cache": {"cache_tokens": 256},
    "operator's small chunks": {"limits": EngineLimits(max_chunk_tokens=7, max_step_tokens=24)},
    "no forks": {"fork": Fork.NONE},
    "no prefix cache": {"limits": EngineLimits(prefix_caching=False)},
    "whole prompts only": {"chunked": False},
    "three rows": {"max_rows": 3, "max_sequences": 3},
    "not mixed": {"mixed": False},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_tokens_do_not_depend_on_company(shape: dict[str, Any]) -> None:
    """The fake backend refuses a prompt in parts, or one without the decoder's start."""
    wanted = requests(30, max_new=120)
    expected: dict[str, list[int]] = {}
    for request in wanted:
        expected |= generate(fake_engine(decoder_start=START), [request])
    assert generate(fake_engine(decoder_start=START, **shape), wanted) == expected


def test_the_decoder_begins_with_its_start() -> None:
    request = requests(1)[0]
    as_prompt = replace(request, prompt=(*request.prompt, START))
    assert generate(fake_engine(decoder_start=START), [_unpenalized(request)]) == generate(
        fake_engine(), [_unpenalized(as_prompt)]
    )


def _unpenalized(request: Request) -> Request:
    sampling = replace(request.sampling, repetition_penalty=1.0, frequency_penalty=0.0)
    return replace(request, sampling=sampling)


def test_equal_prompts_are_encoded_once() -> None:
    """As when one request wants several answers; prompts that only begin alike share nothing."""
    engine = fake_engine(decoder_start=START)
    prompt = tuple(range(10, 110))
    same = [
        Request(request_id=f"s{i}", prompt=prompt, stop=StopRule(max_new_tokens=5))
        for i in range(3)
    ]
    other = replace(same[0], request_id="other", prompt=(*prompt, 9))
    cached = {}
    for request in (*same, other):
        engine.submit(request)
    while engine.busy:
        for event in engine.poll(0.001):
            assert not isinstance(event, RequestFailed), event
            if isinstance(event, RequestStarted):
                cached[event.request_id] = event.num_cached
    assert sorted(cached[f"s{i}"] for i in range(3)) == [0, 100, 100]
    assert cached["other"] == 0


def test_prompt_and_output_share_the_room_that_is_told() -> None:
    engine = fake_engine(decoder_start=START, max_sequence_tokens=64)
    assert engine.info.encodes
    assert engine.info.max_sequence_tokens == 63
    assert engine.info.max_prompt_tokens == 62
    request = Request(request_id="a", prompt=(1,) * 62, stop=StopRule(max_new_tokens=9))
    assert len(generate(engine, [request])["a"]) == 1
    engine.submit(replace(request, request_id="b", prompt=(1,) * 63))
    [event] = engine.poll(0)
    assert isinstance(event, RequestFailed) and event.invalid


def test_a_prompts_log_probabilities_are_those_of_the_start() -> None:
    """TGI tells of the decoder's first token alone, and of no probability."""
    engine = fake_engine(decoder_start=START)
    engine.submit(
        Request(
            request_id="a",
            prompt=tuple(range(20)),
            stop=StopRule(max_new_tokens=2),
            prompt_logprobs=True,
        )
    )
    events = []
    while engine.busy:
        events += engine.poll(0.001)
    [scored] = [event for event in events if isinstance(event, PromptScored)]
    assert (scored.start, scored.logprobs) == ((START,), ())
    assert sum(isinstance(event, TokenEvent) for event in events) == 2


def test_a_sequence_goes_on_after_its_engine_died() -> None:
    request = _unpenalized(replace(requests(1)[0], stop=StopRule(max_new_tokens=12)))
    whole = generate(fake_engine(decoder_start=START), [request])["r0"]
    rest = replace(request, resumed=tuple(whole[:5]))
    assert generate(fake_engine(decoder_start=START), [rest])["r0"] == whole[5:]
