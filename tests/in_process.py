"""A step engine behind the API layer in one process: a test sees both, and waits for neither.

Keeps what each request generated, token by token.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tgi_core.contract import (
    AdapterRef,
    EngineInfo,
    Event,
    Request,
    RequestFailed,
    RequestStarted,
    StepStats,
    TokenEvent,
)
from tgi_core.engine.step_engine import StepEngine


@dataclass
class Generated:
    """One request and what came of it. Satisfies Generation."""

    request: Request
    engine: InProcessEngine
    tokens: list[int] = field(default_factory=list)
    num_cached: int = 0
    cancelled: bool = False
    _events: deque[Event] = field(default_factory=deque)

    async def next(self) -> Sequence[Event]:
        """Runs the engine until there is something."""
        while not self._events:
            await asyncio.sleep(0)
            self.engine.poll()
        events = list(self._events)
        self._events.clear()
        return events

    def cancel(self) -> None:
        self.cancelled = True
        self.engine.steps.cancel(self.request.request_id)

    def take(self, event: Event) -> None:
        """Keeps an event until it is asked for."""
        match event:
            case TokenEvent():
                self.tokens += event.tokens
            case RequestStarted():
                self.num_cached = event.num_cached
            case RequestFailed():
                assert self.cancelled or event.invalid, event.message
        self._events.append(event)


class InProcessEngine:
    """Satisfies EngineClient. An engine that nobody waits for stands still."""

    ready = True
    num_deaths = 0

    def __init__(self, steps: StepEngine) -> None:
        self.steps = steps
        self.generations: list[Generated] = []

    @property
    def info(self) -> EngineInfo:
        return self.steps.info

    @property
    def stats(self) -> StepStats:
        return self.steps.stats()

    def submit(self, request: Request) -> Generated:
        self.generations.append(Generated(request, self))
        self.steps.submit(request)
        return self.generations[-1]

    def poll(self) -> None:
        """One step; its events go to whom they are for."""
        known = {generated.request.request_id: generated for generated in self.generations}
        for event in self.steps.poll(0.01):
            request_id = getattr(event, "request_id", None)
            if request_id in known:
                known[request_id].take(event)

    async def load_adapter(self, adapter: AdapterRef) -> None:
        """Requests bring theirs."""

    def drop_adapter(self, adapter: AdapterRef) -> None:
        """Nobody will ask for it."""
