"""Between messages and steps: what a client no longer wants is gone before the next step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.engines import fake_engine
from tgi_core.contract import Request, StopRule
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.loop import serve
from tgi_core.ipc.messages import Cancel, FromEngine, StepDone, Submit, ToEngine

PROMPT_TOKENS = 100
CHUNK_TOKENS = 16


class Over(Exception):
    """The script has been played."""


class Played:
    """Satisfies Channel: gives each round of messages to one turn of the loop."""

    def __init__(self, rounds: Sequence[Sequence[ToEngine]]) -> None:
        self._rounds = iter(rounds)
        self._left: list[ToEngine] | None = None
        self.sent: list[list[StepDone]] = []
        """By turn."""

    def receive(self, timeout_s: float | None) -> ToEngine | None:
        if self._left is None:
            try:
                self._left = list(next(self._rounds))
            except StopIteration:
                raise Over from None
            self.sent.append([])
        if self._left:
            return self._left.pop(0)
        self._left = None
        return None

    def send(self, message: FromEngine) -> None:
        assert isinstance(message, StepDone)
        self.sent[-1].append(message)


def request(request_id: str) -> Request:
    return Request(
        request_id=request_id,
        prompt=tuple(range(PROMPT_TOKENS)),
        stop=StopRule(max_new_tokens=1000),
    )


@pytest.mark.parametrize("turns", [1, 3, 20], ids=["at once", "in prefill", "in decode"])
@pytest.mark.parametrize("waits", [False, True], ids=["running", "in the queue"])
def test_blocks_of_who_has_left_are_free_before_the_next_step(turns: int, waits: bool) -> None:
    limits = EngineLimits(max_chunk_tokens=CHUNK_TOKENS, prefix_caching=False)
    engine = fake_engine(limits, max_rows=1, max_sequences=1)
    wanted = ["first", "second"] if waits else ["first"]
    channel = Played(
        [
            [Submit(request(name)) for name in wanted],
            *[[]] * turns,
            [Cancel(name) for name in reversed(wanted)],
            [],
        ]
    )
    with pytest.raises(Over):
        serve(engine, channel)
    *before, last = channel.sent[: turns + 2]
    assert any(message.tokens for sent in before for message in sent) is (turns > 6)
    [told] = last
    assert not told.tokens and told.stats is not None
    assert told.stats.cache_tokens_used == told.stats.num_running == told.stats.num_waiting == 0
    # nothing was computed of them in that turn, nor in any later one
    computed = min(PROMPT_TOKENS, CHUNK_TOKENS * (turns + 1))
    assert told.stats.prefill_tokens == computed
