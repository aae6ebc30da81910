"""Adjustments reach the sampler for the sequences that asked for them, and no other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.engines import LOAD, generate, no_progress, requests
from tests.sampling_batches import packed
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    Adjustment,
    Boost,
    Feature,
    LogitsRows,
    PromptScored,
    Request,
    RequestFailed,
    SamplingParams,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import GenerationError
from tgi_core.testing.fake import FakeBackend, FakeShape

VOCAB = 128


class NextInLine:
    """Forces the token after the last one."""

    name = "line"

    def boost(self, tokens: Sequence[int], vocab_size: int) -> Boost:
        return Boost(packed([(tokens[-1] + 1) % vocab_size], vocab_size), 1000.0)


class Ban:
    """Forbids half of the vocabulary."""

    name = "ban"

    def boost(self, tokens: Sequence[int], vocab_size: int) -> Boost:
        return Boost(packed(range(0, vocab_size, 2), vocab_size), -np.inf)


class Failing:
    """Cannot go on after the token 9."""

    name = "failing"

    def __init__(self, error: Exception) -> None:
        self.error = error

    def boost(self, tokens: Sequence[int], vocab_size: int) -> Boost:
        if 9 in tokens:
            raise self.error
        return Boost(packed([9], vocab_size), 1000.0)


def engine_with(*adjustments: Adjustment, **shape: Any) -> StepEngine:
    engine = StepEngine(
        FakeBackend(FakeShape(**shape)),
        FirstComeFirstServed(),
        adjustments={adjustment.name: adjustment for adjustment in adjustments},
    )
    engine.start(LOAD, no_progress)
    return engine


def adjusted(*names: str, request_id: str = "a", **sampling: Any) -> Request:
    return Request(
        request_id=request_id,
        prompt=(5, 20),
        sampling=SamplingParams(adjustments=names, **sampling),
        stop=StopRule(max_new_tokens=10),
    )


@pytest.mark.parametrize("shape", [{}, {"steps_in_flight": 2}, {"logits": LogitsRows.LAST}])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}])
def test_only_sequences_that_asked_are_adjusted(
    shape: dict[str, Any], sampling: dict[str, Any]
) -> None:
    others = requests(8, **sampling)
    engine = engine_with(NextInLine(), Ban(), **shape)
    expected = generate(engine_with(), others)
    outputs = generate(engine, [adjusted("line", **sampling), *others], per_step=9)
    assert outputs.pop("a") == list(range(21, 31))
    assert outputs == expected


def test_several_adjustments_add_up() -> None:
    engine = engine_with(NextInLine(), Ban())
    tokens = generate(engine, [adjusted("ban", temperature=1.5)])["a"]
    assert all(token % 2 for token in tokens) and len(set(tokens)) > 3
    # after 20 comes 21; what should follow it is forbidden
    first, second, *_ = generate(engine, [adjusted("line", "ban")])["a"]
    assert first == 21 and second % 2


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (GenerationError("no way on"), "the adjustment 'failing': no way on"),
        (KeyError("a bug"), "the adjustment 'failing' failed"),
    ],
)
@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_an_adjustment_that_fails_fails_its_request_alone(
    error: Exception, message: str, steps_in_flight: int
) -> None:
    others = requests(5)
    engine = engine_with(Failing(error), steps_in_flight=steps_in_flight)
    expected = generate(engine_with(), others)
    outputs: dict[str, list[int]] = {r.request_id: [] for r in others}
    failed = []
    for request in (adjusted("failing", request_id="bad"), *others):
        engine.submit(request)
    while engine.busy:
        for event in engine.poll(0):
            if isinstance(event, TokenEvent) and event.request_id != "bad":
                outputs[event.request_id] += event.tokens
            elif isinstance(event, RequestFailed):
                failed.append((event.request_id, event.message, event.invalid))
    assert failed == [("bad", message, False)]
    assert outputs == expected


def test_prompts_are_scored_without_adjustments() -> None:
    request = replace(adjusted("line"), prompt_logprobs=True)
    plain = replace(request, sampling=SamplingParams())

    def scored(request: Request) -> list[PromptScored]:
        engine = engine_with(NextInLine())
        engine.submit(request)
        events = []
        while engine.busy:
            events += engine.poll(0)
        return [event for event in events if isinstance(event, PromptScored)]

    assert scored(request) == scored(plain) != []


def test_what_no_plugin_offers_is_refused_by_name() -> None:
    engine = engine_with(Ban())
    engine.submit(adjusted("line"))
    (event,) = engine.poll(0)
    assert isinstance(event, RequestFailed) and event.invalid
    assert event.message == "this engine cannot make the adjustment 'line'"


def test_the_engine_says_that_requests_may_ask_for_a_watermark() -> None:
    marking = Ban()
    marking.name = "watermark"
    assert Feature.WATERMARK in engine_with(marking).info.features
    assert Feature.WATERMARK not in engine_with(Ban()).info.features
