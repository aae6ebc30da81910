"""Guided sequences in the engine: what they write is in their grammar, whatever happens to them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.engines import LOAD, alone, generate, no_progress
from tests.guided import (
    EOS,
    FINITE,
    VOCABULARY,
    guided,
    guided_engine,
    one_by_one,
    outcome,
    text_of,
    wanted,
)
from tgi_core.builtin.guidance import LLGuidance
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    CompiledGrammar,
    Feature,
    FinishReason,
    Grammar,
    GrammarKind,
    LogitsRows,
    PendingLogits,
    PromptScored,
    Request,
    RequestFailed,
    SamplingParams,
    Step,
    TokenEvent,
    Vocabulary,
)
from tgi_core.engine.guidance import Guidance
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine
from tgi_core.testing.fake import FakeBackend, FakeShape


def assert_in_grammar(request: Request, tokens: Sequence[int]) -> None:
    if request.grammar is None:
        return
    assert tokens[-1] == EOS
    if request.grammar.kind is GrammarKind.REGEX:
        assert re.fullmatch(request.grammar.text, text_of(tokens))
    else:
        jsonschema.validate(json.loads(text_of(tokens)), json.loads(request.grammar.text))


SHAPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "chunks of 7": {"limits": EngineLimits(max_chunk_tokens=7)},
    "two steps in flight": {"steps_in_flight": 2},
    "a small cache": {"cache_tokens": 512, "max_sequence_tokens": 512},
    "a small cache, two steps in flight": {
        "cache_tokens": 512,
        "max_sequence_tokens": 512,
        "steps_in_flight": 2,
    },
    "prefill and decode apart": {"mixed": False},
    "last logits only": {"logits": LogitsRows.LAST},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param({}, id="greedy", marks=pytest.mark.long),
        pytest.param({"temperature": 0.9, "top_p": 0.95}, id="sampled"),
    ],
)
def test_guided_outputs_are_in_their_grammars_and_do_not_depend_on_company(
    shape: dict[str, Any], sampling: dict[str, Any]
) -> None:
    asked = wanted(**sampling)
    expected = one_by_one(asked)
    for request in asked:
        assert_in_grammar(request, expected[request.request_id])
    engine = guided_engine(**shape)
    assert generate(engine, asked) == expected
    assert generate(engine, asked, per_step=12) == expected
    if shape.get("cache_tokens"):
        assert engine.stats().preemptions > 0
    assert expected | alone([r for r in asked if r.grammar is None]) == expected


@pytest.mark.parametrize(
    "sampling",
    [
        pytest.param({}, id="greedy", marks=pytest.mark.long),
        pytest.param({"temperature": 1.0}, id="sampled"),
    ],
)
def test_a_resumed_guided_request_goes_on_as_if_nothing_had_happened(
    sampling: dict[str, Any],
) -> None:
    for request in wanted(3, **sampling):
        whole = generate(guided_engine(), [request])[request.request_id]
        engine = guided_engine()
        for done in range(0, len(whole), 3):
            resumed = replace(request, resumed=tuple(whole[:done]))
            rest = generate(engine, [resumed])[request.request_id]
            assert whole[:done] + rest == whole


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_a_complete_text_ends_the_sequence_even_if_ends_are_ignored(ignore_eos: bool) -> None:
    events = outcome(guided_engine(), guided(FINITE, ignore_eos=ignore_eos))
    tokens = [t for e in events if isinstance(e, TokenEvent) for t in e.tokens]
    assert text_of(tokens) in ("yes", "no") and tokens[-1] == EOS
    assert isinstance(events[-1], TokenEvent) and events[-1].finish is FinishReason.EOS


def test_where_ends_are_ignored_a_text_goes_on_for_as_long_as_it_can() -> None:
    grammar = Grammar(kind=GrammarKind.REGEX, text="a*")
    events = outcome(guided_engine(), guided(grammar, ignore_eos=True, max_new_tokens=50))
    tokens = [t for e in events if isinstance(e, TokenEvent) for t in e.tokens]
    assert text_of(tokens) == "a" * 50
    assert isinstance(events[-1], TokenEvent) and events[-1].finish is FinishReason.LENGTH


def test_any_of_several_tokens_may_end_a_text() -> None:
    ends = set()
    for place in range(20):
        request = replace(guided(FINITE, eos_token_ids=(0, EOS, 500)), prompt=(40, 41 + place))
        ends.add(generate(guided_engine(), [request])["a"][-1])
    assert ends == {0, EOS}, "a token that the model does not have is no end"


def test_prompt_logprobs_are_not_changed_by_a_grammar() -> None:
    request = replace(guided(FINITE), prompt_logprobs=True)
    scored = [
        event
        for asked in (request, replace(request, grammar=None))
        for event in outcome(guided_engine(), asked)
        if isinstance(event, PromptScored)
    ]
    assert len(scored) == 2 and scored[0] == scored[1]


def test_the_log_probabilities_are_those_among_the_allowed_tokens() -> None:
    request = replace(
        guided(Grammar(kind=GrammarKind.REGEX, text="[xyz]")),
        sampling=SamplingParams(num_top=5, logprobs=True),
    )
    first = next(e for e in outcome(guided_engine(), request) if isinstance(e, TokenEvent))
    assert {VOCABULARY[top.token] for top in first.top[0]} == {b"x", b"y", b"z"}
    assert sum(np.exp(top.logprob) for top in first.top[0]) == pytest.approx(1)


def test_a_model_without_an_end_cannot_be_guided() -> None:
    [event] = outcome(guided_engine(), guided(FINITE, eos_token_ids=()))
    assert isinstance(event, RequestFailed) and event.invalid and "ends" in event.message


def test_an_engine_that_samples_in_its_steps_or_has_no_guidance_refuses_grammars() -> None:
    assert Feature.GRAMMAR in guided_engine().info.features
    engine = StepEngine(FakeBackend(FakeShape()), FirstComeFirstServed())
    engine.start(LOAD, no_progress)
    engine.use_vocabulary(VOCABULARY)
    for made in (engine, guided_engine(logits=LogitsRows.NONE)):
        assert Feature.GRAMMAR not in made.info.features
        [event] = outcome(made, guided(FINITE))
        assert isinstance(event, RequestFailed) and event.invalid and "grammar" in event.message


def test_a_request_can_be_cancelled_while_its_grammar_is_compiled() -> None:
    engine = guided_engine()
    engine.submit(guided(FINITE))
    assert engine.busy
    engine.cancel("a")
    assert not engine.busy
    assert generate(engine, [guided(FINITE)])["a"][-1] == EOS


def test_an_engine_that_was_told_no_vocabulary_says_so() -> None:
    engine = StepEngine(
        FakeBackend(FakeShape()), FirstComeFirstServed(), guidance=Guidance(LLGuidance())
    )
    engine.start(LOAD, no_progress)
    [event] = outcome(engine, guided(FINITE))
    assert isinstance(event, RequestFailed) and "vocabulary" in event.message


@pytest.mark.parametrize("vocab_size", [100, 128, 160])
def test_the_model_may_have_more_or_fewer_tokens_than_the_tokenizer(vocab_size: int) -> None:
    engine = guided_engine(vocab_size=vocab_size)
    grammar = Grammar(kind=GrammarKind.REGEX, text="[A-Z0-9]{20}")
    tokens = generate(engine, [guided(grammar)])["a"]
    assert re.fullmatch(grammar.text, text_of(tokens)) and max(tokens) < vocab_size


class Counting(LLGuidance):
    """Counts what is compiled."""

    compiled = 0

    def compiler(self, vocabulary: Vocabulary) -> Any:
        outer, compiler = self, super().compiler(vocabulary)

        class Compiler:
            def compile(self, grammar: Grammar) -> CompiledGrammar:
                outer.compiled += 1
                return compiler.compile(grammar)

        return Compiler()


def test_a_grammar_is_compiled_once_and_kept_for_a_while() -> None:
    counting = Counting()
    engine = guided_engine(counting)
    for _ in range(3):
        generate(engine, [guided(FINITE)])
    assert counting.compiled == 1
    for i in range(40):
        generate(engine, [guided(Grammar(kind=GrammarKind.REGEX, text=f"a{i}"))])
    assert counting.compiled == 41
    generate(engine, [guided(Grammar(kind=GrammarKind.REGEX, text="a39"))])
    assert counting.compiled == 41, "one of the newest"
    generate(engine, [guided(FINITE)])
    assert counting.compiled == 42, "the oldest one had to go"


def test_long_grammars_are_kept_for_less_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgi_core.engine.guidance._MAX_KEPT_BYTES", 3000)
    counting = Counting()
    engine = guided_engine(counting)
    grammars = [Grammar(kind=GrammarKind.REGEX, text=f"b{i}|{'c' * 1000}") for i in range(4)]
    for grammar in [*grammars, grammars[3], grammars[2], grammars[1]]:
        generate(engine, [guided(grammar)])
    assert counting.compiled == 5, "two of them fit"


@dataclass
class Watched:
    """PendingLogits that say when they are waited for."""

    pending: PendingLogits
    log: list[str]

    def numpy(self) -> np.ndarray:
        self.log.append("waited for the device")
        return self.pending.numpy()


class WatchedBackend(FakeBackend):
    def __init__(self, log: list[str]) -> None:
        super().__init__(FakeShape())
        self.log = log

    def step(self, step: Step) -> PendingLogits:
        self.log.append("device started")
        return Watched(super().step(step), self.log)


class WatchedGuidance(LLGuidance):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def compiler(self, vocabulary: Vocabulary) -> Any:
        inner, log = super().compiler(vocabulary), self.log

        class Compiler:
            def compile(self, grammar: Grammar) -> Any:
                self.compiled = inner.compile(grammar)
                return self

            def matcher(self) -> Any:
                self.inner = self.compiled.matcher()
                self.accept, self.roll_back = self.inner.accept, self.inner.roll_back
                return self

            def fill(self, mask: np.ndarray) -> bool:
                log.append("mask")
                return self.inner.fill(mask)

        return Compiler()


def test_masks_are_made_while_the_device_computes() -> None:
    log: list[str] = []
    guidance = Guidance(WatchedGuidance(log))
    engine = StepEngine(WatchedBackend(log), FirstComeFirstServed(), guidance=guidance)
    engine.start(LOAD, no_progress)
    engine.use_vocabulary(VOCABULARY)
    tokens = generate(engine, [guided(FINITE)])["a"]
    assert log == ["device started", "mask", "waited for the device"] * len(tokens)
