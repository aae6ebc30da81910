"""Chooses the rows of each step: continuous batching with chunked prefill and preemption.

First every running sequence gets its next token, then prompts that are under way get the rest of
the token budget, then waiting sequences are admitted strictly in the order of their keys. When the
cache is full the sequence with the largest key gives way and is recomputed later, so the one with
the smallest key always advances and none starves.

Prompts that are to be embedded have steps of their own, which take turns with the others.
"""

from __future__ import annotations

from tgi_core.cache.manager import CacheManager
from tgi_core.contract import Request
from tgi_core.scheduler.limits import SchedulerLimits
from tgi_core.scheduler.plan import PlannedRow, StepPlan
from tgi_core.scheduler.sequence import NO_SEQ, Sequence, Status
from tgi_core.scheduler.waiting import Waiting

_HEADROOM_TOKENS = 16
"""Room beyond the prompt that admission asks for, so that a sequence is not preempted at once."""

_WORTH_WAITING_TOKENS = 64
"""A prompt waits for one that is being computed and begins with this many of the same tokens,"""
_WORTH_ANOTHER_STEP_TOKENS = 16
"""as long as it can share this many more than now."""

_SCORED_CHUNK_TOKENS = 256
"""Largest chunk whose logits are all wanted: each token's cost vocab * 4 bytes on the host."""


class Scheduler:
    """Holds all sequences between their arrival and their end."""

    def __init__(self, limits: SchedulerLimits, cache: CacheManager) -> None:
        self._limits = limits
        self._cache = cache
        self._waiting = Waiting()
        # ordered by key, oldest first
        self._running: list[Sequence] = []
        self._prefilled_last = False
        self._embedded_last = False
        # places of adapters, those stepped longest ago first; if a step can have one only
        self._turns: list[int] = []
        self._held_back: Sequence | None = None
        self.num_preemptions = 0
        """Sequences that had to give way, ever."""

    @property
    def max_block_tokens(self) -> int:
        """See `SchedulerLimits`."""
        return self._limits.max_block_tokens

    @property
    def num_waiting(self) -> int:
        """Sequences that hold nothing in the cache."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """Sequences that hold room in the cache."""
        return len(self._running)

    @property
    def oldest(self) -> Sequence:
        """The running sequence that never gives way; there must be one."""
        return self._running[0]

    @property
    def newest(self) -> Sequence:
        """The running sequence that gives way first; there must be one."""
        return self._running[-1]

    @property
    def running_max_tokens(self) -> int:
        """What the running sequences could grow to."""
        return sum(s.num_prompt + s.request.stop.max_new_tokens for s in self._running)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence."""
        self._waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Drops a sequence and all that it holds. Does nothing if it is finished."""
        if sequence.status is Status.WAITING:
            self._waiting.remove(sequence)
        elif sequence.status is Status.RUNNING:
            self._running.remove(sequence)
            self._cache.release(sequence.seq)
            self._held_back = None
        sequence.seq, sequence.status = NO_SEQ, Status.FINISHED

    def finish(self, sequence: Sequence) -> None:
        """Ends a running sequence and parks what the cache holds of it.

        Of one that was embedded nothing is kept: documents would push conversations out.
        """
        self._held_back = None
        self._running.remove(sequence)
        if sequence.request.embedding:
            self._cache.release(sequence.seq)
        else:
            self._cache.park(sequence.seq, sequence.salt, sequence.cached_keys)
        sequence.seq, sequence.status = NO_SEQ, Status.FINISHED

    def schedule(self) -> StepPlan | None:
        """Chooses the next step and advances `num_computed` of the rows in it.

        Returns:
            None if no sequence can do anything now.
        """
        rows: list[PlannedRow] = []
        # nothing is embedded with an adapter
        base = 0 if self._limits.one_adapter else None
        if self._limits.embeds and not self._embedded_last:
            self._plan_prompts(rows, base, embedding=True)
        if not rows:
            self._plan_generation(rows)
        if not rows and self._embedded_last:
            self._plan_prompts(rows, base, embedding=True)
        if not rows:
            return None
        plan = StepPlan(tuple(rows))
        self._embedded_last = plan.embeds
        return plan

    def revert(self, plan: StepPlan) -> None:
        """Takes back a plan whose step did not happen."""
        for row in plan.rows:
            if row.sequence.status is Status.RUNNING:
                row.sequence.num_computed = row.begin

    def lengthen(self, row: PlannedRow, drafts: tuple[int, ...]) -> PlannedRow:
        """A planned row with drafts behind its last token.

        Without, if the cache has no room for them: no running sequence gives way for a guess.
        """
        if not drafts or not self._cache.grow(row.sequence.seq, row.end + len(drafts)):
            return row
        row.sequence.num_computed += len(drafts)
        return row.lengthened(drafts)

    def shorten(self, plan: StepPlan) -> StepPlan:
        """A plan with its drafts taken out again."""
        for row in plan.rows:
            row.sequence.num_computed = row.known_end
        return plan.without_drafts()

    def settle(self, row: PlannedRow) -> None:
        """Drops the drafts that were wrong from the cache, once the right tokens are known."""
        sequence = row.sequence
        kept = len(sequence.tokens) - 1  # the last one was sampled, and not computed
        if row.drafts and sequence.status is Status.RUNNING and kept < row.end:
            self._cache.truncate(sequence.seq, kept)
            sequence.num_computed = kept

    def preempt(self, sequence: Sequence) -> None:
        """Takes a running sequence's room away and queues it to be recomputed."""
        self._running.remove(sequence)
        self._cache.release(sequence.seq)
        sequence.seq, sequence.status = NO_SEQ, Status.WAITING
        sequence.num_computed = 0
        sequence.scored.clear()
        sequence.pooled = None
        self._waiting.add(sequence)
        self._held_back = None
        self.num_preemptions += 1

    def hold_back(self, sequence: Sequence) -> None:
        """Something that a waiting sequence needs has no room: it is admitted when others have
        given some back, or when none runs.
        """
        self._held_back = sequence

    def room_was_given_back(self) -> None:
        """Room that the cache does not know of."""
        self._held_back = None

    def _plan_generation(self, rows: list[PlannedRow]) -> None:
        if not self._limits.one_adapter:
            self._plan(rows, None)
        else:
            for place in self._take_turns():
                self._plan(rows, place)
                if rows:
                    self._turns.remove(place)
                    self._turns.append(place)
                    break
        self._prefilled_last = not self._limits.mixed and any(row.num_tokens > 1 for row in rows)

    def _plan(self, rows: list[PlannedRow], place: int | None) -> None:
        """Adds the rows of a step; only those whose adapter is at `place`, if there is a place."""
        mixed = self._limits.mixed
        if mixed or self._prefilled_last or not self._can_prefill():
            self._plan_decodes(rows, place)
        if mixed or not rows:
            self._plan_prompts(rows, place, embedding=False)
        if not rows and not mixed:
            self._plan_decodes(rows, place)

    def _take_turns(self) -> list[int]:
        """The places of all sequences, in the order in which they should be tried."""
        wanted = {sequence.adapter_place for sequence in self._running}
        if len(self._waiting):
            wanted.add(self._waiting.first.adapter_place)
        self._turns = [place for place in self._turns if place in wanted]
        self._turns += sorted(wanted.difference(self._turns))
        return list(self._turns)

    def _can_prefill(self) -> bool:
        return bool(len(self._waiting)) or any(s.num_left > 1 for s in self._running)

    def _plan_decodes(self, rows: list[PlannedRow], place: int | None) -> None:
        """Rows of one token; nothing else is done as often, so properties are written out here."""
        most = min(self._limits.max_rows, self._limits.max_step_tokens)
        room, running = self._cache.room, Status.RUNNING
        for sequence in tuple(self._running):
            begin, pending = sequence.num_computed, sequence.pending
            num_known = len(sequence.tokens)
            if num_known - begin != (pending is None) or sequence.status is not running:
                continue  # in prefill, complete, or preempted in this very loop
            if place is not None and sequence.adapter_place != place:
                continue
            if not sequence.plain and sequence.request.embedding:
                continue  # the end of a prompt
            if len(rows) == most:
                break
            if pending is not None and (
                num_known + 1 >= sequence.ends_at or sequence.needs_host or sequence.expects_draft
            ):
                continue  # no step may use the token whose value is not known yet
            if begin < room[sequence.seq] or self._make_room(sequence, begin + 1):
                sequence.num_computed = begin + 1
                plain = sequence.plain and begin >= sequence.num_prompt
                rows.append(PlannedRow(sequence, begin, 1, True, pending, (), plain))

    def _plan_prompts(self, rows: list[PlannedRow], place: int | None, *, embedding: bool) -> None:
        """Rows of prompts, either of those to be embedded or of the others; behind the rows of one
        token, if there are any.
        """
        budget = self._limits.max_step_tokens - len(rows)
        least = 1 if embedding else 2
        # most often every running sequence has its row
        for sequence in self._running if len(rows) < len(self._running) else ():
            if sequence.request.embedding is not embedding or sequence.num_left < least:
                continue
            if place is not None and sequence.adapter_place != place:
                continue
            if budget > 0 and len(rows) < self._limits.max_rows:
                num = self._chunk(sequence, budget)
                if num:
                    rows.append(_row(sequence, num))
                    budget -= num
        while len(self._waiting) and budget > 0 and len(rows) < self._limits.max_rows:
            sequence = self._waiting.first
            if sequence.request.embedding is not embedding:
                break  # its turn is next
            if sequence is self._held_back and self._running:
                break
            if place is not None and sequence.adapter_place != place:
                break
            if self._least(sequence) > budget:
                break
            if self._shares_soon(sequence):
                break
            if len(self._running) >= self._limits.max_rows or not self._admit(sequence):
                break
            num = self._chunk(sequence, budget)
            if num:
                rows.append(_row(sequence, num))
                budget -= num

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        """How many tokens of a prompt to compute now; 0 if it must wait for another step."""
        left = sequence.num_left
        if not (self._limits.mixed or sequence.request.embedding) and min(left, budget) == 1:
            return 0  # a row of one token belongs to a step of such rows
        if self._least(sequence) > budget:
            return 0
        if not self._limits.chunked:
            return left
        most = min(budget, self._limits.max_chunk_tokens)
        if sequence.request.prompt_logprobs and sequence.num_computed < sequence.num_prompt:
            most = min(most, _SCORED_CHUNK_TOKENS)
        return _around_blocks(sequence, min(left, max(most, self._least(sequence))), budget)

    def _least(self, sequence: Sequence) -> int:
        """The shortest row that the rest of a prompt may begin with."""
        if not self._limits.chunked:
            return sequence.num_left
        return max(1, sequence.num_encoded + 1 - sequence.num_computed)

    def _admit(self, sequence: Sequence) -> bool:
        request = sequence.request
        room = len(sequence.tokens)
        if not request.embedding:
            rest = request.stop.max_new_tokens - sequence.num_generated
            room += max(1, min(rest, _HEADROOM_TOKENS))
        opened = self._cache.open(
            sequence.salt,
            sequence.keys,
            room,
            share=not _needs_all(request),
            blocks=sequence.blocks,
        )
        if opened is None and not self._running:
            # alone it may use all there is, without headroom
            opened = self._cache.open(sequence.salt, sequence.keys, len(sequence.keys), share=False)
        if opened is None:
            return False
        self._waiting.remove(sequence)
        sequence.seq, sequence.status = opened.seq, Status.RUNNING
        sequence.num_computed = opened.num_cached
        place = len(self._running)
        while place and self._running[place - 1].key > sequence.key:
            place -= 1
        self._running.insert(place, sequence)
        return True

    def _shares_soon(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing what this one could share in a step or a few.

        So the first of several equal prompts is computed, the others are forked.
        """
        if not self._cache.shares_running or _needs_all(sequence.request):
            return False
        salt, keys = sequence.salt, sequence.keys
        shared: int | None = None
        for other in self._running:
            if other.request.embedding:
                continue
            if other.salt != salt or self._cache.num_noted(other.seq) >= other.num_prompt:
                continue
            if keys[:_WORTH_WAITING_TOKENS] != other.keys[:_WORTH_WAITING_TOKENS]:
                continue
            if shared is None:
                shared = self._cache.num_shared(salt, keys)
            length = max(shared + _WORTH_ANOTHER_STEP_TOKENS, _WORTH_WAITING_TOKENS)
            # its last token is computed by each
            ends = min(len(keys) - 1, other.num_prompt)
            if length <= ends and keys[:length] == other.keys[:length]:
                return True
        return False

    def _make_room(self, sequence: Sequence, length: int) -> bool:
        """Room for one more token, at the cost of the sequences with the largest keys.

        Rows are planned in the order of keys, so a victim has no row in this step yet.
        """
        while not self._cache.grow(sequence.seq, length):
            victim = self.newest
            if victim.pending is not None:  # its token in flight would be lost
                return False
            self.preempt(victim)
            if victim is sequence:
                return False
        return True


def _around_blocks(sequence: Sequence, num_tokens: int, budget: int) -> int:
    """As many tokens, but no part of a block: up to where it begins, all of it, or none yet."""
    computed = sequence.num_computed
    for begin, end in sequence.blocks:
        if begin < computed + num_tokens < end:
            if begin > computed:
                return begin - computed
            return end - computed if end - computed <= budget else 0
    return num_tokens


def _needs_all(request: Request) -> bool:
    """Whether each token of the prompt must be computed, whoever has computed it before."""
    return request.prompt_logprobs or request.embedding


def _row(sequence: Sequence, num_tokens: int) -> PlannedRow:
    begin = sequence.num_computed
    sequence.num_computed += num_tokens
    samples = sequence.num_computed == sequence.num_tokens
    previous = sequence.pending if samples else None
    return PlannedRow(sequence, begin, num_tokens, samples, previous)
