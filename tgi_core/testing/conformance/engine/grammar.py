"""Promises of engines that keep an output within a grammar."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import ClassVar

import pytest

from tgi_core.contract import Feature, FinishReason, Grammar, GrammarKind
from tgi_core.testing.conformance.engine.driver import Driver
from tgi_core.testing.conformance.engine.promises import EnginePromises, need

_REGEX = r"[0-9]{2}:[a-f]{3}"
_SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["a", "bc"]}},
    "required": ["ok", "kind"],
    "additionalProperties": False,
}
_LARK = 'start: ("x" | "yz") "-" /[0-9]/'
_GBNF = 'root ::= ("x" | "yz") "-" [0-9]'
_GRAMMARS = {
    GrammarKind.REGEX: _REGEX,
    GrammarKind.JSON_SCHEMA: json.dumps(_SCHEMA),
    GrammarKind.LARK: _LARK,
    GrammarKind.GBNF: _GBNF,
}
_LONG = 60
"""Tokens that are enough for any of these, one character each."""


class GrammarPromises(EnginePromises):
    """The text is one of the grammar, and ends where it may.

    A subclass whose engine claims GRAMMAR sets what is below.
    """

    end_token: ClassVar[int] = 0
    """Ends a sequence."""
    grammar_kinds: ClassVar[frozenset[GrammarKind]] = frozenset(GrammarKind)
    """Those that the engine takes; it refuses the others by name."""

    @classmethod
    def text_of(cls, tokens: Sequence[int]) -> str:
        """The text that tokens stand for."""
        raise NotImplementedError("an engine that claims GRAMMAR must be given its tokens' texts")

    @pytest.mark.parametrize("kind", GrammarKind, ids=lambda kind: kind.value)
    @pytest.mark.parametrize("temperature", [0.0, 1.5])
    def test_output_is_within_the_grammar(
        self, driver: Driver, kind: GrammarKind, temperature: float
    ) -> None:
        """Whole, and told as ended by its last token."""
        need(driver, Feature.GRAMMAR)
        grammar = Grammar(kind=kind, text=_GRAMMARS[kind])
        request = driver.request(
            driver.prompt(6, 1),
            _LONG,
            eos=[self.end_token],
            grammar=grammar,
            temperature=temperature,
        )
        [outcome] = driver.run(request)
        if kind not in self.grammar_kinds:
            assert outcome.failed is not None and outcome.failed.invalid
            return
        assert outcome.failed is None, outcome.failed
        assert outcome.finish is FinishReason.EOS
        *said, end = outcome.tokens
        assert end == self.end_token
        _check(kind, self.text_of(said))

    def test_neighbours_of_guided_requests_are_free(self, driver: Driver) -> None:
        """They say what they say alone."""
        need(driver, Feature.GRAMMAR)
        grammar = Grammar(kind=GrammarKind.REGEX, text=_REGEX)
        prompt = driver.prompt(7, 2)
        alone = driver.tokens(driver.request(prompt, 12))
        guided, free = driver.run(
            driver.request(prompt, _LONG, eos=[self.end_token], grammar=grammar),
            driver.request(prompt, 12),
        )
        _check(GrammarKind.REGEX, self.text_of(guided.tokens[:-1]))
        if self.exact:
            assert free.tokens == alone

    def test_a_wrong_grammar_fails_alone(self, driver: Driver) -> None:
        """Core tries grammars before, but not with the engine's own library."""
        need(driver, Feature.GRAMMAR)
        grammar = Grammar(kind=GrammarKind.REGEX, text="([unclosed")
        bad, good = driver.run(
            driver.request(driver.prompt(5, 3), 8, eos=[self.end_token], grammar=grammar),
            driver.request(driver.prompt(5, 4), 8),
        )
        assert bad.failed is not None and bad.failed.message
        assert len(good.tokens) == 8


def _check(kind: GrammarKind, text: str) -> None:
    match kind:
        case GrammarKind.REGEX:
            assert re.fullmatch(_REGEX, text), text
        case GrammarKind.JSON_SCHEMA:
            said = json.loads(text)
            assert said.keys() == {"ok", "kind"}
            assert type(said["ok"]) is bool and said["kind"] in ("a", "bc")
        case GrammarKind.LARK | GrammarKind.GBNF:
            assert re.fullmatch(r"(x|yz)-[0-9]", text), text
