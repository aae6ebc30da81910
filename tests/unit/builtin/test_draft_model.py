"""The speculator `draft` says what its model would say, whatever it was told before."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.engines import LOAD, alone, fake_engine, freeze_costs, generate, no_progress, requests
from tgi_core.builtin.draft_model import ModelSpeculator
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    Capabilities,
    Drafter,
    DraftSetup,
    DraftWish,
    Fork,
    LoadRequest,
    Progress,
    Request,
    StopRule,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.speculation import Drafting, DraftModel
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import UnsupportedModel, UsageError
from tgi_core.testing.fake import FakeBackend, FakeShape


def drafter(**shape: Any) -> tuple[Drafter, FakeBackend]:
    backend = FakeBackend(FakeShape(**shape))
    setup = DraftSetup(
        vocab_size=128, num_drafts=5, load=LOAD, create=lambda: backend, progress=no_progress
    )
    return ModelSpeculator().start(setup), backend


def greedy(text: list[int], most: int) -> tuple[int, ...]:
    request = Request(
        request_id="a", prompt=tuple(text), stop=StopRule(max_new_tokens=most, ignore_eos=True)
    )
    return tuple(generate(fake_engine(), [request])["a"])


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"max_step_tokens": 7},
        {"max_rows": 1},
        {"max_sequences": 2},
        {"cache_tokens": 96, "block_tokens": 4},
    ],
    ids=["roomy", "a small budget", "one row", "two sequences", "a small cache"],
)
def test_drafts_are_the_models_own_continuations(shape: dict[str, Any]) -> None:
    made, backend = drafter(**shape)
    rng = random.Random(1)
    texts = {f"{i}": [rng.randrange(128) for _ in range(rng.randint(1, 30))] for i in range(4)}
    num_drafted = 0
    for _ in range(12):
        names = rng.sample(sorted(texts), rng.randint(1, 4))
        wishes = [DraftWish(request_id=n, tokens=texts[n], most=rng.randint(1, 5)) for n in names]
        for wish, draft in zip(wishes, made.propose(wishes), strict=True):
            assert draft.tokens in ((), greedy(texts[wish.request_id], wish.most))
            num_drafted += bool(draft.tokens)
            right = draft.tokens[: rng.randint(0, len(draft.tokens))]
            texts[wish.request_id] += [*right, rng.randrange(128)]
    assert num_drafted >= (12 if shape else 28)
    for name in texts:
        made.forget(name)
    made.forget("unknown")
    assert backend.stats().cache_tokens_used == 0


def test_a_sequence_that_the_draft_model_cannot_hold_gets_no_draft() -> None:
    made, _ = drafter(max_sequence_tokens=20, vocab_size=100)
    too_long = DraftWish(request_id="a", tokens=[1] * 18, most=5)
    unknown = DraftWish(request_id="b", tokens=[1, 120], most=5)
    fine = DraftWish(request_id="c", tokens=[1, 2], most=5)
    assert [len(d.tokens) for d in made.propose([too_long, unknown, fine])] == [0, 0, 5]


def engine(steps_in_flight: int = 1) -> StepEngine:
    """One whose draft model is the model itself."""
    made = StepEngine(
        FakeBackend(FakeShape(steps_in_flight=steps_in_flight)),
        FirstComeFirstServed(),
        EngineLimits(num_drafts=5),
        drafting=Drafting(ModelSpeculator(), DraftModel(LOAD.model, FakeBackend)),
    )
    made.start(LOAD, no_progress)
    freeze_costs(made)
    return made


def test_a_draft_model_is_on_one_device_however_many_share_the_other() -> None:
    asked = []

    class Noting(FakeBackend):
        def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
            asked.append(request.num_shards)
            return super().load(request, progress)

    made = StepEngine(
        Noting(),
        FirstComeFirstServed(),
        EngineLimits(num_drafts=5),
        drafting=Drafting(ModelSpeculator(), DraftModel(LOAD.model, Noting)),
    )
    made.start(replace(LOAD, num_shards=2), no_progress)
    assert asked == [2, None]


@pytest.mark.parametrize("steps_in_flight", [1, 2])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9}], ids=["greedy", "sampled"])
def test_outputs_are_those_without_drafts(steps_in_flight: int, sampling: dict[str, Any]) -> None:
    wanted = requests(20, max_new=60, **sampling)
    made = engine(steps_in_flight)
    assert generate(made, wanted) == alone(wanted)
    if not sampling:
        assert made.stats().accepted_tokens > 5


def test_a_missing_or_unable_draft_model_is_refused() -> None:
    setup = DraftSetup(vocab_size=128, num_drafts=5, progress=no_progress)
    with pytest.raises(UsageError, match="--draft-model"):
        ModelSpeculator().start(setup)
    for shape in (
        FakeShape(mixed=False),
        FakeShape(fork=Fork.NONE, truncates=False),
        FakeShape(decoder_start=5),
    ):
        unable = replace(setup, load=LOAD, create=partial(FakeBackend, shape))
        with pytest.raises(UnsupportedModel, match="cannot draft here"):
            ModelSpeculator().start(unable)
