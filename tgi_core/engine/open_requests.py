"""The API process's record of every open request and every token it has got.

It is what lets a request outlive the engine that worked on it: a request goes to a new engine
together with the tokens that the old one produced, and its reader sees nothing but a pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from tgi_core.contract import (
    Event,
    PromptEmbedded,
    PromptScored,
    Request,
    RequestFailed,
    RequestStarted,
    TokenEvent,
)
from tgi_core.errors import EngineLost


class OpenRequest:
    """Implements `Generation`."""

    def __init__(self, request: Request, on_end: Callable[[OpenRequest], None]) -> None:
        self.request = request
        self.sent = False
        """Whether the present engine has it."""
        self.strikes = 0
        """Engines that died with it since its last token."""
        self.cancelled = False
        """Whether it ended because nobody wants the rest."""
        self._tokens: list[int] = []
        self._told: set[type[Event]] = set()
        self._ended = False
        self._events: list[Event] = []
        self._error: EngineLost | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_end = on_end

    def as_resumed(self) -> Request:
        """The request for a new engine, to go on after the tokens so far."""
        if not self._tokens:
            return self.request
        return replace(self.request, resumed=(*self.request.resumed, *self._tokens))

    def deliver(self, event: Event) -> None:
        """Takes an event for the reader."""
        if self._ended:
            return
        match event:
            case TokenEvent():
                self._tokens += event.tokens
                self.strikes = 0
                self._ended = event.finish is not None
            case RequestFailed() | PromptEmbedded():
                self._ended = True
            case RequestStarted() | PromptScored() if type(event) in self._told:
                return  # an engine before this one told it
        self._told.add(type(event))
        self._events.append(event)
        self._wake()
        if self._ended:
            self._on_end(self)

    def lose(self, error: EngineLost) -> None:
        """No engine will go on with it."""
        self._ended, self._error = True, error
        self._wake()
        self._on_end(self)

    async def next(self) -> Sequence[Event]:
        """See `Generation.next`."""
        while not self._events:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        events, self._events = self._events, []
        return events

    def cancel(self) -> None:
        """See `Generation.cancel`."""
        if not self._ended:
            self._ended = self.cancelled = True
            self._on_end(self)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
