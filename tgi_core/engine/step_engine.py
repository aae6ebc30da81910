"""StepEngine: the Engine that core makes of any StepBackend.

Schedules, steps, samples and commits; with a backend that samples on its device, the next step is
started before the tokens of the last one are read. Whatever goes wrong with a step is narrowed
down to the rows that cause it, and only their requests fail.

More than 400 lines, for what becomes of a step that fails is told where steps are run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from itertools import count
from time import monotonic, perf_counter

from tgi_core.cache.manager import CacheManager
from tgi_core.contract import (
    AdapterRef,
    AdapterRows,
    Adjustment,
    Capabilities,
    Embeds,
    EncodesImages,
    EngineInfo,
    Event,
    HoldsAdapters,
    LoadRequest,
    LogitsRows,
    Modality,
    PendingTokens,
    Progress,
    QueuePolicy,
    Request,
    RequestFailed,
    RequestStarted,
    SampledTokens,
    SamplesOnDevice,
    StepBackend,
    StepStats,
    Vocabulary,
)
from tgi_core.engine.adapters import AdapterStore
from tgi_core.engine.adjustments import boost
from tgi_core.engine.build import Output, build_embedding, build_sampling, build_step
from tgi_core.engine.commit import Committed, commit
from tgi_core.engine.guidance import Guidance, mask
from tgi_core.engine.images import ImageStore
from tgi_core.engine.limits import EngineLimits, engine_info, fault_of
from tgi_core.engine.pool import pool
from tgi_core.engine.preparation import Preparation
from tgi_core.engine.tally import Launched, Tally, is_prefill
from tgi_core.errors import (
    BackendDead,
    BadImage,
    GenerationError,
    OutOfMemory,
    RowsFailed,
    TgiError,
    ValidationError,
)
from tgi_core.sampling.reference import sample
from tgi_core.scheduler.plan import PlannedRow, StepPlan
from tgi_core.scheduler.scheduler import Scheduler, SchedulerLimits
from tgi_core.scheduler.sequence import Sequence, Status

logger = logging.getLogger(__name__)

_WAIT_S = 0.005
"""Longest wait for a grammar, an image or an adapter when there is nothing else to do: a new
request may come."""
_MAX_ADAPTERS = 8
"""Adapters that are held at once if nobody says how many."""


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A step whose tokens are not on the host yet."""

    plan: StepPlan
    outputs: list[Output]
    tokens: PendingTokens
    launched: Launched


@dataclass(frozen=True, slots=True)
class _Done:
    """PendingTokens of core's own sampler."""

    tokens: SampledTokens

    def wait(self) -> SampledTokens:
        return self.tokens


class StepEngine:
    """Implements `tgi_core.contract.Engine`."""

    def __init__(
        self,
        backend: StepBackend,
        policy: QueuePolicy,
        limits: EngineLimits | None = None,
        guidance: Guidance | None = None,
        adjustments: Mapping[str, Adjustment] | None = None,
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._limits = limits or EngineLimits()
        self._guidance = guidance
        self._adjustments = adjustments or {}
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = count()
        self._in_flight: _InFlight | None = None
        self._events: list[Event] = []
        self._max_adapters = _MAX_ADAPTERS
        self._tally = Tally()

    def start(self, request: LoadRequest, progress: Progress) -> EngineInfo:
        """Loads and warms up the backend.

        Raises:
            SetupError: as the backend says, or DoesNotFit.
        """
        self._max_adapters = request.max_adapters or _MAX_ADAPTERS
        capabilities = self._backend.load(
            replace(request, max_adapters=self._max_adapters), progress
        )
        self._backend.warm_up(progress)
        self.prepare(capabilities)
        return self.info

    def prepare(self, capabilities: Capabilities) -> None:
        """Sizes the scheduler and the cache by what a loaded backend can do."""
        adapters = None
        if capabilities.adapters is not AdapterRows.NONE and isinstance(
            self._backend, HoldsAdapters
        ):
            adapters = AdapterStore(self._backend, self._max_adapters)
        self._images = None
        if Modality.IMAGE in capabilities.modalities and isinstance(self._backend, EncodesImages):
            self._images = ImageStore(self._backend, capabilities.two_way)
        self.info = engine_info(
            capabilities,
            guided=self._guidance is not None,
            adapted=adapters is not None,
            sees=self._images is not None,
            adjustments=self._adjustments,
        )
        self._capabilities = capabilities
        self._ahead = (
            capabilities.steps_in_flight > 1
            and self._limits.steps_in_flight > 1
            and isinstance(self._backend, SamplesOnDevice)
        )
        self._cache = CacheManager(
            self._backend, capabilities, prefix_caching=self._limits.prefix_caching
        )
        self.scheduler = Scheduler(
            SchedulerLimits.of(
                capabilities, self._limits.max_step_tokens, self._limits.max_chunk_tokens
            ),
            self._cache,
        )
        self._preparation = Preparation(self._guidance, adapters, self._images, self.scheduler.add)

    def submit(self, request: Request) -> None:
        """Queues a request, or fails it at once if it can never be served."""
        if request.request_id in self._sequences:
            fault: str | None = f"a request {request.request_id} is open already"
        else:
            fault = fault_of(
                request,
                self.info,
                self._capabilities,
                self._adjustments,
                self.scheduler.max_block_tokens,
            )
        if fault is not None:
            self._events.append(
                RequestFailed(request_id=request.request_id, message=fault, invalid=True)
            )
            return
        key = self._policy.key(request, next(self._arrivals))
        sequence = Sequence(request, key, monotonic())
        self._sequences[request.request_id] = sequence
        self._preparation.add(sequence)

    def use_vocabulary(self, vocabulary: Vocabulary) -> None:
        """The bytes of all tokens; must come before the first request with a grammar."""
        self._preparation.use_vocabulary(vocabulary, self.info.vocab_size)

    def cancel(self, request_id: str) -> None:
        """Frees all that a request holds."""
        sequence = self._sequences.pop(request_id, None)
        if self._preparation.forget(request_id):
            return  # the scheduler does not know it yet
        if sequence is not None:
            self.scheduler.remove(sequence)
            self._preparation.ended(sequence)

    def load_adapter(self, adapter: AdapterRef) -> None:
        """Reads and checks an adapter; an `AdapterLoaded` tells what came of it."""
        self._preparation.load_adapter(adapter)

    def drop_adapter(self, adapter: AdapterRef) -> None:
        """Nobody will ask for an adapter any more; requests that have it go on."""
        self._preparation.drop_adapter(adapter)

    @property
    def busy(self) -> bool:
        """Whether anything waits, runs or is to be told."""
        waits = self._sequences or self._preparation.busy
        return bool(waits or self._events or self._in_flight)

    def poll(self, timeout_s: float) -> Rows[Event]:
        """Runs one step, if there is one to run; waits for nothing but what sequences need."""
        if self._preparation.busy:
            self._prepare(timeout_s)
        if self._ahead:
            self._poll_ahead()
        else:
            plan = self._schedule()
            if plan is not None:
                self._run(plan)
        events, self._events = self._events, []
        return events

    def stats(self) -> StepStats:
        """Gauges and counters."""
        backend = self._backend.stats()
        return replace(
            self._tally.stats(),
            num_running=self.scheduler.num_running,
            num_waiting=self.scheduler.num_waiting,
            num_parked=self._cache.num_parked,
            running_max_tokens=self.scheduler.running_max_tokens,
            cache_tokens_used=backend.cache_tokens_used,
            cache_tokens=self._capabilities.cache_tokens,
            memory_bytes=backend.memory_bytes,
            preemptions=self.scheduler.num_preemptions,
        )

    def close(self) -> None:
        """Frees the device."""
        self._backend.close()

    def _prepare(self, timeout_s: float) -> None:
        """Takes sequences that have what they need; waits if nothing else is to do."""
        idle = self._preparation.num_waiting == len(self._sequences) and not self._events
        for sequence, error in self._preparation.advance(min(timeout_s, _WAIT_S) if idle else 0):
            # the scheduler does not know it yet
            del self._sequences[sequence.request.request_id]
            self._tell_failure(sequence, error)
        self._events += self._preparation.answers()

    def _poll_ahead(self) -> None:
        """Starts the next step before the tokens of the running one are read."""
        running, self._in_flight = self._in_flight, None
        plan = self._schedule()
        if plan is not None and plan.embeds:
            if running is not None:
                self._take_in(running)
            self._run(plan)
            return
        if plan is not None:
            try:
                self._in_flight = self._launch(plan)
            except BackendDead:
                raise
            except Exception as error:
                self._tally.failed(plan)
                # what is running must be taken in before anything is tried again
                self.scheduler.revert(plan)
                if running is None:
                    self._narrow_down(plan, error)
                else:
                    logger.warning("a step failed (%s); it is tried again by itself", error)
        if running is not None:
            self._take_in(running)

    def _schedule(self) -> StepPlan | None:
        begin = perf_counter()
        plan = self.scheduler.schedule()
        rows = plan.rows if plan is not None else ()
        new = [row for row in rows if not row.sequence.started]
        for row in new:
            self._announce(row.sequence, row.begin)
        self._tally.scheduled(perf_counter() - begin, len(rows), len(new))
        return plan

    def _announce(self, sequence: Sequence, num_cached: int) -> None:
        sequence.started = True
        self._tally.cached_tokens += num_cached
        self._events.append(
            RequestStarted(
                request_id=sequence.request.request_id,
                queue_s=monotonic() - sequence.arrival_s,
                num_cached=num_cached,
            )
        )

    def _run(self, plan: StepPlan) -> None:
        """One step from start to end."""
        try:
            if plan.embeds:
                self._embed(plan)
                return
            in_flight = self._launch(plan)
        except BackendDead:
            raise
        except Exception as error:
            self._tally.failed(plan)
            self.scheduler.revert(plan)
            self._narrow_down(plan, error)
        else:
            self._take_in(in_flight)

    def _embed(self, plan: StepPlan) -> None:
        embedding, backend = self._capabilities.embedding, self._backend
        if embedding is None or not isinstance(backend, Embeds):
            raise GenerationError("the backend claims to embed, and has no `embed`")
        began = perf_counter()
        step = build_embedding(plan)
        built = perf_counter()
        vectors = backend.embed(step)
        launched = Launched(True, began, built, perf_counter())
        self._tally.launched(plan, launched, perf_counter())
        self._end(pool(plan, vectors, embedding.pooling), launched)
        self._tally.taken_in(launched, perf_counter(), perf_counter(), perf_counter())

    def _launch(self, plan: StepPlan) -> _InFlight:
        begin = perf_counter()
        if self._images is not None:
            self._images.encode(plan)
        step, outputs = build_step(plan)
        batch = build_sampling(outputs)
        if self._capabilities.logits is LogitsRows.NONE:
            step = replace(step, sampling=batch)
        built = perf_counter()
        computed = None
        pending = self._backend.step(step)
        batch, unadjusted = boost(batch, outputs, self._adjustments, self.info.vocab_size)
        batch, unguided = mask(batch, outputs, self.info.vocab_size)
        for sequence, fault in unadjusted + unguided:
            self._fail(sequence, GenerationError(fault))
        tokens: PendingTokens
        if isinstance(self._backend, SamplesOnDevice):
            tokens = self._backend.sample(pending, batch)
        else:
            logits = pending.numpy()
            computed = perf_counter()
            tokens = _Done(sample(logits, batch))
        for i, output in enumerate(outputs):
            if output.scored is None:
                output.row.sequence.pending = i
        launched = Launched(is_prefill(plan), begin, built, computed)
        self._tally.launched(plan, launched, perf_counter())
        return _InFlight(plan, outputs, tokens, launched)

    def _take_in(self, step: _InFlight) -> None:
        waited = perf_counter()
        sampled = step.tokens.wait()
        ready = perf_counter()
        newer = self._in_flight.plan.rows if self._in_flight else ()
        sampled_again = {id(row.sequence) for row in newer if row.samples}
        for row in step.plan.rows:
            if id(row.sequence) not in sampled_again:
                row.sequence.pending = None
        result = commit(step.outputs, sampled, self.info.max_sequence_tokens)
        for row in step.plan.rows:
            self._note(row)
        self._end(result, step.launched)
        self._tally.generated_tokens += len(result.continuing) + len(result.finished)
        self._tally.taken_in(step.launched, waited, ready, perf_counter())

    def _end(self, result: Committed, launched: Launched) -> None:
        """Tells what came of a step, and takes out the sequences that ended with it."""
        if result.finished or result.failed:
            began = perf_counter()
            for sequence in result.finished:
                del self._sequences[sequence.request.request_id]
                self.scheduler.finish(sequence)
                self._preparation.ended(sequence)
            for sequence in result.failed:
                self.cancel(sequence.request.request_id)
            self._tally.filtered(launched, perf_counter() - began)
        self._events += result.events

    def _note(self, row: PlannedRow) -> None:
        """Lets others share what a step has computed of a prompt."""
        sequence = row.sequence
        if self._images is not None:
            self._images.computed(row)
        # it may have been preempted since, and begun again
        holds = sequence.status is Status.RUNNING and sequence.num_computed >= row.end
        if holds and row.begin < sequence.num_prompt:
            known = sequence.keys[: min(row.end, sequence.num_prompt)]
            self._cache.note(sequence.seq, sequence.salt, known)

    def _narrow_down(self, plan: StepPlan, error: Exception) -> None:
        """Runs a failed step again in parts, until only the guilty rows are left to fail."""
        if isinstance(error, RowsFailed):
            for row in error.rows:
                self._fail(plan.rows[row].sequence, error)
            guilty = set(error.rows)
            self._run_again(plan, [i for i in range(len(plan.rows)) if i not in guilty])
        elif len(plan.rows) == 1:
            sequence = plan.rows[0].sequence
            if isinstance(error, OutOfMemory) and self.scheduler.num_running > 1:
                self.scheduler.preempt(sequence)
            else:
                self._fail(sequence, error)
        else:
            logger.warning("a step of %d rows failed (%s); halving it", len(plan.rows), error)
            half = len(plan.rows) // 2
            self._run_again(plan, range(half))
            self._run_again(plan, range(half, len(plan.rows)))

    def _run_again(self, plan: StepPlan, which: Rows[int]) -> None:
        rows = tuple(plan.rows[i] for i in which)
        rows = tuple(row for row in rows if row.sequence.status is Status.RUNNING)
        if rows:
            for row in rows:
                row.sequence.num_computed = row.end
            self._run(StepPlan(rows))

    def _fail(self, sequence: Sequence, error: Exception) -> None:
        self._tell_failure(sequence, error)
        self.cancel(sequence.request.request_id)

    def _tell_failure(self, sequence: Sequence, error: Exception) -> None:
        request_id = sequence.request.request_id
        if not isinstance(error, TgiError):
            logger.error("request %s failed", request_id, exc_info=error)
        message = str(error) or type(error).__name__
        invalid = isinstance(error, ValidationError | BadImage)
        self._events.append(RequestFailed(request_id=request_id, message=message, invalid=invalid))
