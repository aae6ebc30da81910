"""The server's numbers, and the page that shows them. Every number lives here or in the engine.

Recording is adding to a list, so that it costs next to nothing; all formatting is done when
somebody asks for the page. For one event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tgi_core.contract import DURATION_BOUNDS_S, BatchStats, Distribution, StepStats
from tgi_core.observe import catalog
from tgi_core.observe.buckets import Buckets
from tgi_core.observe.catalog import Cause, ConcatMethod, Method, Metric, Progress, Reason
from tgi_core.observe.exposition import Exposition
from tgi_core.observe.refusals import Refusals

_BATCH_BOUNDS = range(1, 1025)
_SKIPPED_BOUNDS = range(17)
_NUM_LENGTH_BOUNDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """What the page says of the engine."""

    ready: bool
    stats: StepStats
    cache_tokens: int
    """Capacity of its KV cache; 0 until it is known."""
    num_deaths: int


class Metrics:
    """All that is recorded in the API process."""

    def __init__(self) -> None:
        self.requests = 0
        self.successes = 0
        self.failures = dict.fromkeys(Cause, 0)
        self.cancelled = dict.fromkeys(Progress, 0)
        self.refusals = Refusals()
        self.duration = Buckets(DURATION_BOUNDS_S)
        self.validation = Buckets(DURATION_BOUNDS_S)
        self.queue = Buckets(DURATION_BOUNDS_S)
        self.inference = Buckets(DURATION_BOUNDS_S)
        self.mean_time_per_token = Buckets(DURATION_BOUNDS_S)
        self.time_to_first_token = Buckets(DURATION_BOUNDS_S)
        self.inter_token = Buckets(DURATION_BOUNDS_S)
        self.skipped_tokens = Buckets(_SKIPPED_BOUNDS)
        self.set_limits(0, 0)

    def set_limits(self, max_input_tokens: int, max_total_tokens: int) -> None:
        """Chooses the buckets of lengths; before any request, since it forgets those before.

        With limits of 0, before the model is known, all lengths are in one bucket.
        """
        self.input_length = Buckets(_even_bounds(max_input_tokens))
        self.max_new_tokens = Buckets(_even_bounds(max_total_tokens))
        self.generated_tokens = Buckets(_even_bounds(max_total_tokens))

    def page(self, engine: EngineState) -> bytes:
        """What GET /metrics answers."""
        page = Exposition()
        self._write_requests(page)
        _write_engine(page, engine)
        return page.page()

    def _write_requests(self, page: Exposition) -> None:
        page.number(catalog.REQUEST_COUNT, self.requests)
        page.number(catalog.REQUEST_SUCCESS, self.successes)
        page.numbers(catalog.REQUEST_FAILURE, self.failures)
        for metric, buckets in (
            (catalog.REQUEST_DURATION, self.duration),
            (catalog.REQUEST_VALIDATION_DURATION, self.validation),
            (catalog.REQUEST_QUEUE_DURATION, self.queue),
            (catalog.REQUEST_INFERENCE_DURATION, self.inference),
            (catalog.REQUEST_MEAN_TIME_PER_TOKEN, self.mean_time_per_token),
            (catalog.REQUEST_INPUT_LENGTH, self.input_length),
            (catalog.REQUEST_MAX_NEW_TOKENS, self.max_new_tokens),
            (catalog.REQUEST_GENERATED_TOKENS, self.generated_tokens),
            (catalog.REQUEST_SKIPPED_TOKENS, self.skipped_tokens),
            (catalog.REQUEST_TIME_TO_FIRST_TOKEN, self.time_to_first_token),
            (catalog.REQUEST_INTER_TOKEN_LATENCY, self.inter_token),
        ):
            page.histogram(metric, buckets.bounds, buckets.distribution())
        page.numbers(catalog.REQUEST_CANCELLED, self.cancelled)
        page.numbers(catalog.REFUSED, self.refusals.counts)


def _write_engine(page: Exposition, engine: EngineState) -> None:
    stats = engine.stats
    batches = {Method.PREFILL: stats.prefill, Method.DECODE: stats.decode}

    def by_method(metric: Metric, part: Callable[[BatchStats], Distribution]) -> None:
        page.histograms(
            metric, DURATION_BOUNDS_S, {method: part(batch) for method, batch in batches.items()}
        )

    page.number(catalog.QUEUE_SIZE, stats.num_waiting)
    page.number(catalog.BATCH_CURRENT_SIZE, stats.num_running)
    page.number(catalog.BATCH_CURRENT_MAX_TOKENS, stats.running_max_tokens)
    page.number(catalog.BATCH_MAX_TOTAL_TOKENS, engine.cache_tokens)
    page.histogram(catalog.BATCH_NEXT_SIZE, _BATCH_BOUNDS, stats.admitted)
    page.numbers(catalog.BATCH_INFERENCE_COUNT, {m: b.steps for m, b in batches.items()})
    page.numbers(
        catalog.BATCH_INFERENCE_SUCCESS, {m: b.steps - b.failed for m, b in batches.items()}
    )
    page.numbers(catalog.BATCH_INFERENCE_FAILURE, {m: b.failed for m, b in batches.items()})
    by_method(catalog.BATCH_INFERENCE_DURATION, lambda batch: batch.inference)
    by_method(catalog.BATCH_FORWARD_DURATION, lambda batch: batch.forward)
    by_method(catalog.BATCH_DECODE_DURATION, lambda batch: batch.decode)
    by_method(catalog.BATCH_FILTER_DURATION, lambda batch: batch.filter)
    concat = {ConcatMethod.DECODE: stats.concat}
    page.histograms(catalog.BATCH_CONCAT_DURATION, DURATION_BOUNDS_S, concat)
    page.numbers(catalog.BATCH_CONCAT, {Reason.CHUNKING: sum(stats.concat.counts)})
    page.number(catalog.STEP_PROMPT_TOKENS, stats.prefill_tokens)
    page.number(catalog.STEP_GENERATED_TOKENS, stats.generated_tokens)
    page.number(catalog.DRAFTED_TOKENS, stats.drafted_tokens)
    page.number(catalog.ACCEPTED_TOKENS, stats.accepted_tokens)
    page.number(catalog.PREFIX_CACHE_HIT_TOKENS, stats.cached_tokens)
    page.number(catalog.KV_CACHE_USED_TOKENS, stats.cache_tokens_used)
    page.number(catalog.KV_CACHE_CAPACITY_TOKENS, engine.cache_tokens)
    page.number(catalog.KV_CACHE_PARKED_SEQUENCES, stats.num_parked)
    page.number(catalog.PREEMPTIONS, stats.preemptions)
    page.number(catalog.DEVICE_MEMORY_BYTES, stats.memory_bytes)
    page.number(catalog.ENGINE_RESTARTS, engine.num_deaths)
    page.number(catalog.ENGINE_READY, int(engine.ready))


def _even_bounds(longest: int) -> tuple[float, ...]:
    if not longest:
        return ()
    width = longest / _NUM_LENGTH_BOUNDS
    return tuple(width * k for k in range(1, _NUM_LENGTH_BOUNDS + 1))
