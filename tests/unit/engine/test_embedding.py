"""A text's vector is that which it gets alone, and takes its turn with everything else."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from tests.engines import alone, fake_engine, generate, requests
from tgi_core.contract import (
    Event,
    Feature,
    Pooling,
    PromptEmbedded,
    Request,
    RequestFailed,
    RequestStarted,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import OutOfMemory
from tgi_core.testing.fake import FakeBackend, FakeShape

SIZE = 8
SHAPES: dict[str, dict[str, Any]] = {
    "whole texts": {},
    "chunks of 1": {"limits": EngineLimits(max_chunk_tokens=1)},
    "chunks of 7": {"limits": EngineLimits(max_chunk_tokens=7)},
    "a small token budget": {"limits": EngineLimits(max_step_tokens=24)},
    "two steps in flight": {"steps_in_flight": 2},
    "a small cache": {"cache_tokens": 256},
    "neither mixed nor chunked": {"mixed": False, "chunked": False},
    "three rows": {"max_rows": 3, "max_sequences": 3},
}


def text(request_id: str, prompt: Any) -> Request:
    return Request(
        request_id=request_id,
        prompt=tuple(prompt),
        stop=StopRule(max_new_tokens=0),
        embedding=True,
    )


def texts(count: int, *, longest: int = 60) -> list[Request]:
    rng = random.Random(7)
    return [
        text(f"e{i}", (rng.randrange(128) for _ in range(rng.randint(1, longest))))
        for i in range(count)
    ]


def engine_of(pooling: Pooling = Pooling.MEAN, **more: Any) -> StepEngine:
    return fake_engine(**{"embedding_size": SIZE, "pooling": pooling, **more})


def run(engine: StepEngine) -> list[Event]:
    events: list[Event] = []
    while engine.busy:
        events += engine.poll(0)
    return events


def vectors(events: list[Event]) -> dict[str, np.ndarray]:
    found = {}
    for event in events:
        assert not isinstance(event, RequestFailed), event
        if isinstance(event, PromptEmbedded):
            found[event.request_id] = np.frombuffer(event.vector, "<f4")
    return found


def by_itself(request: Request, pooling: Pooling) -> np.ndarray:
    engine = engine_of(pooling)
    engine.submit(request)
    return vectors(run(engine))[request.request_id]


@pytest.mark.parametrize("pooling", Pooling)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_vectors_and_tokens_do_not_depend_on_company(
    shape: dict[str, Any], pooling: Pooling
) -> None:
    generating = requests(12, max_new=60)
    wanted = texts(24)
    engine = engine_of(pooling, **shape)
    for request in wanted:
        engine.submit(request)
    # polls until all is done, the texts' events are looked at below
    seen: list[Event] = []
    poll = engine.poll

    def noted(timeout_s: float) -> Any:
        events = poll(timeout_s)
        seen.extend(events)
        return events

    engine.poll = noted  # type: ignore[method-assign]
    assert generate(engine, generating) == alone(generating)
    found = vectors(seen)
    assert found.keys() == {request.request_id for request in wanted}
    for request in wanted:
        np.testing.assert_allclose(
            found[request.request_id], by_itself(request, pooling), rtol=1e-4, atol=1e-5
        )


def test_vectors_hold_what_their_pooling_says() -> None:
    prompt = list(range(20, 29))
    last = [by_itself(text("e", prompt[: i + 1]), Pooling.LAST) for i in range(len(prompt))]
    want = {Pooling.FIRST: last[0], Pooling.LAST: last[-1], Pooling.MEAN: np.mean(last, 0)}
    for pooling, vector in want.items():
        np.testing.assert_allclose(by_itself(text("e", prompt), pooling), vector, rtol=1e-5)


def test_the_two_kinds_of_steps_take_turns() -> None:
    engine = engine_of(limits=EngineLimits(max_step_tokens=16))
    for request in (text("e", range(100)), *requests(1, max_prompt=4, max_new=40)):
        engine.submit(request)
    kinds: list[type[Event]] = []
    while PromptEmbedded not in kinds:
        kinds += [type(event) for event in engine.poll(0)]
    tokens_before_vector = kinds.count(TokenEvent)
    # seven steps of 16 tokens, and a token between any two of them
    assert tokens_before_vector == 6


def test_a_text_waits_for_its_turn_in_the_queue() -> None:
    engine = engine_of(max_rows=1, max_sequences=1)
    [first] = requests(1, max_new=8)
    engine.submit(first)
    engine.submit(text("e", range(5)))
    kinds = [type(event) for event in run(engine) if not isinstance(event, RequestStarted)]
    assert kinds[-1] is PromptEmbedded and set(kinds[:-1]) == {TokenEvent}


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_nothing_is_left_of_a_text(steps_in_flight: int) -> None:
    engine = engine_of(steps_in_flight=steps_in_flight, limits=EngineLimits(max_chunk_tokens=16))
    engine.submit(text("done", range(40)))
    assert list(vectors(run(engine))) == ["done"]
    stats = engine.stats()
    assert (stats.cache_tokens_used, stats.num_parked, stats.num_running) == (0, 0, 0)
    assert stats.prefill_tokens == 40 and stats.generated_tokens == 0
    for polls in range(4):
        engine.submit(text("cancelled", range(60)))
        for _ in range(polls):
            engine.poll(0)
        engine.cancel("cancelled")
        assert engine.stats().cache_tokens_used == 0
        assert not vectors(run(engine))


def test_a_text_shares_no_prefix() -> None:
    engine = engine_of()
    generate(engine, requests(1, max_prompt=60))
    prompt = requests(1, max_prompt=60)[0].prompt
    engine.submit(text("e", prompt))
    [started] = [event for event in run(engine) if isinstance(event, RequestStarted)]
    assert started.num_cached == 0


class FailsOnOne(FakeBackend):
    """Cannot embed a text that begins with the token 99, and says so in one of two ways."""

    error: Exception = RuntimeError("odd")

    def embed(self, step: Any) -> Any:
        if 99 in step.tokens[step.row_begins()[:-1]]:
            raise self.error
        return super().embed(step)


@pytest.mark.parametrize("error", [RuntimeError("odd"), OutOfMemory("full")])
def test_a_text_that_breaks_a_step_fails_alone(error: Exception) -> None:
    backend = FailsOnOne(FakeShape(embedding_size=SIZE))
    backend.error = error
    engine = fake_engine(backend=backend)
    for i in range(4):
        engine.submit(text(f"e{i}", [i, 5, 6]))
    engine.submit(text("bad", [99, 5]))
    events = run(engine)
    assert [e.request_id for e in events if isinstance(e, RequestFailed)] == ["bad"]
    assert {e.request_id for e in events if isinstance(e, PromptEmbedded)} == {
        f"e{i}" for i in range(4)
    }
    assert engine.stats().cache_tokens_used == 0


def test_a_vector_without_numbers_is_an_error() -> None:
    class GivesNaN(FakeBackend):
        def embed(self, step: Any) -> Any:
            return super().embed(step) * np.float32("nan")

    engine = fake_engine(backend=GivesNaN(FakeShape(embedding_size=SIZE)))
    engine.submit(text("e", [1, 2]))
    [failed] = [event for event in run(engine) if isinstance(event, RequestFailed)]
    assert "NaN" in failed.message and not failed.invalid


def test_a_model_that_does_not_embed_refuses_texts() -> None:
    engine = fake_engine()
    assert Feature.EMBEDDING not in engine.info.features
    engine.submit(text("e", [1]))
    [failed] = engine.poll(0)
    assert isinstance(failed, RequestFailed) and failed.invalid and "embeddings" in failed.message


def test_a_model_that_only_embeds_refuses_prompts_and_takes_longer_texts() -> None:
    engine = engine_of(generates=False, chunked=False, max_sequence_tokens=30)
    assert engine.info.max_prompt_tokens == 30 and not engine.info.generates
    assert engine.info.features == {Feature.EMBEDDING}
    engine.submit(text("e", range(30)))
    engine.submit(text("long", range(31)))
    engine.submit(requests(1, max_prompt=5)[0])
    events = run(engine)
    messages = {e.request_id: e.message for e in events if isinstance(e, RequestFailed)}
    assert messages.keys() == {"long", "r0"}
    assert "at most 30" in messages["long"] and "generates none" in messages["r0"]
    assert "e" in {e.request_id for e in events if isinstance(e, PromptEmbedded)}
