"""Drives an engine through the contract, and keeps what it tells of each request.

Every event is checked for its place in the order that the contract promises; judges no token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from time import monotonic
from typing import Any

import numpy as np

from tgi_core.contract import (
    AdapterLoaded,
    Engine,
    EngineInfo,
    Event,
    FinishReason,
    PromptEmbedded,
    PromptScored,
    Request,
    RequestFailed,
    RequestStarted,
    SamplingParams,
    StopRule,
    TokenEvent,
    TopToken,
)

_PATIENCE_S = 60.0
"""How long an engine with work may say nothing."""


@dataclass(slots=True)
class Outcome:
    """All that an engine told of a request."""

    request: Request
    started: RequestStarted | None = None
    scored: PromptScored | None = None
    pieces: list[tuple[int, ...]] = field(default_factory=list)
    """The tokens of each event."""
    logprobs: list[float] = field(default_factory=list)
    top: list[tuple[TopToken, ...]] = field(default_factory=list)
    finish: FinishReason | None = None
    failed: RequestFailed | None = None

    @property
    def tokens(self) -> list[int]:
        """All of them."""
        return [token for piece in self.pieces for token in piece]

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        return self.finish is not None or self.failed is not None


class Driver:
    """Requests to one engine."""

    def __init__(self, engine: Engine, info: EngineInfo) -> None:
        self.engine = engine
        self.info = info
        self.open: dict[str, Outcome] = {}
        """Requests that were submitted, and have neither ended nor been cancelled."""
        self.loaded: list[AdapterLoaded] = []
        self._ids = count()

    def prompt(self, length: int, seed: int) -> tuple[int, ...]:
        """Random tokens, the same in every run."""
        drawn = np.random.default_rng((length, seed)).integers(0, self.info.vocab_size, length)
        return tuple(int(token) for token in drawn)

    def request(
        self, prompt: Sequence[int], max_new: int = 8, *, eos: Sequence[int] = (), **more: Any
    ) -> Request:
        """A request with an id of its own.

        Args:
            prompt: token ids.
            max_new: most tokens to generate.
            eos: tokens that end it.
            **more: fields of SamplingParams or of Request; neutral and greedy by default.
        """
        sampling = {k: more.pop(k) for k in tuple(more) if k in SamplingParams.__slots__}
        return Request(
            request_id=f"kit-{next(self._ids)}",
            prompt=tuple(prompt),
            sampling=SamplingParams(**sampling),
            stop=StopRule(
                max_new_tokens=max_new,
                eos_token_ids=tuple(eos),
                ignore_eos=more.pop("ignore_eos", False),
            ),
            **more,
        )

    def submit(self, *requests: Request) -> list[Outcome]:
        """Hands requests to the engine; their outcomes grow with each poll."""
        outcomes = [Outcome(request) for request in requests]
        for outcome in outcomes:
            self.open[outcome.request.request_id] = outcome
            self.engine.submit(outcome.request)
        return outcomes

    def run(self, *requests: Request) -> list[Outcome]:
        """Submits requests and waits for the end of each."""
        outcomes = self.submit(*requests)
        self.until(lambda: all(outcome.ended for outcome in outcomes))
        return outcomes

    def tokens(self, request: Request) -> list[int]:
        """Those of a request that must not fail, served by itself."""
        [outcome] = self.run(request)
        assert outcome.failed is None, outcome.failed
        return outcome.tokens

    def cancel(self, outcome: Outcome) -> None:
        """From now on no event of it may come."""
        self.engine.cancel(outcome.request.request_id)
        self.open.pop(outcome.request.request_id, None)

    def clear(self) -> None:
        """Cancels whatever is open."""
        for outcome in tuple(self.open.values()):
            self.cancel(outcome)

    def until(self, done: Callable[[], bool]) -> None:
        """Polls until something is true.

        Raises:
            AssertionError: the engine says nothing for a minute, or breaks the order of events.
        """
        heard = monotonic()
        while not done():
            events = self.engine.poll(0.01)
            for event in events:
                self._take(event)
            if events:
                heard = monotonic()
            silent = monotonic() - heard
            assert silent < _PATIENCE_S, f"no event for {silent:.0f} s, with {len(self.open)} open"

    def drain(self) -> None:
        """Polls for as long as the engine says that it has work."""
        self.until(lambda: not self.engine.busy)

    def _take(self, event: Event) -> None:
        if isinstance(event, AdapterLoaded):
            self.loaded.append(event)
            return
        outcome = self.open.get(event.request_id)
        assert outcome is not None, f"of a request that has ended, or is not known: {event}"
        match event:
            case RequestStarted():
                assert outcome.started is None, "a request started twice"
                assert event.queue_s >= 0
                assert (
                    0
                    <= event.num_cached
                    < len(outcome.request.prompt) + len(outcome.request.resumed)
                )
                outcome.started = event
            case PromptScored():
                assert outcome.started is not None, "before the request has started"
                assert outcome.scored is None and not outcome.pieces
                outcome.scored = event
            case TokenEvent():
                assert outcome.started is not None, "tokens before the request has started"
                assert event.tokens, "an event without a token"
                outcome.pieces.append(event.tokens)
                outcome.logprobs += event.logprobs
                outcome.top += event.top
                outcome.finish = event.finish
            case RequestFailed():
                assert event.message, "say why"
                outcome.failed = event
            case PromptEmbedded():
                raise AssertionError("nobody has asked for a vector")
        if outcome.ended:
            del self.open[event.request_id]
