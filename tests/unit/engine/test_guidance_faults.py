"""Whatever is wrong with a grammar or its matcher, its own request alone fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.guided import (
    FINITE,
    guided,
    guided_engine,
    one_by_one,
    wanted,
)
from tgi_core.builtin.guidance import LLGuidance
from tgi_core.contract import (
    CompiledGrammar,
    Grammar,
    GrammarKind,
    Matcher,
    Request,
    RequestFailed,
    TokenEvent,
    Vocabulary,
)
from tgi_core.engine.step_engine import StepEngine
from tgi_core.errors import GenerationError


def assert_no_failure_but(
    engine: StepEngine, good: list[Request], bad: dict[str, str], *, invalid: bool
) -> None:
    """The good requests get what they get alone, the others fail with these words."""
    expected = one_by_one(good)
    outputs: dict[str, list[int]] = {r.request_id: [] for r in good}
    for request in good:
        engine.submit(request)
    failures = {}
    while engine.busy:
        for event in engine.poll(1):
            if isinstance(event, RequestFailed):
                failures[event.request_id] = event
            elif isinstance(event, TokenEvent) and event.request_id in outputs:
                outputs[event.request_id] += event.tokens
    assert outputs == expected
    assert failures.keys() == bad.keys()
    for request_id, words in bad.items():
        assert words in failures[request_id].message
        assert failures[request_id].invalid is invalid


@pytest.mark.parametrize(
    ("grammar", "words"),
    [
        (Grammar(kind=GrammarKind.REGEX, text="a("), "unclosed"),
        (Grammar(kind=GrammarKind.REGEX, text="é"), "vocabulary"),
        (Grammar(kind=GrammarKind.JSON_SCHEMA, text='{"not": {}}'), "Unimplemented"),
        (Grammar(kind=GrammarKind.LARK, text="x"), "line 1"),
    ],
)
def test_a_bad_grammar_fails_its_own_request_as_invalid(grammar: Grammar, words: str) -> None:
    engine = guided_engine()
    engine.submit(guided(grammar))
    good = wanted()
    assert_no_failure_but(engine, good, {"a": words}, invalid=True)


class Unlucky:
    """A guidance engine whose matchers fail at a certain call, for one grammar."""

    name = "unlucky"
    kinds = frozenset(GrammarKind)

    def __init__(self, method: str, calls: int, error: Exception) -> None:
        self.method, self.calls, self.error = method, calls, error

    def compiler(self, vocabulary: Vocabulary) -> Unlucky:
        self._compiler = LLGuidance().compiler(vocabulary)
        return self

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        compiled = self._compiler.compile(grammar)
        return UnluckyGrammar(self, compiled) if grammar == FINITE else compiled


class UnluckyGrammar:
    def __init__(self, owner: Unlucky, compiled: CompiledGrammar) -> None:
        self.owner, self.compiled = owner, compiled

    def matcher(self) -> Matcher:
        return UnluckyMatcher(self.owner, self.compiled.matcher())


class UnluckyMatcher:
    def __init__(self, owner: Unlucky, matcher: Matcher) -> None:
        self.owner, self.matcher, self.left = owner, matcher, owner.calls

    def count(self, method: str) -> None:
        if method == self.owner.method:
            self.left -= 1
            if self.left == 0:
                raise self.owner.error

    def fill(self, mask: Any) -> bool:
        self.count("fill")
        return self.matcher.fill(mask)

    def accept(self, tokens: Sequence[int]) -> None:
        if tokens:
            self.count("accept")
        self.matcher.accept(tokens)

    def roll_back(self, num_tokens: int) -> None:
        self.matcher.roll_back(num_tokens)


@pytest.mark.parametrize("steps_in_flight", [1, 2])
@pytest.mark.parametrize("method", ["fill", "accept"])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize(
    ("error", "words"),
    [(GenerationError("no way on"), "the grammar: no way on"), (KeyError(7), "engine failed")],
)
def test_a_matcher_that_fails_takes_nobody_along(
    method: str, calls: int, error: Exception, words: str, steps_in_flight: int
) -> None:
    engine = guided_engine(Unlucky(method, calls, error), steps_in_flight=steps_in_flight)
    engine.submit(guided(FINITE))
    assert_no_failure_but(engine, wanted(), {"a": words}, invalid=False)
    assert not engine.busy and engine.scheduler.num_running == 0
