"""Whether an engine gets on, by what it tells. Knows no process and no clock."""

from __future__ import annotations

from tgi_core.ipc.messages import StepDone

LOOKS = 10
"""How often an engine must be found idle. Time is not measured: a machine may sleep, and wake."""


class Watch:
    """One engine's progress: an event, or more tokens of prompts computed. See `Engine.poll`."""

    def __init__(self) -> None:
        self._moved = False
        """Since the last look."""
        self._idle = 0
        """Looks in a row that found no progress."""
        self._prefilled = 0

    def hear(self, step: StepDone) -> None:
        """Takes what the engine tells, which may be no more than that it is there."""
        if step.stats is not None:
            self._moved |= step.stats.prefill_tokens > self._prefilled
            self._prefilled = step.stats.prefill_tokens
        self._moved |= step.has_events

    def look(self, *, at_work: bool) -> bool:
        """Whether the engine hangs. To be called at equal times.

        Args:
            at_work: whether it has requests.
        """
        self._idle = self._idle + 1 if at_work and not self._moved else 0
        self._moved = False
        return self._idle >= LOOKS
