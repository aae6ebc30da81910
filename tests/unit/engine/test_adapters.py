"""Adapters in the engine: each request has its own, and no company, place or fault changes that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engines import fake_engine, generate, requests
from tgi_core.contract import (
    AdapterLoaded,
    AdapterRef,
    AdapterRows,
    Event,
    PendingLogits,
    Request,
    RequestFailed,
    RequestStarted,
    Step,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.step_engine import EngineLimits, StepEngine
from tgi_core.testing.fake import FakeBackend, FakeShape
from tgi_core.testing.models import write_fake_adapter

SHAPES: dict[str, dict[str, Any]] = {
    "all at once": {},
    "one adapter a step": {"adapters": AdapterRows.STEP},
    "one adapter a step, prefill and decode apart": {
        "adapters": AdapterRows.STEP,
        "mixed": False,
    },
    "one adapter a step, a small cache": {"adapters": AdapterRows.STEP, "cache_tokens": 256},
    "two places for five adapters": {"max_adapters": 2},
    "one place": {"max_adapters": 1},
    "chunks of 7": {"limits": EngineLimits(max_chunk_tokens=7)},
    "a small cache": {"cache_tokens": 256},
    "two steps in flight": {"steps_in_flight": 2},
    "two steps in flight, one adapter a step, two places": {
        "steps_in_flight": 2,
        "adapters": AdapterRows.STEP,
        "max_adapters": 2,
    },
    "no prefix cache": {"limits": EngineLimits(prefix_caching=False)},
}


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[[int], AdapterRef]:
    """Seed -> an adapter for the fake backend."""

    def make(seed: int) -> AdapterRef:
        folder = tmp_path / str(seed)
        if not folder.exists():
            write_fake_adapter(folder, seed)
        return AdapterRef.at(f"a{seed}", folder)

    return make


def adapted(wanted: list[Request], adapter: Callable[[int], AdapterRef]) -> list[Request]:
    """Every sixth request is for the base model, the others for one of five adapters."""
    return [replace(r, adapter=adapter(i % 6) if i % 6 else None) for i, r in enumerate(wanted)]


def events_of(engine: StepEngine) -> list[Event]:
    """All there are until nothing is left to do."""
    events: list[Event] = []
    while engine.busy:
        events += engine.poll(0.01)
    return events


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param({}, id="greedy", marks=pytest.mark.long),
        pytest.param({"temperature": 0.9}, id="sampled"),
    ],
)
def test_tokens_do_not_depend_on_the_adapters_of_others(
    shape: dict[str, Any], sampling: dict[str, Any], adapter: Callable[[int], AdapterRef]
) -> None:
    wanted = adapted(requests(36, max_new=60, **sampling), adapter)
    expected = {}
    for request in wanted:
        expected |= generate(fake_engine(), [request])
    engine = fake_engine(**shape)
    assert generate(engine, wanted) == expected
    assert generate(engine, wanted, per_step=36) == expected, "on a second run, with prefix hits"


def test_an_adapter_changes_the_tokens(adapter: Callable[[int], AdapterRef]) -> None:
    [request] = requests(1)
    answers = {
        tuple(generate(fake_engine(), [replace(request, adapter=one)])["r0"])
        for one in (None, adapter(1), adapter(2))
    }
    assert len(answers) == 3


def test_steps_hold_one_adapter_where_a_backend_takes_one(
    adapter: Callable[[int], AdapterRef],
) -> None:
    mixes: set[int] = set()

    class Watched(FakeBackend):
        def step(self, step: Step) -> PendingLogits:
            mixes.add(1 if step.adapter is None else len(set(step.adapter.tolist())))
            return super().step(step)

    for rows in (AdapterRows.STEP, AdapterRows.ROW):
        mixes.clear()
        backend = Watched(FakeShape(adapters=rows))
        generate(fake_engine(backend=backend), adapted(requests(36), adapter), per_step=36)
        # adapters are read meanwhile, so how many meet in a step is not said
        assert (max(mixes) > 1) is (rows is AdapterRows.ROW)


def test_every_adapter_gets_its_turn_where_a_step_takes_one(
    adapter: Callable[[int], AdapterRef],
) -> None:
    engine = fake_engine(adapters=AdapterRows.STEP)
    short = Request(request_id="0", prompt=(1, 2), stop=StopRule(max_new_tokens=1))
    long = replace(short, stop=StopRule(max_new_tokens=200))
    for request in (short, long):  # when the short ones have ended their adapters have been read
        while engine.busy:
            engine.poll(0.01)
        for i in range(3):
            engine.submit(replace(request, request_id=str(i), adapter=adapter(i) if i else None))
    counts = dict.fromkeys("012", 0)
    while min(counts.values()) < 50:
        for event in engine.poll(0.01):
            if isinstance(event, TokenEvent):
                counts[event.request_id] += len(event.tokens)
        assert max(counts.values()) <= min(counts.values()) + 60


def test_prefixes_are_shared_within_an_adapter_only(adapter: Callable[[int], AdapterRef]) -> None:
    engine = fake_engine()
    request = Request(request_id="x", prompt=tuple(range(100)), stop=StopRule(max_new_tokens=5))
    cached = []
    for i, which in enumerate((None, adapter(1), adapter(2), adapter(1), None)):
        engine.submit(replace(request, request_id=str(i), adapter=which))
        cached += [e.num_cached for e in events_of(engine) if isinstance(e, RequestStarted)]
    assert cached == [0, 0, 0, 99, 99]


def test_files_that_changed_are_another_adapter_or_none(
    adapter: Callable[[int], AdapterRef],
) -> None:
    """Keys and values, and open requests, belong to the files as they were."""
    engine, before = fake_engine(max_adapters=1), adapter(1)
    request = Request(
        request_id="x", prompt=tuple(range(100)), stop=StopRule(max_new_tokens=5), adapter=before
    )
    first = generate(engine, [request])["x"]
    write_fake_adapter(before.path, 12345)
    after = AdapterRef.at(before.name, before.path)
    assert after != before
    assert generate(engine, [replace(request, adapter=after)])["x"] != first
    # the place was needed, so the old files would have to be read again
    engine.submit(request)
    [failed] = [e for e in events_of(engine) if isinstance(e, RequestFailed)]
    assert "'a1'" in failed.message and "changed" in failed.message


def test_a_bad_adapter_fails_its_own_requests_only(
    adapter: Callable[[int], AdapterRef], tmp_path: Path
) -> None:
    broken = write_fake_adapter(tmp_path / "broken", 0)
    (broken / "adapter_config.json").write_text("{")
    bad = AdapterRef.at("bad", broken)
    wanted = adapted(requests(12), adapter)
    expected = generate(fake_engine(), wanted)
    engine = fake_engine()
    for i in range(3):
        engine.submit(replace(wanted[0], request_id=f"bad{i}", adapter=bad))
    tokens: dict[str, list[int]] = {r.request_id: [] for r in wanted}
    failed = []
    for request in wanted:
        engine.submit(request)
    for event in events_of(engine):
        if isinstance(event, TokenEvent):
            tokens[event.request_id] += event.tokens
        elif isinstance(event, RequestFailed):
            failed.append(event)
    assert tokens == expected
    assert [e.request_id for e in failed] == ["bad0", "bad1", "bad2"]
    assert all("the adapter 'bad' cannot be used: " in e.message for e in failed)


class SlowReader(FakeBackend):
    """Reads adapters when it is let."""

    def __init__(self, shape: FakeShape | None = None) -> None:
        super().__init__(shape or FakeShape())
        self.may_read = threading.Event()
        self.num_read = 0

    def read_adapter(self, path: Path) -> int:
        assert self.may_read.wait(30)
        self.num_read += 1
        return super().read_adapter(path)


def test_steps_go_on_while_an_adapter_is_read(adapter: Callable[[int], AdapterRef]) -> None:
    backend = SlowReader()
    engine = fake_engine(backend=backend)
    base = Request(request_id="base", prompt=(1, 2), stop=StopRule(max_new_tokens=30))
    engine.submit(replace(base, request_id="slow", adapter=adapter(1)))
    engine.submit(base)
    told = [e for _ in range(40) for e in engine.poll(0)]
    assert {e.request_id for e in told if isinstance(e, TokenEvent)} == {"base"}
    assert sum(isinstance(e, TokenEvent) for e in told) == 30
    backend.may_read.set()
    assert any(isinstance(e, TokenEvent) and e.request_id == "slow" for e in events_of(engine))


def test_a_request_that_is_cancelled_while_it_waits_leaves_nothing(
    adapter: Callable[[int], AdapterRef],
) -> None:
    backend = SlowReader()
    engine = fake_engine(backend=backend)
    [request] = requests(1)
    engine.submit(replace(request, adapter=adapter(1)))
    engine.poll(0)
    engine.cancel(request.request_id)
    backend.may_read.set()
    assert not engine.busy
    assert generate(engine, [replace(request, adapter=adapter(2))])
    assert engine.stats().num_waiting == engine.stats().num_running == 0


def test_an_adapter_is_read_once_while_it_has_a_place(
    adapter: Callable[[int], AdapterRef],
) -> None:
    backend = SlowReader()
    backend.may_read.set()
    engine = fake_engine(backend=backend, max_adapters=2)
    for i, (seed, reads) in enumerate([(1, 1), (2, 2), (1, 2), (3, 3), (1, 3), (2, 4)]):
        [request] = requests(1, seed=i)
        generate(engine, [replace(request, adapter=adapter(seed))])
        assert backend.num_read == reads, f"the {i}th request"


def test_nobody_overtakes_a_request_that_waits_for_a_place(
    adapter: Callable[[int], AdapterRef],
) -> None:
    """Else an adapter that is always in use would keep another one out for ever."""
    engine = fake_engine(max_adapters=1)
    base = Request(request_id="x", prompt=(1, 2), stop=StopRule(max_new_tokens=20))
    generate(engine, [replace(base, request_id="warm", adapter=adapter(1))])
    order = []
    for i, seed in enumerate((1, 2, 1)):
        engine.submit(replace(base, request_id=str(i), adapter=adapter(seed)))
        # its place is wanted only once it has been read, which takes as long as it takes
        engine.load_adapter(adapter(seed))
        events: list[Event] = []
        while not any(isinstance(e, AdapterLoaded) for e in events):
            events += engine.poll(0.01)
        order += [e for e in events if isinstance(e, RequestStarted)]
    order += [e for e in events_of(engine) if isinstance(e, RequestStarted)]
    assert [e.request_id for e in order] == ["0", "1", "2"]


def test_loading_tells_whether_an_adapter_is_good(
    adapter: Callable[[int], AdapterRef], tmp_path: Path
) -> None:
    engine = fake_engine(max_adapters=1)
    broken = write_fake_adapter(tmp_path / "broken", 0)
    (broken / "adapter_config.json").write_text("{}")
    bad = AdapterRef.at("bad", broken)
    for one in (adapter(1), bad, adapter(2)):
        engine.load_adapter(one)
    told = {e.adapter: e.fault for e in events_of(engine) if isinstance(e, AdapterLoaded)}
    assert told == {adapter(1): None, adapter(2): None, bad: told[bad]}
    assert told[bad] is not None and "seed" in told[bad]


def test_an_adapter_can_be_loaded_while_all_places_are_in_use(
    adapter: Callable[[int], AdapterRef],
) -> None:
    engine = fake_engine(max_adapters=1)
    long = Request(
        request_id="x", prompt=(1, 2), stop=StopRule(max_new_tokens=500), adapter=adapter(1)
    )
    engine.submit(long)
    engine.load_adapter(adapter(2))
    loaded: list[Event] = []
    while not loaded:
        loaded += [e for e in engine.poll(0.01) if isinstance(e, AdapterLoaded)]
    assert loaded == [AdapterLoaded(adapter=adapter(2))]
    assert engine.stats().num_running == 1


def test_a_dropped_adapter_goes_at_once_or_when_nobody_has_it(
    adapter: Callable[[int], AdapterRef],
) -> None:
    backend = FakeBackend(FakeShape())
    engine = fake_engine(backend=backend)
    [request] = requests(1)
    request = replace(request, adapter=adapter(1))
    whole = generate(engine, [request])["r0"]
    assert len(backend._adapters) == 1
    engine.drop_adapter(adapter(1))
    assert not backend._adapters
    engine.submit(request)
    events = [*engine.poll(1), *engine.poll(1)]
    engine.drop_adapter(adapter(1))
    events += events_of(engine)
    assert [t for e in events if isinstance(e, TokenEvent) for t in e.tokens] == whole


def test_a_resumed_request_goes_on_with_its_adapter(adapter: Callable[[int], AdapterRef]) -> None:
    for request in adapted(requests(12, temperature=1.0), adapter):
        whole = generate(fake_engine(), [request])[request.request_id]
        for done in range(len(whole)):
            resumed = replace(request, resumed=tuple(whole[:done]))
            assert whole[:done] + generate(fake_engine(), [resumed])[request.request_id] == whole


def test_a_backend_without_adapters_refuses_them(adapter: Callable[[int], AdapterRef]) -> None:
    engine = fake_engine(adapters=AdapterRows.NONE)
    [request] = requests(1)
    engine.submit(replace(request, adapter=adapter(1)))
    [failed] = [e for e in events_of(engine) if isinstance(e, RequestFailed)]
    assert failed.invalid and "does not support adapter" in failed.message
    engine.load_adapter(adapter(1))
    [told] = [e for e in events_of(engine) if isinstance(e, AdapterLoaded)]
    assert told.fault == "this backend holds no adapters"
