"""Most rows are plain, and go a short way through the engine: it leads where the long one does."""

from __future__ import annotations

import random
from dataclasses import fields, replace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines import fake_engine, requests
from tgi_core.contract import (
    Event,
    PendingLogits,
    Request,
    RequestStarted,
    SamplingBatch,
    SamplingParams,
    Step,
    TokenEvent,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.testing.fake import FakeBackend, FakeShape

WISHES = (
    SamplingParams(),
    SamplingParams(temperature=0.8, seed=5),
    SamplingParams(temperature=1.2, top_p=0.9, logprobs=True),
    SamplingParams(num_top=3),
    SamplingParams(temperature=0.7, logit_bias=((3, 4.0), (9, -2.0))),
    SamplingParams(temperature=0.9, repetition_penalty=1.2),
)


class Recording(FakeBackend):
    """Notes all that it is given, and now and then breaks."""

    def __init__(self, shape: FakeShape, faults: random.Random | None) -> None:
        super().__init__(shape)
        self.given: list[tuple[str, Any]] = []
        self._faults = faults

    def step(self, step: Step) -> PendingLogits:
        self._note(step)
        if self._faults is not None and self._faults.random() < 0.05:
            raise RuntimeError("a step that fails")
        return super().step(step)

    def sample(self, logits: PendingLogits, batch: SamplingBatch) -> Any:
        # what is drawn where a token is only scored is for nobody
        self._note(replace(batch, uniform=np.where(batch.forced < 0, batch.uniform, 0)))
        return super().sample(logits, batch)

    def _note(self, arrays: Step | SamplingBatch) -> None:
        for field in fields(arrays):
            value = getattr(arrays, field.name)
            if isinstance(value, np.ndarray):
                self.given.append((field.name, value.tolist()))


def traffic(rng: random.Random) -> list[Request]:
    made = []
    for request in requests(30, rng.randrange(1000), max_prompt=30, max_new=25):
        wanted = replace(request, sampling=rng.choice(WISHES))
        if rng.random() < 0.1:
            wanted = replace(wanted, prompt_logprobs=True)
        elif rng.random() < 0.1:
            wanted = replace(wanted, resumed=(1,) * (request.stop.max_new_tokens - 1))
        made.append(wanted)
    return made


def run(
    shape: FakeShape, limits: EngineLimits, seed: int, *, faulty: bool, plain: bool
) -> tuple[list[list[Event]], list[tuple[str, Any]]]:
    """The events of each poll, and all arrays that the backend got."""
    rng = random.Random(seed)
    backend = Recording(shape, random.Random(seed) if faulty else None)
    engine = fake_engine(limits, backend)
    todo, told = traffic(rng), []
    per_step = rng.choice([1, 3, 30])
    while todo or engine.busy:
        for request in todo[:per_step]:
            engine.submit(request)
            sequence = engine._sequences.get(request.request_id)
            if sequence is not None:  # it was not refused as too long
                sequence.plain &= plain
        del todo[:per_step]
        events = list(engine.poll(0.001))
        for event in events:
            if isinstance(event, TokenEvent) and rng.random() < 0.02:
                engine.cancel(event.request_id)
        told.append([replace(e, queue_s=0) if isinstance(e, RequestStarted) else e for e in events])
    return told, backend.given


@settings(max_examples=8, deadline=None)
@given(
    shape=st.builds(
        FakeShape,
        cache_tokens=st.sampled_from([128, 1024]),
        block_tokens=st.sampled_from([1, 16]),
        max_sequences=st.sampled_from([4, 40]),
        max_rows=st.sampled_from([3, 4]),
        max_step_tokens=st.just(96),
        max_sequence_tokens=st.just(60),
        mixed=st.booleans(),
        steps_in_flight=st.sampled_from([1, 2]),
    ),
    chunk=st.sampled_from([None, 5]),
    faulty=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_plain_rows_bring_the_same_steps_and_events_as_rows_with_wishes_do(
    shape: FakeShape, chunk: int | None, faulty: bool, seed: int
) -> None:
    limits = EngineLimits(max_chunk_tokens=chunk)
    short = run(shape, limits, seed, faulty=faulty, plain=True)
    assert short == run(shape, limits, seed, faulty=faulty, plain=False)
