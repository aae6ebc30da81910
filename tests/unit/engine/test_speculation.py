"""Drafts change the number of steps, and nothing that anybody gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from tests.engines import LOAD, alone, fake_engine, freeze_costs, generate, no_progress, requests
from tests.guided import outcome
from tests.speculators import Always, Prophet
from tests.unit.engine.test_adjustments import Ban, NextInLine
from tests.unit.engine.test_step_engine import SHAPES, Faulty
from tgi_core.builtin.ngram import NgramSpeculator
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    Draft,
    DraftWish,
    FinishReason,
    LogitsRows,
    PromptScored,
    Request,
    SamplingParams,
    Step,
    StopRule,
    TokenEvent,
)
from tgi_core.contract.result import PendingLogits
from tgi_core.engine.draft_costs import Chances
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.speculation import Drafting
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import RowsFailed
from tgi_core.testing.fake import FakeBackend, FakeShape

DRAFTS = EngineLimits(num_drafts=5)


@cache
def traffic(**sampling: float) -> tuple[list[Request], dict[str, list[int]]]:
    """Requests, and what comes of each of them alone."""
    wanted = requests(16, max_new=70, **sampling)
    return wanted, alone(wanted)


SAMPLED = {"temperature": 0.9, "top_p": 0.95}
CASES = {
    **{f"sampled, {name}": (shape, SAMPLED) for name, shape in SHAPES.items()},
    "sampled, rows of 4 only": ({"draft_length": 4}, SAMPLED),
    "greedy": ({}, {}),
    "greedy, two steps in flight": ({"cache_tokens": 256, "steps_in_flight": 2}, {}),
}


@pytest.mark.parametrize(("shape", "sampling"), CASES.values(), ids=CASES.keys())
def test_tokens_are_those_without_drafts(shape: dict[str, Any], sampling: dict[str, Any]) -> None:
    wanted, expected = traffic(**sampling)
    shape = dict(shape)
    limits = replace(shape.pop("limits", EngineLimits()), num_drafts=5)
    prophet = Prophet(wanted, expected)
    engine = fake_engine(limits, speculator=prophet, **shape)
    assert generate(engine, wanted) == expected
    assert generate(engine, wanted, per_step=16) == expected, "on a second run, with prefix hits"
    assert not prophet.open, "what ended is forgotten"
    stats = engine.stats()
    assert stats.drafted_tokens >= stats.accepted_tokens
    if not shape.get("truncates", True):
        assert not stats.drafted_tokens, "what was wrong could not be taken back"
    elif shape.get("mixed", True):  # else all rows of a step need drafts
        assert stats.accepted_tokens > 10


def test_drafts_save_steps() -> None:
    wanted = requests(1, seed=5, max_new=100)
    wanted = [replace(r, stop=replace(r.stop, max_new_tokens=90, ignore_eos=True)) for r in wanted]
    expected = alone(wanted)
    engine = fake_engine(DRAFTS, speculator=Prophet(wanted, expected, mistakes=0))
    assert generate(engine, wanted) == expected
    assert engine.stats().steps < 60
    assert engine.stats().prefill_tokens == len(wanted[0].prompt), "drafts are no prompt"


@pytest.mark.parametrize("steps_in_flight", [1, 2])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.1}], ids=["greedy", "sampled"])
def test_probabilities_and_alternatives_are_those_without_drafts(
    steps_in_flight: int, sampling: dict[str, Any]
) -> None:
    wanted = requests(20, logprobs=True, num_top=3, **sampling)
    wanted = [replace(r, prompt_logprobs=i % 4 == 0) for i, r in enumerate(wanted)]
    plain = told(fake_engine(), wanted)
    engine = fake_engine(
        DRAFTS,
        speculator=Prophet(wanted, {k: [t for t, _, _ in v[0]] for k, v in plain.items()}),
        steps_in_flight=steps_in_flight,
    )
    assert told(engine, wanted) == plain
    assert engine.stats().accepted_tokens > 5


def told(engine: StepEngine, wanted: Sequence[Request]) -> dict[str, Any]:
    """All that is told of each request, however it is cut into events."""
    found: dict[str, Any] = {r.request_id: ([], []) for r in wanted}
    for request in wanted:
        engine.submit(request)
    while engine.busy:
        for event in engine.poll(0):
            if isinstance(event, TokenEvent):
                rows = zip(event.tokens, event.logprobs, event.top, strict=True)
                found[event.request_id][0].extend(rows)
                if event.finish:
                    found[event.request_id][1].append(event.finish)
            elif isinstance(event, PromptScored):
                found[event.request_id][1].append((event.logprobs, event.top))
    return found


@pytest.mark.parametrize("name", ["line", "ban"])
def test_adjustments_see_the_drafts_before_a_place(name: str) -> None:
    adjustments = {a.name: a for a in (NextInLine(), Ban())}
    wanted = requests(12, temperature=0.9, adjustments=(name,))

    def run(**more: Any) -> tuple[StepEngine, dict[str, list[int]]]:
        engine = StepEngine(
            FakeBackend(FakeShape()), FirstComeFirstServed(), adjustments=adjustments, **more
        )
        engine.start(LOAD, no_progress)
        freeze_costs(engine)
        return engine, generate(engine, wanted)

    _, expected = run()
    engine, found = run(limits=DRAFTS, drafting=Drafting(Prophet(wanted, expected)))
    assert found == expected
    assert engine.stats().accepted_tokens > 5


@pytest.mark.parametrize("max_new", [1, 2, 3, 7])
def test_a_sequence_ends_where_it_has_to(max_new: int) -> None:
    [request] = requests(1)
    long = replace(request, stop=StopRule(max_new_tokens=40))
    output = alone([long])[long.request_id]
    short = replace(long, stop=StopRule(max_new_tokens=max_new))
    ending = replace(long, stop=StopRule(max_new_tokens=40, eos_token_ids=(output[max_new - 1],)))
    prophet = Prophet([long], {long.request_id: output}, mistakes=0)
    for shape in ({}, {"max_sequence_tokens": len(long.prompt) + max_new}):
        for wanted, reason in (
            (short, FinishReason.LENGTH),
            (ending, FinishReason.EOS),
            *([(long, FinishReason.LENGTH)] if shape else []),
        ):
            engine = fake_engine(DRAFTS, speculator=prophet, **shape)
            events = [e for e in outcome(engine, wanted) if isinstance(e, TokenEvent)]
            first = output.index(output[max_new - 1]) + 1 if wanted is ending else max_new
            assert [t for e in events for t in e.tokens] == output[:first]
            assert events[-1].finish is reason or (shape and first == max_new)


def test_a_resumed_request_goes_on_as_it_would_have() -> None:
    wanted = requests(12, max_new=80, temperature=0.8)
    expected = alone(wanted)
    resumed = [
        replace(r, resumed=tuple(expected[r.request_id][: len(expected[r.request_id]) // 2]))
        for r in wanted
    ]
    engine = fake_engine(DRAFTS, speculator=Prophet(wanted, expected))
    found = generate(engine, [r for r in resumed if r.resumed])
    for request in resumed:
        if request.resumed:
            both = [*request.resumed, *found[request.request_id]]
            assert both == expected[request.request_id]


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_the_distribution_is_that_of_the_model(temperature: float) -> None:
    """Chi-square over a small vocabulary, with drafts of the likeliest tokens, all else fixed."""
    shape = {"vocab_size": 8, "max_rows": 50}
    wanted = [
        Request(
            request_id=f"{i}",
            prompt=(1, 2, 3),
            sampling=SamplingParams(temperature=temperature, seed=i),
            stop=StopRule(max_new_tokens=6),
        )
        for i in range(2000)
    ]
    greedy = replace(wanted[0], sampling=SamplingParams(num_top=8))
    events = [e for e in outcome(fake_engine(**shape), greedy) if isinstance(e, TokenEvent)]
    likeliest = [e.tokens[0] for e in events]

    class Likeliest(Always):
        def propose(self, wishes: Sequence[DraftWish]) -> Sequence[Draft]:
            return [Draft(tokens=tuple(likeliest[len(w.tokens) - 3 :])) for w in wishes]

    engine = fake_engine(DRAFTS, speculator=Likeliest(), **shape)
    outputs: dict[str, list[int]] = {}
    for begin in range(0, len(wanted), 50):
        outputs |= generate(engine, wanted[begin : begin + 50], per_step=50)
    assert engine.stats().accepted_tokens > 200
    for place in (2, 3):
        # behind the likeliest tokens, where the distribution is known
        there = [o[place] for o in outputs.values() if o[:place] == likeliest[:place]]
        logits = np.zeros(8)
        for top in events[place].top[0]:
            logits[top.token] = top.logprob
        weights = np.exp(logits / temperature)
        due = weights / weights.sum() * len(there)
        seen = np.bincount(there, minlength=8)
        rare = due < 5  # too few for the test, so taken together
        seen = np.append(seen[~rare], seen[rare].sum())
        due = np.append(due[~rare], due[rare].sum())
        assert chisquare(seen[due > 0], due[due > 0]).pvalue > 1e-3


class FailsOnDrafts(FakeBackend):
    """Cannot compute a row with drafts, in one of several ways."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__(FakeShape())
        self.error = error

    def step(self, step: Step) -> PendingLogits:
        drafted = np.flatnonzero((step.past > 0) & (step.n > 1))
        if len(drafted):
            if self.error is not None:
                raise self.error
            raise RowsFailed(drafted.tolist(), "rows with drafts")
        return super().step(step)


@pytest.mark.parametrize("error", [None, ZeroDivisionError("a bug"), MemoryError()])
def test_a_step_that_fails_for_its_drafts_is_done_without(error: Exception | None) -> None:
    wanted = requests(12)
    expected = alone(wanted)
    engine = fake_engine(
        EngineLimits(num_drafts=5, prefix_caching=False),
        FailsOnDrafts(error),
        speculator=Prophet(wanted, expected),
    )
    assert generate(engine, wanted, per_step=12) == expected


@pytest.mark.parametrize("fault", ["rows", "memory", "nan", "bug"])
@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_a_draft_that_breaks_a_step_harms_nobody(fault: str, steps_in_flight: int) -> None:
    """The backend fails on the token 99, which is in all drafts and in no request."""
    wanted = [r for r in requests(12) if 99 not in r.prompt]
    expected = {k: v for k, v in alone(wanted).items() if 99 not in v}
    wanted = [r for r in wanted if r.request_id in expected]

    class Breaking(Prophet):
        def draft(self, wish: DraftWish) -> Draft:
            draft = super().draft(wish)
            return replace(draft, tokens=(*draft.tokens[:2], 99))

    engine = fake_engine(
        DRAFTS,
        Faulty(fault, steps_in_flight=steps_in_flight),
        speculator=Breaking(wanted, expected),
    )
    assert generate(engine, wanted) == expected


def test_a_speculator_that_fails_ends_speculation_and_no_request(caplog: Any) -> None:
    wanted = requests(12)
    expected = alone(wanted)

    class Failing(Prophet):
        def propose(self, wishes: Sequence[DraftWish]) -> Sequence[Draft]:
            if self.rng.random() < 0.1:
                raise ZeroDivisionError
            return super().propose(wishes)

    engine = fake_engine(DRAFTS, speculator=Failing(wanted, expected))
    assert generate(engine, wanted) == expected
    assert caplog.text.count("no more drafts are made") == 1


@pytest.mark.parametrize("shape", [{"logits": LogitsRows.LAST}, {"draft_length": 0}])
def test_a_device_that_cannot_check_drafts_gets_none(shape: dict[str, Any], caplog: Any) -> None:
    wanted = requests(6)
    engine = fake_engine(DRAFTS, speculator=Always(5), **shape)
    assert generate(engine, wanted) == alone(wanted)
    assert engine.stats().drafted_tokens == 0
    assert "--speculate has no effect" in caplog.text


def test_drafts_that_are_never_right_are_hardly_made() -> None:
    wanted = [
        Request(request_id=f"{i}", prompt=(i, 2), stop=StopRule(max_new_tokens=300))
        for i in range(8)
    ]
    engine = fake_engine(DRAFTS, speculator=Always(120, 121, 122, 123, 124))
    assert engine._speculation is not None
    engine._speculation._chances = Chances()
    generate(engine, wanted, per_step=8)
    stats = engine.stats()
    assert stats.drafted_tokens < stats.generated_tokens * 0.1


def test_cancelled_sequences_leave_nothing() -> None:
    wanted = requests(24, max_new=80)
    expected = alone(wanted)
    prophet = Prophet(wanted, expected)
    engine = fake_engine(
        EngineLimits(num_drafts=5, prefix_caching=False), speculator=prophet, steps_in_flight=2
    )
    for request in wanted:
        engine.submit(request)
    for _ in range(8):
        engine.poll(0)
    for request in wanted:
        engine.cancel(request.request_id)
    while engine.busy:
        engine.poll(0)
    assert engine.stats().cache_tokens_used == 0 and not prophet.open


def test_a_repeating_prompt_is_continued_by_the_built_in_speculator() -> None:
    """The line of numbers in the prompt goes on in the output, as `NextInLine` makes it."""
    engine = StepEngine(
        FakeBackend(FakeShape()),
        FirstComeFirstServed(),
        EngineLimits(num_drafts=8),
        adjustments={"line": NextInLine()},
        drafting=Drafting(NgramSpeculator()),
    )
    engine.start(LOAD, no_progress)
    freeze_costs(engine)
    request = Request(
        request_id="a",
        prompt=(*tuple(range(10, 90)), 10, 11, 12),
        sampling=SamplingParams(adjustments=("line",)),
        stop=StopRule(max_new_tokens=70),
    )
    assert generate(engine, [request])["a"] == list(range(13, 83))
    assert engine.stats().steps < 25
