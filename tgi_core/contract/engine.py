"""Engine: all that the API layer sees of whatever produces tokens.

Core's `StepEngine` implements it over any `StepBackend`. A runtime with a scheduler of its own
implements it directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from tgi_core.contract.embedding import Embedding
from tgi_core.contract.events import Event
from tgi_core.contract.request import Feature, Request
from tgi_core.contract.stats import StepStats

if TYPE_CHECKING:
    from tgi_core.contract.backend import LoadRequest, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine can be asked for, once it is ready."""

    device: str
    vocab_size: int
    max_prompt_tokens: int
    """Longest prompt."""
    max_sequence_tokens: int
    """Longest prompt and output together."""
    max_requests: int
    """How many requests may be open; more would only wait."""
    cache_tokens: int
    features: frozenset[Feature]
    """What a request may ask for beyond temperature, top-k and top-p."""
    generates: bool = True
    """False if the model only embeds."""
    embedding: Embedding | None = None
    """How texts are embedded; None if they cannot be."""


class Engine(Protocol):
    """Takes requests, gives events. All calls come from one thread."""

    def start(self, request: LoadRequest, progress: Progress) -> EngineInfo:
        """Loads and warms up.

        Raises:
            SetupError: the model cannot be served.
        """
        ...

    def submit(self, request: Request) -> None:
        """Queues a request. What is wrong with it comes back as RequestFailed."""
        ...

    def cancel(self, request_id: str) -> None:
        """Forgets a request and frees all that it holds; an unknown id is no error.

        No event of this request follows.
        """
        ...

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """Works until there are events, but no longer than about `timeout_s` without work."""
        ...

    @property
    def busy(self) -> bool:
        """Whether `poll` has work to do now."""
        ...

    def stats(self) -> StepStats:
        """Gauges and counters."""
        ...

    def close(self) -> None:
        """Frees the device."""
        ...
