"""Tally: what the step engine has done so far, and how long it took. Reads no clock itself."""

from __future__ import annotations

from dataclasses import dataclass

from tgi_core.contract import DURATION_BOUNDS_S, BatchStats, StepStats
from tgi_core.observe.buckets import Buckets
from tgi_core.scheduler.plan import StepPlan

_MAX_ADMITTED = 1024
"""TGI has a bucket for each number up to this one."""


@dataclass(frozen=True, slots=True)
class Launched:
    """When a step passed what, by one clock, in seconds."""

    prefill: bool
    """Whether it computes tokens of a prompt."""
    began_s: float
    built_s: float
    """The backend got it."""
    computed_s: float | None
    """Its logits were on the host; None if the device samples."""


class _Batches:
    """Steps of one kind."""

    def __init__(self) -> None:
        self.steps = self.failed = 0
        self.inference = Buckets(DURATION_BOUNDS_S)
        self.forward = Buckets(DURATION_BOUNDS_S)
        self.decode = Buckets(DURATION_BOUNDS_S)
        self.filter = Buckets(DURATION_BOUNDS_S)

    def stats(self) -> BatchStats:
        return BatchStats(
            steps=self.steps,
            failed=self.failed,
            inference=self.inference.distribution(),
            forward=self.forward.distribution(),
            decode=self.decode.distribution(),
            filter=self.filter.distribution(),
        )


class Tally:
    """Counters of one engine; they never go down."""

    def __init__(self) -> None:
        self.cached_tokens = 0
        self.generated_tokens = self.drafted_tokens = self.accepted_tokens = 0
        self._steps = self._prefill_tokens = 0
        self._step_s = self._sample_s = self._schedule_s = 0.0
        self._prefill, self._decode = _Batches(), _Batches()
        self._admitted = Buckets(range(1, _MAX_ADMITTED + 1))
        self._concat = Buckets(DURATION_BOUNDS_S)
        self._last_ready_s = self._last_end_s = 0.0

    def scheduled(self, took_s: float, num_rows: int, num_admitted: int) -> None:
        """A step was chosen, `num_admitted` of its rows for the first time; or none was."""
        self._schedule_s += took_s
        if num_admitted:
            self._admitted.add(num_admitted)
            if num_rows > num_admitted:
                self._concat.add(took_s)

    def launched(self, plan: StepPlan, step: Launched, now_s: float) -> None:
        """The backend took a step."""
        self._steps += 1
        self._batches(step.prefill).steps += 1
        self._prefill_tokens += sum(
            row.num_tokens - len(row.drafts)
            for row in plan.special
            if row.num_tokens > 1 + len(row.drafts) or row.begin < row.sequence.num_prompt
        )
        self._schedule_s += step.built_s - step.began_s
        if step.computed_s is None:
            self._step_s += now_s - step.built_s
        else:
            self._step_s += step.computed_s - step.built_s
            self._sample_s += now_s - step.computed_s

    def generated(self, num_tokens: int, num_drafts: int, num_accepted: int) -> None:
        """A step brought tokens, some of them by drafts that were right."""
        self.generated_tokens += num_tokens
        self.drafted_tokens += num_drafts
        self.accepted_tokens += num_accepted

    def failed(self, plan: StepPlan) -> None:
        """The backend refused a step, or broke on it."""
        batches = self._batches(is_prefill(plan))
        batches.steps += 1
        batches.failed += 1

    def taken_in(self, step: Launched, waited_s: float, ready_s: float, end_s: float) -> float:
        """A step's tokens are in their sequences.

        Args:
            step: which one.
            waited_s: when waiting for its tokens began.
            ready_s: when they were there.
            end_s: now.

        Returns:
            How long the step took, without what it had to wait for the one before.
        """
        self._step_s += ready_s - waited_s
        self._schedule_s += end_s - ready_s
        batches = self._batches(step.prefill)
        if step.computed_s is None:
            # with two steps in flight the device turns to one when it is done with the other
            forward_s = ready_s - max(step.built_s, self._last_ready_s)
            decode_s = end_s - ready_s
        else:
            forward_s = step.computed_s - step.built_s
            decode_s = end_s - step.computed_s
        batches.forward.add(forward_s)
        batches.decode.add(decode_s)
        inference_s = end_s - max(step.began_s, self._last_end_s)
        batches.inference.add(inference_s)
        self._last_ready_s, self._last_end_s = ready_s, end_s
        return inference_s

    def filtered(self, step: Launched, took_s: float) -> None:
        """Sequences that ended with a step were taken out of the batch."""
        self._batches(step.prefill).filter.add(took_s)

    def stats(self) -> StepStats:
        """The counters; gauges are zero."""
        return StepStats(
            steps=self._steps,
            prefill_tokens=self._prefill_tokens,
            cached_tokens=self.cached_tokens,
            generated_tokens=self.generated_tokens,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
            step_s=self._step_s,
            sample_s=self._sample_s,
            schedule_s=self._schedule_s,
            prefill=self._prefill.stats(),
            decode=self._decode.stats(),
            admitted=self._admitted.distribution(),
            concat=self._concat.distribution(),
        )

    def _batches(self, prefill: bool) -> _Batches:
        return self._prefill if prefill else self._decode


def is_prefill(plan: StepPlan) -> bool:
    """Whether a step computes tokens of a prompt, for the first time or again."""
    return any(row.begin < row.sequence.num_prompt for row in plan.special)
