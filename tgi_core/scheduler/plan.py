"""StepPlan: what the scheduler chose for one step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tgi_core.scheduler.sequence import Sequence


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """One sequence in a step. `begin` and `num_tokens` count tokens of the sequence."""

    sequence: Sequence
    begin: int
    """Tokens that the cache held before."""
    num_tokens: int
    samples: bool
    """Whether the row reaches the end of what is known, so that a token is sampled."""
    previous: int | None
    """Where the row's token comes from if it is not known yet: an output of the step before."""
    drafts: tuple[int, ...] = ()
    """Guesses that the row holds behind the last known token; a token is sampled after each."""

    @property
    def end(self) -> int:
        """Tokens that the cache holds afterwards, drafts included."""
        return self.begin + self.num_tokens

    @property
    def known_end(self) -> int:
        """The same without drafts."""
        return self.end - len(self.drafts)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Rows of one step; never empty."""

    rows: tuple[PlannedRow, ...]

    @property
    def embeds(self) -> bool:
        """Whether its rows are to be embedded: either all are or none is."""
        return self.rows[0].sequence.request.embedding

    @property
    def num_tokens(self) -> int:
        """Tokens in all rows."""
        return sum(row.num_tokens for row in self.rows)

    @property
    def num_drafts(self) -> int:
        """Drafts in all rows."""
        return sum(len(row.drafts) for row in self.rows)

    def without_drafts(self) -> StepPlan:
        """The same rows, each as if nothing had been guessed."""
        return StepPlan(
            tuple(
                replace(row, num_tokens=row.num_tokens - len(row.drafts), drafts=())
                for row in self.rows
            )
        )
