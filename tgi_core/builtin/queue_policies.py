"""First come, first served: the default queue policy."""

from __future__ import annotations

from collections.abc import Sequence

from tgi_core.contract import QueuePolicy, Request
from tgi_core.plugin import hookimpl


class FirstComeFirstServed:
    """Admits by arrival alone."""

    name = "fcfs"

    def key(self, request: Request, arrival: int) -> tuple[float, ...]:
        """The arrival."""
        return (arrival,)


class ByPriority:
    """Admits requests of higher priority first, those of one priority by arrival."""

    name = "priority"

    def key(self, request: Request, arrival: int) -> tuple[float, ...]:
        """Priority, then arrival."""
        return (-request.priority, arrival)


@hookimpl
def tgi_queue_policies() -> Sequence[QueuePolicy]:
    """The policies that come with core."""
    return (FirstComeFirstServed(), ByPriority())
