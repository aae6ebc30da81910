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
from dataclasses import replace
from itertools import count
from time import monotonic, perf_counter

from tgi_core.cache.manager import CacheManager
from tgi_core.contract import (
    AdapterRef,
    AdapterRows,
    Adjustment,
    Capabilities,
    EncodesImages,
    EngineInfo,
    Event,
    HoldsAdapters,
    LoadRequest,
    Modality,
    Progress,
    PromptScored,
    QueuePolicy,
    Request,
    RequestFailed,
    RequestStarted,
    SamplesOnDevice,
    StepBackend,
    StepStats,
    Vocabulary,
)
from tgi_core.engine.adapters import AdapterStore
from tgi_core.engine.commit import Committed, commit
from tgi_core.engine.guidance import Guidance
from tgi_core.engine.images import ImagesDoNotFit, ImageStore
from tgi_core.engine.launch import InFlight, embed, launch
from tgi_core.engine.limits import EngineLimits, engine_info, fault_of
from tgi_core.engine.preparation import Preparation
from tgi_core.engine.speculation import Drafting, Speculation
from tgi_core.engine.tally import Launched, Tally
from tgi_core.engine.wishes import Wishes
from tgi_core.errors import (
    BackendDead,
    BadImage,
    GenerationError,
    OutOfMemory,
    RowsFailed,
    TgiError,
    ValidationError,
)
from tgi_core.scheduler.limits import SchedulerLimits
from tgi_core.scheduler.plan import PlannedRow, StepPlan
from tgi_core.scheduler.scheduler import Scheduler
from tgi_core.scheduler.sequence import Sequence, Status

logger = logging.getLogger(__name__)

_WAIT_S = 0.005
"""Longest wait for a grammar, an image or an adapter when there is nothing else to do: a new
request may come."""
_MAX_ADAPTERS = 8
"""Adapters that are held at once if nobody says how many."""


class StepEngine:
    """Implements `tgi_core.contract.Engine`."""

    def __init__(
        self,
        backend: StepBackend,
        policy: QueuePolicy,
        limits: EngineLimits | None = None,
        guidance: Guidance | None = None,
        adjustments: Mapping[str, Adjustment] | None = None,
        drafting: Drafting | None = None,
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._limits = limits or EngineLimits()
        self._guidance = guidance
        self._adjustments = adjustments or {}
        self._drafting = drafting
        self._speculation: Speculation | None = None
        self._sequences: dict[str, Sequence] = {}
        self._arrivals = count()
        self._in_flight: InFlight | None = None
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
        if self._drafting is not None:
            self._speculation = self._drafting.start(
                self._backend, capabilities, self._limits, request, progress
            )
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
        encoder = capabilities.encoder
        self._start = encoder.start if encoder is not None else ()
        self._decoded = encoder.max_output_tokens if encoder is not None else None
        # asking for each step takes as long as a tenth of choosing its tokens
        self._sampler = self._backend if isinstance(self._backend, SamplesOnDevice) else None
        self._ahead = (
            capabilities.steps_in_flight > 1
            and self._limits.steps_in_flight > 1
            and self._sampler is not None
        )
        self._wishes = Wishes(capabilities.max_sequences)
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
        longest = self.info.max_sequence_tokens + len(self._start)
        if self._decoded is not None:
            longest = min(longest, len(request.prompt) + self._decoded)
        sequence = Sequence(request, key, monotonic(), self._start, longest)
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
            self._ended(sequence)

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
        if plan is not None and self._speculation is not None and not plan.embeds:
            plan = self._speculation.lengthen(plan, self.scheduler)
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
        if sequence.num_encoded and sequence.request.prompt_logprobs:
            self._events.append(
                PromptScored(
                    request_id=sequence.request.request_id, logprobs=(), start=self._start[:1]
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
        result, launched = embed(plan, self._backend, self._capabilities.embedding)
        self._tally.launched(plan, launched, perf_counter())
        self._end(result, launched)
        self._tally.taken_in(launched, perf_counter(), perf_counter(), perf_counter())

    def _launch(self, plan: StepPlan) -> InFlight:
        if self._images is not None:
            self._encode(self._images, plan)
        step = launch(
            plan,
            self._wishes,
            self._backend,
            self._sampler,
            self._capabilities,
            self._adjustments,
        )
        for sequence, fault in step.unable:
            self._fail(sequence, GenerationError(fault))
        details = step.outputs.details
        for i, sequence in enumerate(step.outputs.sequences):
            if not details or details[i].scored is None:
                sequence.pending = i
        self._tally.launched(plan, step.launched, perf_counter())
        return step

    def _encode(self, images: ImageStore, plan: StepPlan) -> None:
        """Makes the vectors that a step needs; whatever is parked makes room for them."""
        while True:
            try:
                images.encode(plan)
                return
            except ImagesDoNotFit:
                if not self._cache.evict():
                    raise

    def _take_in(self, step: InFlight) -> None:
        waited = perf_counter()
        sampled = step.tokens.wait()
        ready = perf_counter()
        newer = self._in_flight
        # most often every sequence has its next token under way: without details, each samples
        if (
            newer is None
            or newer.outputs.details
            or newer.outputs.sequences != step.outputs.sequences
        ):
            rows = newer.plan.rows if newer is not None else ()
            sampled_again = {row.sequence for row in rows if row.samples}
            for row in step.plan.rows:
                if row.sequence not in sampled_again:
                    row.sequence.pending = None
        result = commit(step.outputs, sampled)
        for row in step.plan.special:
            self._note(row)
            self.scheduler.settle(row)
        self._end(result, step.launched)
        self._tally.generated(result.num_tokens, result.num_drafts, result.num_accepted)
        took_s = self._tally.taken_in(step.launched, waited, ready, perf_counter())
        if self._speculation is not None:
            self._speculation.learn(step.plan, None if step.launched.prefill else took_s)
            self._speculation.look(result.continuing, result.last_outputs, step.logits)

    def _end(self, result: Committed, launched: Launched) -> None:
        """Tells what came of a step, and takes out the sequences that ended with it."""
        if result.finished or result.failed:
            began = perf_counter()
            for sequence in result.finished:
                del self._sequences[sequence.request.request_id]
                self.scheduler.finish(sequence)
                self._ended(sequence)
            for sequence in result.failed:
                self.cancel(sequence.request.request_id)
            self._tally.filtered(launched, perf_counter() - began)
        self._events += result.events

    def _ended(self, sequence: Sequence) -> None:
        self._preparation.ended(sequence)
        if self._speculation is not None:
            self._speculation.forget(sequence.request.request_id)

    def _note(self, row: PlannedRow) -> None:
        """Lets others share what a step has computed of a prompt."""
        sequence = row.sequence
        if self._images is not None and self._images.computed(row):
            self.scheduler.room_was_given_back()
        # it may have been preempted since, and begun again
        holds = sequence.status is Status.RUNNING and sequence.num_computed >= row.end
        if holds and row.begin < sequence.num_prompt:
            known = sequence.keys[: min(row.end, sequence.num_prompt)]
            self._cache.note(sequence.seq, sequence.salt, known)

    def _narrow_down(self, plan: StepPlan, error: Exception) -> None:
        """Runs a failed step again in parts, until only the guilty rows are left to fail.

        Drafts are left out: no request may fail by a token that it does not have.
        """
        drafted, plan = plan, plan.without_drafts()
        for row in drafted.rows:
            row.sequence.drafted &= not row.drafts
        if isinstance(error, RowsFailed):
            for failed in (drafted.rows[i] for i in error.rows):
                if failed.drafts:
                    self._preempt(failed.sequence)
                else:
                    self._fail(failed.sequence, error)
            self._run_again(plan, [i for i in range(len(plan.rows)) if i not in set(error.rows)])
        elif isinstance(error, ImagesDoNotFit) and self._images and self.scheduler.num_running > 1:
            self._give_way(self._images, plan, error.rows)
        elif drafted.num_drafts:
            self._run_again(plan, range(len(plan.rows)))
        elif len(plan.rows) == 1:
            sequence = plan.rows[0].sequence
            if isinstance(error, OutOfMemory) and self.scheduler.num_running > 1:
                self._preempt(sequence)
            else:
                self._fail(sequence, error)
        else:
            logger.warning("a step of %d rows failed (%s); halving it", len(plan.rows), error)
            half = len(plan.rows) // 2
            self._run_again(plan, range(half))
            self._run_again(plan, range(half, len(plan.rows)))

    def _give_way(self, images: ImageStore, plan: StepPlan, blind: Rows[int]) -> None:
        """Takes out rows for whose images there is no room; they wait until there is. Only the
        oldest of all that run does not: it gets the room of the newest, so it always advances.
        """
        oldest = self.scheduler.oldest
        rows = {plan.rows[i].sequence: plan.rows[i] for i in blind}
        favoured = rows.pop(oldest, None)
        for sequence in rows:
            self._preempt(sequence)
        if favoured is not None:
            while self.scheduler.num_running > 1 and not self._sees(images, favoured):
                self._preempt(self.scheduler.newest)
        if rows:
            self.scheduler.hold_back(min(rows, key=lambda sequence: sequence.key))
        self._run_again(plan, range(len(plan.rows)))

    def _sees(self, images: ImageStore, row: PlannedRow) -> bool:
        """Whether there is room for the images of a row; then they are there."""
        try:
            self._encode(images, StepPlan((row,)))
        except Exception as error:
            # whatever else is wrong is wrong again when the row is run
            return not isinstance(error, ImagesDoNotFit)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.scheduler.preempt(sequence)
        if self._images is not None:
            self._images.forget_vectors(sequence)

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
