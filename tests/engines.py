"""Step engines over the fake backend, and traffic for them, for tests."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    LoadRequest,
    ModelFiles,
    ModelFormat,
    QueuePolicy,
    Request,
    RequestFailed,
    SamplingParams,
    Speculator,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.draft_costs import Chances, Offer, StepCosts
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.speculation import Drafting
from tgi_core.engine.step_engine import StepEngine
from tgi_core.testing.fake import FakeBackend, FakeShape

LOAD = LoadRequest(
    model=ModelFiles(reference="fake", path=Path("nowhere"), format=ModelFormat.OTHER)
)


def no_progress(phase: str, done: float, total: float, unit: str = "") -> None:
    pass


def fake_engine(
    limits: EngineLimits | None = None,
    backend: FakeBackend | None = None,
    policy: QueuePolicy | None = None,
    max_adapters: int | None = None,
    speculator: Speculator | None = None,
    **shape: Any,
) -> StepEngine:
    backend = backend or FakeBackend(FakeShape(**shape))
    engine = StepEngine(
        backend,
        policy or FirstComeFirstServed(),
        limits,
        drafting=speculator and Drafting(speculator),
    )
    engine.start(replace(LOAD, max_adapters=max_adapters), no_progress)
    freeze_costs(engine)
    return engine


class Frozen(StepCosts):
    """Costs of a device on which tokens are cheap, whatever this machine is doing."""

    def __init__(self) -> None:
        super().__init__()
        super().observe(100, 0, 1.0)

    def observe(self, num_tokens: int, num_drafted_rows: int, seconds: float) -> None:
        pass


class Trusting(Chances):
    """Takes all drafts for good ones, whatever comes of them."""

    def offer(self, request_id: str, grade: int, most: int) -> Offer:
        return Offer(0.9, most)


def freeze_costs(engine: StepEngine) -> None:
    """All drafts are computed, whatever the time and their worth."""
    if engine._speculation is not None:
        engine._speculation._costs = Frozen()
        engine._speculation._chances = Trusting()


def requests(
    count: int,
    seed: int = 0,
    *,
    max_prompt: int = 60,
    max_new: int = 40,
    **sampling: Any,
) -> list[Request]:
    """Different prompts, some of which begin alike; every third one has penalties."""
    rng = random.Random(seed)
    shared = [rng.randrange(128) for _ in range(max_prompt)]
    made = []
    for i in range(count):
        prompt = [rng.randrange(128) for _ in range(rng.randint(1, max_prompt))]
        if i % 2:
            prompt = shared[: rng.randint(1, max_prompt)] + prompt[: rng.randint(1, 20)]
        penalty = {"repetition_penalty": 1.3, "frequency_penalty": 0.3} if i % 3 == 0 else {}
        made.append(
            Request(
                request_id=f"r{i}",
                prompt=tuple(prompt),
                sampling=SamplingParams(seed=seed * 1000 + i, **penalty, **sampling),
                stop=StopRule(max_new_tokens=rng.randint(1, max_new), eos_token_ids=(3,)),
            )
        )
    return made


def generate(
    engine: StepEngine,
    wanted: Sequence[Request],
    *,
    per_step: int = 2,
    cancel: Collection[str] = (),
) -> dict[str, list[int]]:
    """Submits a few requests a step, cancels some after their third token, and runs to the end."""
    outputs: dict[str, list[int]] = {r.request_id: [] for r in wanted}
    todo = list(wanted)
    while todo or engine.busy:
        for request in todo[:per_step]:
            engine.submit(request)
        del todo[:per_step]
        for event in engine.poll(0.001):
            if isinstance(event, TokenEvent):
                outputs[event.request_id] += event.tokens
                if event.request_id in cancel and len(outputs[event.request_id]) == 3:
                    engine.cancel(event.request_id)
            elif isinstance(event, RequestFailed):
                raise AssertionError(event)
    return outputs


def alone(wanted: Sequence[Request]) -> dict[str, list[int]]:
    """Each request in an engine of its own."""
    outputs: dict[str, list[int]] = {}
    for request in wanted:
        outputs |= generate(fake_engine(), [request])
    return outputs
