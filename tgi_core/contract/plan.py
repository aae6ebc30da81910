"""What a model will take of a machine's memory, as a backend tells it before it reads a weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tgi_core.contract.backend import LoadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Sizes are in bytes, and of one device."""

    device: str
    """As in `Capabilities.device`."""
    weights: str
    """What weights are kept in, for people: "bfloat16", "Q4_K_M"."""
    weights_bytes: int
    """All that stays in memory besides the cache."""
    cache_bytes: int
    """The KV cache that would be made."""
    cell_bytes: int
    """What one more token in the cache takes, in all layers."""
    step_bytes: int
    """The most that a step takes besides: `max_step_tokens` tokens at the end of the longest
    sequence, and logits for `max_rows` of them."""
    memory_bytes: int
    """What there is."""
    cache_tokens: int
    max_rows: int
    max_sequence_tokens: int
    max_step_tokens: int
    longest: int | None
    """Positions that the model was made for; None if it does not say."""
    cheaper: tuple[LoadRequest, ...] = ()
    """Other ways to load the model that take less, those that change least first."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.cache_bytes + self.step_bytes

    @property
    def missing_bytes(self) -> int:
        """What there is not; 0 if all fits."""
        return max(0, self.total_bytes - self.memory_bytes)

    @property
    def room_bytes(self) -> int:
        """What a cache of any size may take; 0 if there is no room for one."""
        return max(0, self.memory_bytes - self.weights_bytes - self.step_bytes)


class Planner(Protocol):
    """Plans what `StepBackend.load` would do, without doing it."""

    def __call__(self, request: LoadRequest, memory_bytes: int | None) -> MemoryPlan:
        """Reads small files and the heads of large ones; of their weights there may be none.

        Args:
            request: as for `load`.
            memory_bytes: free memory of the machine to plan for; None: this one's.

        Raises:
            SetupError: as `load` does, but never DoesNotFit: then the plan says how much is
                missing, with the least cache that would do.
        """
        ...
