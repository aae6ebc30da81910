"""QueuePolicy: the order in which waiting requests are admitted."""

from __future__ import annotations

from typing import Protocol

from tgi_core.contract.request import Request


class QueuePolicy(Protocol):
    """Gives each request a key once, when it arrives; the smallest key is admitted first.

    A preempted request keeps its key, so it comes back before those that arrived after it.
    """

    name: str

    def key(self, request: Request, arrival: int) -> tuple[float, ...]:
        """`arrival` counts requests up from 0. Different requests need different keys."""
        ...
