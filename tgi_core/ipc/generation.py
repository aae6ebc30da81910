"""What the API layer needs of an engine that lives in another process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tgi_core.contract import AdapterRef, EngineInfo, Event, Grammar, Request, StepStats


class Generation(Protocol):
    """One request on its way."""

    async def next(self) -> Sequence[Event]:
        """Waits for events and returns all that have come, in order.

        The last one has a finish reason or is a RequestFailed; call no more after it. If an
        engine dies meanwhile, this simply takes longer: the request goes on in the next one.

        Raises:
            EngineLost: no engine could be brought back.
        """
        ...

    def cancel(self) -> None:
        """Nobody wants the rest. May be called at any time, more than once, also at the end."""
        ...


class EngineClient(Protocol):
    """The engine as seen from the API process. All calls on its event loop."""

    @property
    def info(self) -> EngineInfo | None:
        """None until an engine was ready for the first time."""
        ...

    @property
    def ready(self) -> bool:
        """Whether an engine is ready now."""
        ...

    @property
    def stats(self) -> StepStats:
        """The newest gauges of the present engine; counters also hold those before it."""
        ...

    @property
    def num_deaths(self) -> int:
        """Engines that died so far."""
        ...

    def submit(self, request: Request) -> Generation:
        """Sends a request off.

        Raises:
            EngineLost: there is no engine, and there will be none.
        """
        ...

    async def load_adapter(self, adapter: AdapterRef) -> None:
        """Has the engine read and check an adapter. Requests with it need no other preparation.

        Raises:
            BadAdapter: it cannot be used, and why.
            EngineError: nobody can tell.
        """
        ...

    def drop_adapter(self, adapter: AdapterRef) -> None:
        """Tells the engine that no new request will have it."""
        ...


class GrammarCheck(Protocol):
    """Looks at grammars before requests with them go to the engine. All calls on the event loop."""

    async def check(self, grammar: Grammar) -> None:
        """Returns if the engine can be trusted with it.

        Raises:
            ValidationError: it is wrong, too large, or takes too long to compile.
            EngineError: nobody can tell.
        """
        ...
