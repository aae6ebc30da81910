"""What an engine counts and measures, as plain data that crosses processes."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from itertools import zip_longest

DURATION_BOUNDS_S = tuple(0.0001 * 1.5**k for k in range(1, 36))
"""Upper bounds of TGI's buckets for durations: about 0.15 ms to 146 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """How often which values were seen."""

    counts: tuple[int, ...] = ()
    """One for each bucket, and at last one for what is above all bounds. Zeros at the end may be
    left out."""
    total: float = 0.0
    """Sum of the values."""

    def __add__(self, other: Distribution) -> Distribution:
        """Both together; they must have the same bounds."""
        pairs = zip_longest(self.counts, other.counts, fillvalue=0)
        return Distribution(counts=tuple(a + b for a, b in pairs), total=self.total + other.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStats:
    """Steps of one kind. The bounds of all distributions are DURATION_BOUNDS_S."""

    steps: int = 0
    """Those that failed included."""
    failed: int = 0
    inference: Distribution = field(default_factory=Distribution)
    """From the end of the step before, or from the start of this one, to its end."""
    forward: Distribution = field(default_factory=Distribution)
    """The model; with a device that samples, sampling too."""
    decode: Distribution = field(default_factory=Distribution)
    """Choosing tokens on the host, and taking them in."""
    filter: Distribution = field(default_factory=Distribution)
    """Taking the sequences that ended out of the batch; only of steps with such sequences."""

    def __add__(self, other: BatchStats) -> BatchStats:
        """Both together."""
        return BatchStats(
            steps=self.steps + other.steps,
            failed=self.failed + other.failed,
            inference=self.inference + other.inference,
            forward=self.forward + other.forward,
            decode=self.decode + other.decode,
            filter=self.filter + other.filter,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStats:
    """Gauges and counters of an engine; counters never go down."""

    num_running: int = 0
    num_waiting: int = 0
    num_parked: int = 0
    running_max_tokens: int = 0
    """What the running sequences could grow to: their prompts and all they may generate."""
    cache_tokens_used: int = 0
    cache_tokens: int = 0
    memory_bytes: int = 0
    steps: int = 0
    prefill_tokens: int = 0
    """Prompt tokens computed, recomputed ones included."""
    cached_tokens: int = 0
    """Prompt tokens that the prefix cache supplied."""
    generated_tokens: int = 0
    drafted_tokens: int = 0
    """Guesses of the speculator that were computed."""
    accepted_tokens: int = 0
    """Those of them that were right, and saved a step."""
    preemptions: int = 0
    step_s: float = 0.0
    """Time spent in steps, waiting for the device included."""
    sample_s: float = 0.0
    """Time spent choosing tokens."""
    schedule_s: float = 0.0
    """Time spent choosing and building steps and taking in their results."""
    prefill: BatchStats = field(default_factory=BatchStats)
    """Steps that computed tokens of a prompt."""
    decode: BatchStats = field(default_factory=BatchStats)
    """All other steps."""
    admitted: Distribution = field(default_factory=Distribution)
    """How many sequences left the queue for one step, where any did; the bounds are 1, 2, 3, ..."""
    concat: Distribution = field(default_factory=Distribution)
    """Time spent on choosing steps in which new sequences joined running ones; the bounds are
    DURATION_BOUNDS_S."""

    def after(self, past: StepStats) -> StepStats:
        """The gauges of this engine, and the counters of it and of those before it."""
        sums = {name: getattr(past, name) + getattr(self, name) for name in _COUNTERS}
        return replace(self, **sums)


_GAUGES = {
    "num_running",
    "num_waiting",
    "num_parked",
    "running_max_tokens",
    "cache_tokens_used",
    "cache_tokens",
    "memory_bytes",
}
_COUNTERS = tuple(f.name for f in fields(StepStats) if f.name not in _GAUGES)
