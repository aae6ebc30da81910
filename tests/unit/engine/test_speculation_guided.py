"""Drafts change no guided output, whatever the grammar says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.engines import generate
from tests.guided import EOS, guided, guided_engine, one_by_one, outcome
from tests.guided import wanted as guided_traffic
from tests.speculators import Always, Prophet
from tgi_core.contract import Event, Grammar, GrammarKind, RequestFailed, SamplingParams
from tgi_core.engine.limits import EngineLimits
from tgi_core.errors import GenerationError

DRAFTS = EngineLimits(num_drafts=5)


@pytest.mark.parametrize("steps_in_flight", [1, 2])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}], ids=["greedy", "sampled"])
def test_guided_outputs_are_those_without_drafts(
    steps_in_flight: int, sampling: dict[str, Any]
) -> None:
    wanted = guided_traffic(**sampling)
    expected = one_by_one(wanted)
    engine = guided_engine(
        limits=DRAFTS, speculator=Prophet(wanted, expected), steps_in_flight=steps_in_flight
    )
    assert generate(engine, wanted) == expected
    assert engine.stats().accepted_tokens > 10


def test_a_draft_that_the_grammar_refuses_changes_nothing() -> None:
    request = guided(Grammar(kind=GrammarKind.REGEX, text="[a-z]{30}[0-9]{5}"))
    expected = one_by_one([request])
    for tokens in ((EOS,), (40, 41), (127,), (-1, 5), (10**6,)):
        engine = guided_engine(limits=DRAFTS, speculator=Always(*tokens))
        assert generate(engine, [request]) == expected


def failures(events: Sequence[Event]) -> list[RequestFailed]:
    return [e for e in events if isinstance(e, RequestFailed)]


class DeadEnd:
    """A matcher that allows all, and cannot go on after the token 50."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.broken = False

    def fill(self, mask: Any) -> bool:
        if self.broken or 50 in self.tokens:
            self.broken = True
            raise GenerationError("a dead end")
        mask.fill(-1)
        return False

    def accept(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens

    def roll_back(self, num_tokens: int) -> None:
        if self.broken:
            raise ValueError("of no more use")
        del self.tokens[-num_tokens:]


class DeadEnds:
    """A guidance engine of such matchers."""

    name = "dead-ends"
    kinds = frozenset(GrammarKind)

    def compiler(self, vocabulary: Any) -> Any:
        return self

    def compile(self, grammar: Grammar) -> Any:
        return self

    def matcher(self) -> DeadEnd:
        return DeadEnd()


@pytest.mark.parametrize("drafts", [(50, 60), (60, 50, 61)])
def test_a_grammar_without_a_way_on_behind_a_wrong_draft_goes_on(drafts: tuple[int, ...]) -> None:
    request = replace(
        guided(Grammar(kind=GrammarKind.REGEX, text="x"), max_new_tokens=60),
        sampling=SamplingParams(temperature=1.0, logit_bias=((50, -1000.0),)),
    )
    expected = generate(guided_engine(DeadEnds()), [request])
    engine = guided_engine(DeadEnds(), limits=DRAFTS, speculator=Always(*drafts))
    assert generate(engine, [request]) == expected
    assert engine.stats().drafted_tokens > 0


def test_a_grammar_without_a_way_on_fails_behind_the_same_token() -> None:
    request = replace(
        guided(Grammar(kind=GrammarKind.REGEX, text="x"), max_new_tokens=60),
        sampling=SamplingParams(logit_bias=((50, 1000.0),)),
    )
    plain = outcome(guided_engine(DeadEnds()), request)
    engine = guided_engine(DeadEnds(), limits=DRAFTS, speculator=Always(50, 50))
    assert [e.message for e in failures(outcome(engine, request))] == [
        e.message for e in failures(plain)
    ]
