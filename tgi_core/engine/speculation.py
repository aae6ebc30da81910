"""Speculation in the engine: asks for drafts, chooses how many are computed, learns from them.

When a step is over every sequence that goes on gets a draft, and the draft before it is compared
with what came; so what drafts are worth is known also where none are computed. The next step then
has as many of them as pay. Knows no device and no kind of speculator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from time import perf_counter
from typing import NamedTuple

from tgi_core.contract import (
    ANY_LENGTH,
    Capabilities,
    Draft,
    Drafter,
    DraftSetup,
    DraftWish,
    HoldsHeads,
    LoadRequest,
    LogitsRows,
    ModelFiles,
    PendingLogits,
    Progress,
    Speculator,
    StepBackend,
)
from tgi_core.engine.draft_costs import Chances, LookCosts, Offer, StepCosts, worthwhile
from tgi_core.engine.limits import EngineLimits
from tgi_core.errors import BackendDead, UsageError
from tgi_core.plugin.manager import Plugins
from tgi_core.scheduler.plan import PlannedRow, StepPlan
from tgi_core.scheduler.scheduler import Scheduler
from tgi_core.scheduler.sequence import Sequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftLimits:
    """How long drafts may be."""

    longest: int
    lengths: tuple[int, ...]
    """See `Capabilities.draft_lengths`."""
    mixed: bool
    """See `Capabilities.mixed`."""
    max_row_tokens: int
    max_step_tokens: int
    max_sequence_tokens: int
    vocab_size: int

    @classmethod
    def of(cls, capabilities: Capabilities, limits: EngineLimits) -> DraftLimits:
        """Those of a device, and of the operator."""
        most = capabilities.max_step_tokens
        return cls(
            longest=limits.num_drafts,
            lengths=capabilities.draft_lengths,
            mixed=capabilities.mixed,
            max_row_tokens=capabilities.max_prefill_tokens,
            max_step_tokens=min(limits.max_step_tokens or most, most),
            max_sequence_tokens=min(capabilities.max_sequence_tokens, capabilities.cache_tokens),
            vocab_size=capabilities.vocab_size,
        )

    def most(self, sequence: Sequence) -> int:
        """Drafts that a sequence has use for: the token behind the last one is still wanted."""
        left = sequence.request.stop.max_new_tokens - sequence.num_generated
        room = self.max_sequence_tokens - len(sequence.tokens)
        return max(min(self.longest, self.max_row_tokens - 1, left - 1, room - 1), 0)

    def shortened(self, num_drafts: int) -> int:
        """The most drafts, up to so many, that make a row of a length that the device takes."""
        if self.lengths == (ANY_LENGTH,):
            return num_drafts
        return max((n - 1 for n in self.lengths if n - 1 <= num_drafts), default=0)


@dataclass(frozen=True, slots=True)
class _Guess:
    """A draft, and how many tokens its sequence had then."""

    draft: Draft
    num_tokens: int


class _Wish(NamedTuple):
    """A sequence to look for a draft for; see `DraftWish`."""

    sequence: Sequence
    output: int
    most: int


class Speculation:
    """The drafts of one engine."""

    def __init__(self, drafter: Drafter, limits: DraftLimits) -> None:
        self._drafter: Drafter | None = drafter
        self._limits = limits
        self._costs = StepCosts()
        self._looks = LookCosts()
        self._chances = Chances()
        self._guesses: dict[str, _Guess] = {}

    def lengthen(self, plan: StepPlan, scheduler: Scheduler) -> StepPlan:
        """The plan with as many drafts as pay."""
        limits = self._limits
        offers = [self._offer(row) for row in plan.rows]
        counts = worthwhile(
            offers,
            self._costs,
            num_rows=max(sum(row.samples for row in plan.rows), 1),
            num_tokens=plan.num_tokens,
            most=limits.max_step_tokens - plan.num_tokens,
        )
        counts = [limits.shortened(count) for count in counts]
        if not any(counts) or not (limits.mixed or all(counts)):
            return plan
        rows = [
            scheduler.lengthen(row, self._draft(row.sequence).tokens[:count])
            for row, count in zip(plan.rows, counts, strict=True)
        ]
        longer = StepPlan(tuple(rows))
        if not limits.mixed and not all(row.drafts for row in rows):
            return scheduler.shorten(longer)  # the cache was too full for one of them
        return longer

    def learn(self, plan: StepPlan, seconds: float | None) -> None:
        """A step is over; None if it computed a prompt, which tells nothing of decoding."""
        if seconds is not None:
            num_drafted = sum(bool(row.drafts) for row in plan.rows)
            self._costs.observe(plan.num_tokens, num_drafted, seconds)
            self._looks.earn(seconds)

    def look(
        self, sequences: Iterable[Sequence], outputs: Iterable[int], logits: PendingLogits
    ) -> None:
        """Learns what the last drafts of sequences were worth, and gets new ones.

        Args:
            sequences: those that got a token and go on.
            outputs: for each, which of the step's outputs its last token came from.
            logits: of that step.
        """
        wishes = []
        for sequence, output in zip(sequences, outputs, strict=True):
            self._judge(sequence)
            sequence.expects_draft = False
            most = self._limits.most(sequence)
            if most and sequence.drafted:
                wishes.append(_Wish(sequence, output, most))
        wishes, hoping = self._affordable(wishes)
        began = perf_counter()
        drafts = self._propose(wishes, logits)
        took_s = perf_counter() - began
        self._looks.spend(sum(len(d.tokens) for d in drafts), took_s, hoping=hoping)
        for (sequence, _, most), draft in zip(wishes, drafts, strict=False):
            usable = Draft(tokens=self._usable(sequence, draft.tokens[:most]), grade=draft.grade)
            guess = _Guess(usable, len(sequence.tokens))
            self._guesses[sequence.request.request_id] = guess
            offer = self._chances.offer(
                sequence.request.request_id, usable.grade, len(usable.tokens)
            )
            [count] = self._worthwhile([offer], len(wishes))
            sequence.expects_draft = bool(self._limits.shortened(count))

    def forget(self, request_id: str) -> None:
        """A request has ended."""
        self._guesses.pop(request_id, None)
        self._chances.forget(request_id)
        if self._drafter is not None:
            self._drafter.forget(request_id)

    def _judge(self, sequence: Sequence) -> None:
        request_id = sequence.request.request_id
        guess = self._guesses.pop(request_id, None)
        if guess is None or not guess.draft.tokens:
            return
        came = sequence.tokens[guess.num_tokens :]
        pairs = list(zip(guess.draft.tokens, came, strict=False))
        num_right = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._chances.observe(request_id, guess.draft.grade, num_right, int(num_right < len(pairs)))

    def _propose(self, wishes: list[_Wish], logits: PendingLogits) -> list[Draft]:
        if self._drafter is None or not wishes:
            return []
        told = [
            DraftWish(
                request_id=sequence.request.request_id,
                tokens=sequence.tokens,
                most=most,
                logits=logits,
                output=output,
            )
            for sequence, output, most in wishes
        ]
        try:
            return list(self._drafter.propose(told))
        except BackendDead:
            raise
        except Exception:
            logger.exception("the speculator failed; no more drafts are made")
            self._drafter = None
            return []

    def _usable(self, sequence: Sequence, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The draft up to a token that would end the sequence, or that does not exist."""
        ends, vocab_size = sequence.eos, self._limits.vocab_size
        return tuple(takewhile(lambda t: 0 <= t < vocab_size and t not in ends, tokens))

    def _affordable(self, wishes: list[_Wish]) -> tuple[list[_Wish], float]:
        """The sequences to look for drafts for, with lengths that can be expected to pay.

        Where none can, one token is looked for if there is time to hope.

        Returns:
            These, and the share of tokens that are only hoped for.
        """
        if not self._costs.known:
            return [], 0.0
        offers = [
            self._chances.best_offer(sequence.request.request_id, most)
            for sequence, _, most in wishes
        ]
        # one is looked at to see whether more would be earned
        counts = self._worthwhile(
            [replace(offer, most=max(offer.most, 1)) for offer in offers],
            len(wishes),
            self._looks.token_s,
        )
        least = int(self._looks.may_hope)
        found = [
            wish._replace(most=max(count, least))
            for wish, count in zip(wishes, counts, strict=True)
            if count or least
        ]
        hoped = counts.count(0) * least
        return found, hoped / max(sum(wish.most for wish in found), 1)

    def _worthwhile(self, offers: list[Offer], num_rows: int, look_s: float = 0.0) -> list[int]:
        """If these were all rows of a step that get a token."""
        return worthwhile(
            offers,
            self._costs,
            num_rows=max(num_rows, 1),
            num_tokens=num_rows,
            most=self._limits.max_step_tokens - num_rows,
            look_s=look_s,
        )

    def _offer(self, row: PlannedRow) -> Offer:
        sequence = row.sequence
        draft = self._draft(sequence)
        decodes = row.samples and row.num_tokens == 1 and row.previous is None
        if not decodes or not draft.tokens:
            return Offer(0.0, 0)
        return self._chances.offer(sequence.request.request_id, draft.grade, len(draft.tokens))

    def _draft(self, sequence: Sequence) -> Draft:
        """The draft that was made for what is known of a sequence now."""
        guess = self._guesses.get(sequence.request.request_id)
        if guess is None or guess.num_tokens != len(sequence.tokens) or not sequence.drafted:
            return Draft()
        return guess.draft


def choose_speculator(plugins: Plugins, name: str) -> Speculator:
    """The speculator of that name.

    Raises:
        UsageError: there is none; lists those that there are.
    """
    speculators = plugins.speculators()
    if name not in speculators:
        raise UsageError(
            f"there is no speculator {name!r}; there are: "
            f"{', '.join(sorted(speculators)) or 'none'}."
        )
    return speculators[name]


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A second model, or heads, which draft."""

    files: ModelFiles
    create: Callable[[], StepBackend]
    """Makes a backend for it."""


@dataclass(frozen=True, slots=True)
class Drafting:
    """A wish for drafts."""

    speculator: Speculator
    model: DraftModel | None = None

    def start(
        self,
        backend: StepBackend,
        capabilities: Capabilities,
        limits: EngineLimits,
        request: LoadRequest,
        progress: Progress,
    ) -> Speculation | None:
        """Speculation, if drafts are wanted and the device can check them.

        Args:
            backend: what holds the model.
            capabilities: those of its device.
            limits: with the longest draft.
            request: how the model was loaded; a draft model is loaded likewise.
            progress: told how far that has come.

        Raises:
            SetupError: the speculator cannot draft for this model.
        """
        if not limits.num_drafts:
            return None
        if not capabilities.draft_lengths or capabilities.logits is not LogitsRows.ALL:
            logger.warning("this backend cannot check drafts, so --speculate has no effect")
            return None
        setup = DraftSetup(
            vocab_size=capabilities.vocab_size,
            num_drafts=limits.num_drafts,
            heads=backend if isinstance(backend, HoldsHeads) else None,
            progress=progress,
        )
        if self.model is not None:
            load = replace(
                request,
                model=self.model.files,
                quantize=None,
                # it is small, and a process has one set of ranks
                num_shards=None,
                max_rows=capabilities.max_rows,
                # its own limit holds; beyond it nothing is drafted
                max_sequence_tokens=None,
                cache_tokens=capabilities.cache_tokens,
            )
            setup = replace(setup, load=load, create=self.model.create)
        return Speculation(self.speculator.start(setup), DraftLimits.of(capabilities, limits))
