"""StepPlan: what the scheduler chose for one step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from tgi_core.scheduler.sequence import Sequence


@dataclass(slots=True, eq=False)
class PlannedRow:
    """One sequence in a step. `begin` and `num_tokens` count tokens of the sequence.

    Not frozen, for each step makes one a row, and that would take four times as long.
    """

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
    plain: bool = False
    """Whether it is known to do no more than the common row does: it computes one token behind the
    prompt of a sequence that is plain, and samples the next one."""

    @property
    def end(self) -> int:
        """Tokens that the cache holds afterwards, drafts included."""
        return self.begin + self.num_tokens

    @property
    def known_end(self) -> int:
        """The same without drafts."""
        return self.end - len(self.drafts)

    def lengthened(self, drafts: tuple[int, ...]) -> PlannedRow:
        """The row with drafts behind its last token."""
        num_tokens = self.num_tokens + len(drafts)
        return PlannedRow(
            self.sequence, self.begin, num_tokens, self.samples, self.previous, drafts
        )

    def without_drafts(self) -> PlannedRow:
        """The row as if nothing had been guessed."""
        if not self.drafts:
            return self
        num_tokens = self.num_tokens - len(self.drafts)
        return PlannedRow(self.sequence, self.begin, num_tokens, self.samples, self.previous)


@dataclass(frozen=True)
class StepPlan:
    """Rows of one step; never empty."""

    rows: tuple[PlannedRow, ...]

    @cached_property
    def special(self) -> tuple[PlannedRow, ...]:
        """The rows that are not plain: most steps have few of them, or none."""
        return tuple([row for row in self.rows if not row.plain])

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
        return StepPlan(tuple(row.without_drafts() for row in self.rows))
