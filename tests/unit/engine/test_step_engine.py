"""Whatever the engine does to a request, its tokens are those that it gets alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.engines import LOAD, alone, fake_engine, generate, no_progress, requests
from tgi_core.builtin.queue_policies import ByPriority, FirstComeFirstServed
from tgi_core.contract import (
    Fork,
    LogitsRows,
    PendingLogits,
    PromptScored,
    Request,
    RequestFailed,
    RequestStarted,
    SamplingParams,
    Step,
    StopRule,
    TokenEvent,
)
from tgi_core.contract.result import HostLogits
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import BackendDead, DoesNotFit, OutOfMemory, RowsFailed
from tgi_core.testing.fake import FakeBackend, FakeShape

SHAPES: dict[str, dict[str, Any]] = {
    "whole prompts": {},
    "chunks of 1": {"limits": EngineLimits(max_chunk_tokens=1)},
    "chunks of 7": {"limits": EngineLimits(max_chunk_tokens=7)},
    "a small token budget": {"limits": EngineLimits(max_step_tokens=24)},
    "no prefix cache": {"limits": EngineLimits(prefix_caching=False)},
    "two steps in flight": {"steps_in_flight": 2},
    "a small cache": {"cache_tokens": 256},
    "a small cache, two steps in flight": {"cache_tokens": 256, "steps_in_flight": 2},
    "forks of whole blocks": {"fork": Fork.BLOCK},
    "no forks": {"fork": Fork.NONE},
    "no forks and no cuts": {"fork": Fork.NONE, "truncates": False},
    "no forks and no cuts in a small cache": {
        "fork": Fork.NONE,
        "truncates": False,
        "cache_tokens": 256,
    },
    "prefill and decode apart": {"mixed": False},
    "prefill and decode apart, in chunks": {
        "mixed": False,
        "limits": EngineLimits(max_chunk_tokens=7),
    },
    "neither mixed nor chunked": {"mixed": False, "chunked": False},
    "three rows": {"max_rows": 3, "max_sequences": 3},
    "four slots": {"max_rows": 4, "max_sequences": 4, "block_tokens": 4096, "cache_tokens": 16384},
}

GREEDY = pytest.param({}, id="greedy", marks=pytest.mark.long)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    "sampling", [GREEDY, pytest.param({"temperature": 0.9, "top_p": 0.95}, id="sampled")]
)
def test_tokens_do_not_depend_on_company(shape: dict[str, Any], sampling: dict[str, Any]) -> None:
    wanted = requests(40, max_new=150, **sampling)
    expected = alone(wanted)
    engine = fake_engine(**shape)
    assert generate(engine, wanted) == expected
    assert generate(engine, wanted, per_step=40) == expected, "on a second run, with prefix hits"


def test_a_small_cache_does_preempt() -> None:
    engine = fake_engine(cache_tokens=256)
    generate(engine, requests(40, max_new=150))
    assert engine.stats().preemptions > 0


def test_cancelled_neighbours_change_nothing_and_leave_nothing() -> None:
    wanted = requests(40)
    expected = alone(wanted)
    cancelled = {r.request_id for r in wanted[::3]}
    engine = fake_engine(limits=EngineLimits(prefix_caching=False))
    outputs = generate(engine, wanted, cancel=cancelled)
    for request_id, tokens in outputs.items():
        if request_id in cancelled:
            assert tokens == expected[request_id][:3]
        else:
            assert tokens == expected[request_id]
    assert engine.stats().cache_tokens_used == 0


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_cancellation_frees_everything_at_once(steps_in_flight: int) -> None:
    engine = fake_engine(
        limits=EngineLimits(prefix_caching=False, max_chunk_tokens=16),
        steps_in_flight=steps_in_flight,
    )
    [request] = requests(1, max_new=40)
    engine.submit(replace(request, prompt=tuple(range(64))))
    for polls in range(8):  # in prefill, at its end, and in decode
        if polls:
            engine.submit(replace(request, prompt=tuple(range(64))))
        for _ in range(polls):
            engine.poll(0)
        engine.cancel(request.request_id)
        assert engine.stats().cache_tokens_used == 0
        while engine.busy:
            assert not [e for e in engine.poll(0) if isinstance(e, TokenEvent)]


def test_a_second_run_computes_only_what_is_new() -> None:
    engine = fake_engine()
    prompt = tuple(range(100))
    request = Request(request_id="a", prompt=prompt, stop=StopRule(max_new_tokens=5))
    first = generate(engine, [request])["a"]
    longer = replace(request, request_id="b", prompt=(*prompt, *first, 1, 2, 3))
    engine.submit(longer)
    started = [e for e in engine.poll(0) if isinstance(e, RequestStarted)]
    # the last token of the first answer was never computed
    assert [e.num_cached for e in started] == [104]


def test_another_salt_shares_nothing() -> None:
    engine = fake_engine()
    request = Request(request_id="a", prompt=tuple(range(100)), stop=StopRule(max_new_tokens=5))
    generate(engine, [request])
    engine.submit(replace(request, request_id="b", cache_salt="other"))
    started = [e for e in engine.poll(0) if isinstance(e, RequestStarted)]
    assert [e.num_cached for e in started] == [0]


def test_running_sequences_share_their_prompt() -> None:
    engine = fake_engine()
    request = Request(request_id="a", prompt=tuple(range(100)), stop=StopRule(max_new_tokens=50))
    engine.submit(request)
    engine.poll(0)
    engine.submit(replace(request, request_id="b"))
    started = [e for e in engine.poll(0) if isinstance(e, RequestStarted)]
    assert [e.num_cached for e in started] == [99]


@pytest.mark.parametrize("sampling", [GREEDY, pytest.param({"temperature": 1.0}, id="sampled")])
def test_a_resumed_request_goes_on_as_if_nothing_had_happened(sampling: dict[str, Any]) -> None:
    for request in requests(12, **sampling):
        whole = generate(fake_engine(), [request])[request.request_id]
        for done in range(len(whole)):
            resumed = replace(request, resumed=tuple(whole[:done]))
            rest = generate(fake_engine(), [resumed])[request.request_id]
            assert whole[:done] + rest == whole


def test_the_length_comes_before_the_end_of_sequence_token() -> None:
    [request] = requests(1)
    whole = generate(fake_engine(), [replace(request, stop=StopRule(max_new_tokens=5))])["r0"]
    both = StopRule(max_new_tokens=5, eos_token_ids=(whole[4],))
    only_eos = StopRule(max_new_tokens=6, eos_token_ids=(whole[4],))
    for stop, reason in ((both, "length"), (only_eos, "eos")):
        engine = fake_engine()
        engine.submit(replace(request, stop=stop))
        events = [e for _ in range(9) for e in engine.poll(0)]
        assert [e.finish.value for e in events if isinstance(e, TokenEvent) and e.finish] == [
            reason
        ]


def test_a_sequence_ends_where_the_cache_ends() -> None:
    engine = fake_engine(max_sequence_tokens=32)
    request = Request(request_id="a", prompt=tuple(range(30)), stop=StopRule(max_new_tokens=99))
    assert len(generate(engine, [request])["a"]) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": ()}, "no token"),
        ({"prompt": tuple(range(40))}, "at most 31"),
        ({"prompt": (1, 128)}, "below 128"),
        ({"prompt": (1, -1)}, "at least 0"),
        ({"sampling": SamplingParams(logit_bias=((500, 1.0),))}, "logit_bias"),
        ({"resumed": tuple(range(30))}, "leave"),
    ],
)
def test_an_impossible_request_fails_alone_and_says_why(change: dict[str, Any], words: str) -> None:
    engine = fake_engine(max_sequence_tokens=32)
    good = Request(request_id="good", prompt=(1, 2), stop=StopRule(max_new_tokens=3))
    engine.submit(replace(good, request_id="bad", **change))
    engine.submit(good)
    events = [e for _ in range(5) for e in engine.poll(0)]
    [failed] = [e for e in events if isinstance(e, RequestFailed)]
    assert failed.request_id == "bad" and failed.invalid and words in failed.message
    assert sum(len(e.tokens) for e in events if isinstance(e, TokenEvent)) == 3


@pytest.mark.parametrize("num_top", [0, 3])
def test_prompt_logprobs_are_those_of_the_tokens_one_by_one(num_top: int) -> None:
    prompt = (5, 9, 3, 77, 20, 4, 8)
    expected = []
    for i in range(1, len(prompt)):
        wants = SamplingParams(num_top=128)
        engine = fake_engine()
        engine.submit(
            Request(
                request_id="x", prompt=prompt[:i], sampling=wants, stop=StopRule(max_new_tokens=1)
            )
        )
        [event] = [e for e in engine.poll(0) if isinstance(e, TokenEvent)]
        expected.append({t.token: t.logprob for t in event.top[0]}[prompt[i]])
    for chunk in (1, 3, 100):
        engine = fake_engine(limits=EngineLimits(max_chunk_tokens=chunk))
        for request_id in ("a", "b"):  # the second one must not be served from the prefix cache
            engine.submit(
                Request(
                    request_id=request_id,
                    prompt=prompt,
                    prompt_logprobs=True,
                    # what changes the choice of tokens does not change how the prompt is scored
                    sampling=SamplingParams(temperature=0.5, top_k=2, num_top=num_top),
                    stop=StopRule(max_new_tokens=2),
                )
            )
            events = []
            while engine.busy:
                events += engine.poll(0)
            [scored] = [e for e in events if isinstance(e, PromptScored)]
            assert scored.logprobs == pytest.approx(expected)
            assert [len(top) for top in scored.top] == [3] * len(expected) * bool(num_top)
            for top, logprob, token in zip(scored.top, expected, prompt[1:], strict=False):
                assert [t.logprob for t in top] == sorted((t.logprob for t in top), reverse=True)
                named = {t.token: t.logprob for t in top}
                assert named.get(token, logprob) == pytest.approx(logprob)
                assert token in named or logprob <= min(named.values())


PROMPTS_AT_ONCE = {
    # fork, limits, how many tokens of eight prompts are computed: 300 equal ones, then 4 own
    "any fork": (Fork.ANY, EngineLimits(), 300 + 8 * 4),
    # the last 12 of the equal tokens are not worth another step
    "small chunks": (Fork.ANY, EngineLimits(max_chunk_tokens=32), 304 + 7 * (12 + 4)),
    "forks of whole blocks": (Fork.BLOCK, EngineLimits(), 300 + 4 + 7 * (300 % 16 + 4)),
    "no forks": (Fork.NONE, EngineLimits(), 8 * 304),
    "no prefix cache": (Fork.ANY, EngineLimits(prefix_caching=False), 8 * 304),
}


@pytest.mark.parametrize(
    ("fork", "limits", "expected"), PROMPTS_AT_ONCE.values(), ids=PROMPTS_AT_ONCE.keys()
)
def test_a_beginning_that_arrives_eight_times_at_once_is_computed_once(
    fork: Fork, limits: EngineLimits, expected: int
) -> None:
    shared = tuple(i * 7 % 128 for i in range(300))
    wanted = [
        Request(request_id=f"{i}", prompt=(*shared, i, 1, 2, 3), stop=StopRule(max_new_tokens=5))
        for i in range(8)
    ]
    engine = fake_engine(limits=limits, fork=fork, max_rows=8, block_tokens=16)
    assert generate(engine, wanted) == alone(wanted)
    assert engine.stats().prefill_tokens == expected


def test_a_prompt_does_not_wait_for_one_of_another_salt() -> None:
    prompt = tuple(i * 7 % 128 for i in range(200))
    engine = fake_engine()
    for salt in ("a", "b"):
        engine.submit(
            Request(
                request_id=salt, prompt=prompt, cache_salt=salt, stop=StopRule(max_new_tokens=1)
            )
        )
    assert len([e for e in engine.poll(0) if isinstance(e, TokenEvent)]) == 2


def test_a_prompt_goes_on_when_the_one_that_it_waited_for_is_cancelled() -> None:
    prompt = tuple(i * 7 % 128 for i in range(200))
    engine = fake_engine(limits=EngineLimits(max_chunk_tokens=32))
    for request_id in ("first", "second"):
        engine.submit(
            Request(request_id=request_id, prompt=prompt, stop=StopRule(max_new_tokens=3))
        )
    engine.poll(0)
    assert engine.stats().num_waiting == 1
    engine.cancel("first")
    events = [e for _ in range(20) for e in engine.poll(0)]
    assert sum(len(e.tokens) for e in events if isinstance(e, TokenEvent)) == 3


def test_higher_priority_is_admitted_first() -> None:
    engine = fake_engine(policy=ByPriority(), max_rows=1)
    for i, priority in enumerate((0, 0, 5)):
        engine.submit(
            Request(
                request_id=f"{i}", prompt=(1,), priority=priority, stop=StopRule(max_new_tokens=1)
            )
        )
    events = [e for _ in range(4) for e in engine.poll(0)]
    assert [e.request_id for e in events if isinstance(e, TokenEvent)] == ["2", "0", "1"]


class Faulty(FakeBackend):
    """Fails in one of several ways whenever a step holds the token 99."""

    def __init__(self, fault: str, **shape: Any) -> None:
        super().__init__(FakeShape(**shape))
        self.fault = fault

    def step(self, step: Step) -> PendingLogits:
        bad = np.flatnonzero(step.tokens == 99)
        if not len(bad):
            return super().step(step)
        rows = np.searchsorted(step.row_begins(), bad, side="right") - 1
        match self.fault:
            case "rows":
                raise RowsFailed(sorted({int(r) for r in rows}), "rows are bad")
            case "memory":
                raise OutOfMemory("the step does not fit")
            case "dead":
                raise BackendDead("the device is gone")
            case "nan":
                logits = super().step(step).numpy()
                logits[np.isin(step.out, bad)] = np.nan
                return HostLogits(logits)
            case _:
                raise ZeroDivisionError("a bug in the backend")


@pytest.mark.parametrize("fault", ["rows", "memory", "nan", "bug"])
@pytest.mark.parametrize("steps_in_flight", [1, 2])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "top_p": 0.9}])
def test_one_bad_request_harms_no_other(
    fault: str, steps_in_flight: int, sampling: dict[str, Any]
) -> None:
    good = [r for r in requests(12, **sampling) if 99 not in r.prompt]
    expected = {k: v for k, v in alone(good).items() if 99 not in v}
    good = [r for r in good if r.request_id in expected]
    assert len(good) > 4
    bad = Request(
        request_id="bad",
        prompt=(5, 99),
        sampling=SamplingParams(**sampling),
        stop=StopRule(max_new_tokens=4),
    )
    engine = fake_engine(backend=Faulty(fault, steps_in_flight=steps_in_flight))
    outputs: dict[str, list[int]] = {r.request_id: [] for r in good}
    failed = []
    for request in (*good[:3], bad, *good[3:]):
        engine.submit(request)
    while engine.busy:
        for event in engine.poll(0):
            if isinstance(event, TokenEvent):
                outputs[event.request_id] += event.tokens
            elif isinstance(event, RequestFailed):
                failed.append(event.request_id)
    assert failed == ["bad"]
    assert outputs == expected


def test_a_dead_backend_ends_the_engine() -> None:
    engine = fake_engine(backend=Faulty("dead"))
    engine.submit(Request(request_id="a", prompt=(99,), stop=StopRule(max_new_tokens=1)))
    with pytest.raises(BackendDead):
        engine.poll(0)


def test_a_cache_too_small_for_one_sequence_is_refused_at_start() -> None:
    engine = StepEngine(FakeBackend(FakeShape(cache_tokens=0)), FirstComeFirstServed())
    with pytest.raises(DoesNotFit, match="--cache-tokens"):
        engine.start(LOAD, no_progress)


def test_what_the_device_cannot_do_is_refused_by_name() -> None:
    engine = fake_engine(logits=LogitsRows.LAST)
    engine.submit(
        Request(
            request_id="a", prompt=(1, 2), prompt_logprobs=True, stop=StopRule(max_new_tokens=1)
        )
    )
    [event] = engine.poll(0)
    assert isinstance(event, RequestFailed) and "prompt logprobs" in event.message


def test_parked_tokens_stay_below_what_the_backend_names() -> None:
    class Scanned(FakeBackend):
        def load(self, *args: Any) -> Any:
            return replace(super().load(*args), parked_tokens=100)

    engine = fake_engine(backend=Scanned(FakeShape()))
    for i in range(6):
        prompt = tuple(range(i, i + 40))
        generate(engine, [Request(request_id="a", prompt=prompt, stop=StopRule(max_new_tokens=2))])
    assert engine.stats().num_parked == 2
    long = Request(request_id="a", prompt=tuple(range(128)), stop=StopRule(max_new_tokens=2))
    generate(engine, [long])
    assert engine.stats().num_parked == 1, "the newest one stays, however long"
