"""StepBackend: what a device implements so that core can run a model on it.

The KV cache is addressed by sequence and position, never by block: core hands out small sequence
ids and says how long each may become; blocks, slots and cells stay inside the backend.

All calls come from one thread, in order:
`load -> warm_up -> (reserve | fork | truncate | release | step)* -> close`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tgi_core.contract.batch import Step
from tgi_core.contract.capabilities import Capabilities
from tgi_core.contract.result import PendingLogits, PendingTokens
from tgi_core.contract.sampling import SamplingBatch

if TYPE_CHECKING:
    from tgi_core.contract.backend import LoadRequest, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendStats:
    """Gauges of a backend, read now and then."""

    cache_tokens_used: int = 0
    """Cells of the KV cache that some sequence holds; shared ones count once."""
    memory_bytes: int = 0
    """Device memory in use, if known."""


class StepBackend(Protocol):
    """A device with a model in it. Nothing to inherit: having these methods is enough."""

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """Reads the weights, makes the cache, and says what can be done with them.

        Raises:
            SetupError: BadModel, UnsupportedModel or DoesNotFit, with what to do; UsageError for
                an option that the backend does not have.
        """
        ...

    def warm_up(self, progress: Progress) -> None:
        """Compiles, captures and touches whatever the first steps would otherwise wait for."""
        ...

    def reserve(self, seq: int, length: int) -> bool:
        """Makes room for `length` tokens in a sequence, counting those that it holds.

        Returns:
            False if there is not enough room; then nothing has changed.
        """
        ...

    def fork(self, src: int, dst: int, length: int) -> bool:
        """Makes `dst`, which is empty, hold the first `length` tokens of `src`.

        Neither sequence ever sees what is later done to the other, also if `src` goes on in room
        that was reserved before. `length` respects `Capabilities.fork`.

        Returns:
            False if there is not enough room; then nothing has changed.
        """
        ...

    def truncate(self, seq: int, length: int) -> None:
        """Drops all tokens of a sequence but the first `length`, and room reserved beyond them.

        Core reserves again before it steps this sequence. `length` respects
        `Capabilities.truncates`.
        """
        ...

    def release(self, seq: int) -> None:
        """Empties a sequence. Releasing an empty one does nothing."""
        ...

    def step(self, step: Step) -> PendingLogits:
        """Computes one step. May return before the device is done.

        Every row has room reserved for `past + n` tokens. A step that raises leaves the cache as
        it was, but for the rows that RowsFailed names.

        Raises:
            Unsupported: the step is over a limit of the capabilities. Core never asks for that,
                but a native library that would abort must be spared it.
            OutOfMemory: core shrinks the step and tries again.
            RowsFailed: core fails these rows and repeats the others.
            BackendDead: core ends the engine process.
        """
        ...

    def stats(self) -> BackendStats:
        """Cheap gauges; called between steps."""
        ...

    def close(self) -> None:
        """Frees the device. No call follows."""
        ...


@runtime_checkable
class SamplesOnDevice(Protocol):
    """A backend that chooses tokens on its device. Core samples in numpy for all others."""

    def sample(self, logits: PendingLogits, batch: SamplingBatch) -> PendingTokens:
        """Chooses one token a row as `tgi_core.sampling.reference` defines it.

        Args:
            logits: what the last `step` returned.
            batch: one row for each of `Step.out`.

        The ids stay on the device too: the next step may name them (`Step.tokens`).
        """
        ...
