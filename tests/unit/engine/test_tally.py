"""What an engine counts: each step once, as what it was."""

from __future__ import annotations

import pytest

from tests.engines import fake_engine, generate, requests
from tests.unit.engine.test_step_engine import Faulty
from tgi_core.contract import Request, StepStats, StopRule
from tgi_core.engine.tally import Launched, Tally


def request(name: str, prompt: range, max_new: int = 5) -> Request:
    stop = StopRule(max_new_tokens=max_new)
    return Request(request_id=name, prompt=tuple(prompt), stop=stop)


@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_steps_are_prefill_or_decode_and_all_are_timed(steps_in_flight: int) -> None:
    engine = fake_engine(steps_in_flight=steps_in_flight)
    generate(engine, [request("a", range(10))])
    stats = engine.stats()
    assert (stats.prefill.steps, stats.decode.steps) == (1, 4)
    assert stats.steps == 5
    for batch, steps, ended in ((stats.prefill, 1, 0), (stats.decode, 4, 1)):
        for seen in (batch.inference, batch.forward, batch.decode):
            assert sum(seen.counts) == steps
            assert seen.total > 0
        assert sum(batch.filter.counts) == ended
        assert batch.inference.total >= batch.decode.total
        assert batch.failed == 0
    assert stats.generated_tokens == 5


def test_a_last_chunk_of_one_token_is_still_prefill() -> None:
    from tgi_core.engine.limits import EngineLimits

    engine = fake_engine(limits=EngineLimits(max_chunk_tokens=4))
    generate(engine, [request("a", range(9), max_new=1)])
    stats = engine.stats()
    assert (stats.prefill.steps, stats.decode.steps) == (3, 0)
    assert sum(stats.prefill.filter.counts) == 1


def test_sequences_that_leave_the_queue_are_counted_and_joining_is_timed() -> None:
    engine = fake_engine()
    for name in "abc":
        engine.submit(request(name, range(5), max_new=20))
    engine.poll(0)
    engine.submit(request("d", range(7), max_new=20))
    while engine.busy:
        engine.poll(0)
    stats = engine.stats()
    # three left it together, then one joined them
    assert stats.admitted.counts == (1, 0, 1)
    assert stats.admitted.total == 4
    assert sum(stats.concat.counts) == 1


def test_gauges_of_running_sequences() -> None:
    engine = fake_engine()
    engine.submit(request("a", range(5), max_new=20))
    engine.submit(request("b", range(7), max_new=30))
    engine.poll(0)
    assert engine.stats().running_max_tokens == 5 + 20 + 7 + 30
    engine.cancel("b")
    assert engine.stats().running_max_tokens == 25


@pytest.mark.parametrize("fault", ["rows", "memory", "bug"])
@pytest.mark.parametrize("steps_in_flight", [1, 2])
def test_failed_steps_are_counted_too(fault: str, steps_in_flight: int) -> None:
    engine = fake_engine(backend=Faulty(fault, steps_in_flight=steps_in_flight))
    engine.submit(request("bad", range(99, 100)))
    while engine.busy:
        engine.poll(0)
    stats = engine.stats()
    assert stats.prefill.failed == stats.prefill.steps >= 1
    assert not sum(stats.prefill.inference.counts)


def test_preempted_sequences_are_prefilled_again_but_leave_the_queue_once() -> None:
    engine = fake_engine(cache_tokens=256)
    wanted = requests(40, max_new=150)
    generate(engine, wanted)
    stats = engine.stats()
    assert stats.preemptions > 0
    assert stats.admitted.total == len(wanted)


def test_with_two_steps_in_flight_the_device_is_busy_with_one_at_a_time() -> None:
    tally = Tally()
    first = Launched(prefill=False, began_s=0.0, built_s=1.0, computed_s=None)
    second = Launched(prefill=False, began_s=1.5, built_s=2.0, computed_s=None)
    tally.taken_in(first, waited_s=2.5, ready_s=5.0, end_s=6.0)
    tally.taken_in(second, waited_s=6.0, ready_s=8.0, end_s=8.5)
    decode = tally.stats().decode
    assert decode.forward.total == (5.0 - 1.0) + (8.0 - 5.0)
    assert decode.decode.total == 1.0 + 0.5
    assert decode.inference.total == 6.0 + (8.5 - 6.0)


def test_with_logits_on_the_host_sampling_is_a_part_of_decoding() -> None:
    tally = Tally()
    step = Launched(prefill=True, began_s=0.0, built_s=1.0, computed_s=4.0)
    tally.taken_in(step, waited_s=5.0, ready_s=5.0, end_s=6.0)
    prefill = tally.stats().prefill
    assert (prefill.forward.total, prefill.decode.total) == (3.0, 2.0)
    assert prefill.inference.total == 6.0


def test_an_engine_that_did_nothing_has_counted_nothing() -> None:
    assert Tally().stats() == StepStats()
