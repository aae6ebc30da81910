"""An engine hangs that has requests and makes no progress, whatever else it tells."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.engines import LOAD, fake_engine, no_progress
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import Event, Request, StepStats, StopRule, TokenEvent
from tgi_core.engine.loop import serve
from tgi_core.engine.step_engine import StepEngine
from tgi_core.engine.watch import LOOKS, Watch
from tgi_core.ipc.messages import FromEngine, StepDone, Submit, ToEngine
from tgi_core.testing.fake import FakeBackend, FakeShape

REQUEST = Request(request_id="r", prompt=(1, 2, 3), stop=StopRule(max_new_tokens=1000))


class Over(Exception):
    """So many turns were watched."""


class Watched:
    """Satisfies Channel: hands over one request, and looks at the engine once a turn."""

    def __init__(self, turns: int) -> None:
        self.watch = Watch()
        self.hangs_after: int | None = None
        self._turns = turns
        self._done = -1
        self._messages: list[ToEngine] = [Submit(REQUEST)]

    def receive(self, timeout_s: float | None) -> ToEngine | None:
        if self._messages:
            return self._messages.pop()
        self._done += 1
        if self._done and self.watch.look(at_work=True) and self.hangs_after is None:
            self.hangs_after = self._done
        if self._done == self._turns:
            raise Over
        return None

    def send(self, message: FromEngine) -> None:
        assert isinstance(message, StepDone)
        self.watch.hear(message)


class AlwaysComesBack(StepEngine):
    """Has the request for ever, tells its stats, and makes nothing of it."""

    def poll(self, timeout_s: float) -> Sequence[Event]:
        return []

    @property
    def busy(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _stats_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgi_core.engine.loop._STATS_INTERVAL_S", 0.0)


def watched(engine: StepEngine) -> int | None:
    channel = Watched(3 * LOOKS)
    with pytest.raises(Over):
        serve(engine, channel)
    return channel.hangs_after


def test_an_engine_that_tells_its_stats_and_no_token_hangs() -> None:
    assert watched(fake_engine()) is None
    engine = AlwaysComesBack(FakeBackend(FakeShape()), FirstComeFirstServed())
    engine.start(LOAD, no_progress)
    assert watched(engine) == LOOKS


def test_a_long_prompt_is_progress_before_its_first_token() -> None:
    watch = Watch()
    for done in range(3 * LOOKS):
        watch.hear(StepDone.of([], StepStats(prefill_tokens=512 * (done + 1))))
        assert not watch.look(at_work=True)


def test_nobody_hangs_who_has_nothing_to_do() -> None:
    watch = Watch()
    assert not any(watch.look(at_work=False) for _ in range(3 * LOOKS))
    assert not any(watch.look(at_work=True) for _ in range(LOOKS - 1))
    watch.hear(StepDone.of([TokenEvent(request_id="r", tokens=(1,))], None))
    assert not any(watch.look(at_work=True) for _ in range(LOOKS))
