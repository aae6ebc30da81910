"""Engines with guidance over the fake backend, and guided traffic for them, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.engines import LOAD, freeze_costs, generate, no_progress, requests
from tgi_core.builtin.guidance import LLGuidance
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    Event,
    Grammar,
    GrammarKind,
    GuidanceEngine,
    Request,
    SamplingParams,
    Speculator,
    StopRule,
    Vocabulary,
)
from tgi_core.engine.guidance import Guidance
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.speculation import Drafting
from tgi_core.engine.step_engine import StepEngine
from tgi_core.testing.fake import FakeBackend, FakeShape

EOS = 3
WORDS = [b'{"', b'":', b'",', b"true", b"false", b"null", b'"}', b"[]", b"12", b'": "', b"}]"]
VOCABULARY: Vocabulary = [
    *[b""] * 4,
    *WORDS,
    *[b""] * (31 - 4 - len(WORDS)),
    b"\n",
    *(bytes([byte]) for byte in range(32, 127)),
    b"\t",
]
"""128 tokens: all of printable ASCII, and some longer ones."""

DIGITS = Grammar(kind=GrammarKind.REGEX, text=r"\d{3}-\d{4}-[a-z]{20,40}")
PERSON = Grammar(
    kind=GrammarKind.JSON_SCHEMA,
    text=json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 9},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
            },
            "required": ["name", "age", "tags"],
            "additionalProperties": False,
        }
    ),
)


def guided_engine(
    engine: GuidanceEngine | None = None,
    limits: EngineLimits | None = None,
    speculator: Speculator | None = None,
    **shape: Any,
) -> StepEngine:
    made = StepEngine(
        FakeBackend(FakeShape(**shape)),
        FirstComeFirstServed(),
        limits,
        Guidance(engine or LLGuidance()),
        drafting=Drafting(speculator) if speculator else None,
    )
    made.start(LOAD, no_progress)
    freeze_costs(made)
    made.use_vocabulary(VOCABULARY)
    return made


def text_of(tokens: Sequence[int]) -> str:
    return b"".join(VOCABULARY[token] for token in tokens).decode()


FINITE = Grammar(kind=GrammarKind.REGEX, text="yes|no")


def wanted(count: int = 12, **sampling: Any) -> list[Request]:
    """Some of them guided."""
    grammars = [DIGITS, None, PERSON]
    return [
        replace(
            request,
            grammar=grammars[i % 3],
            stop=StopRule(max_new_tokens=900 if grammars[i % 3] else 60, eos_token_ids=(EOS,)),
        )
        for i, request in enumerate(requests(count, **sampling))
    ]


def one_by_one(wanted: Sequence[Request]) -> dict[str, list[int]]:
    outputs: dict[str, list[int]] = {}
    for request in wanted:
        outputs |= generate(guided_engine(), [request])
    return outputs


def outcome(engine: StepEngine, request: Request) -> list[Event]:
    """All events of a request."""
    events: list[Event] = []
    engine.submit(request)
    while engine.busy:
        events += engine.poll(1)
    return events


def guided(grammar: Grammar, **stop: Any) -> Request:
    return Request(
        request_id="a",
        prompt=(40, 41, 42),
        sampling=SamplingParams(temperature=1.0),
        stop=StopRule(**({"max_new_tokens": 500, "eos_token_ids": (EOS,)} | stop)),
        grammar=grammar,
    )
