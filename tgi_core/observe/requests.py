"""The life of one HTTP request in numbers, and who is told of them when it ends.

A handler gets a `RequestRecord`; each sequence that it asks for is a `SequenceRecord`. At the end
the `Observer` adds them to the metrics, writes one line to the log and tells the sinks, once for
each request. No text of prompts or answers gets here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from time import perf_counter

from tgi_core.contract import FinishedRequest, FinishedSequence, Request, RequestSink
from tgi_core.observe.catalog import Cause, Progress
from tgi_core.observe.logging import fields
from tgi_core.observe.metrics import Metrics
from tgi_core.observe.trace import Span

logger = logging.getLogger(__name__)

GENERATE, GENERATE_STREAM = "generate", "generate_stream"
CHAT, COMPLETIONS, VERTEX = "chat_completions", "completions", "vertex_compatibility"
EMBEDDINGS = "embeddings"
"""Operations, by the names of TGI's spans where it has them."""


class SequenceRecord:
    """One sequence, from the moment that it is sent to the engine."""

    __slots__ = (
        "_began_s",
        "_ended_s",
        "_first_s",
        "_last_s",
        "_metrics",
        "_num_steps",
        "_submitted_s",
        "num_cached",
        "num_tokens",
        "queue_s",
        "request",
        "started",
    )

    def __init__(self, metrics: Metrics, request: Request, began_s: float) -> None:
        self.request = request
        self.started = False
        """Whether it left the queue."""
        self.queue_s = 0.0
        """How long it waited for its first step."""
        self.num_cached = 0
        """Tokens of the prompt that the prefix cache supplied."""
        self.num_tokens = 0
        """Tokens generated so far."""
        self._metrics = metrics
        self._began_s = began_s
        self._submitted_s = perf_counter()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._ended_s: float | None = None
        self._num_steps = 0
        metrics.input_length.add(len(request.prompt))
        if not request.embedding:
            metrics.max_new_tokens.add(request.stop.max_new_tokens)

    def left_queue(self, queue_s: float, num_cached: int) -> None:
        """Its first step begins."""
        self.started, self.queue_s, self.num_cached = True, queue_s, num_cached

    def tokens_came(self, num_tokens: int, num_steps: int) -> None:
        """There are `num_tokens` by now; the new ones, from `num_steps` steps, came together."""
        now = perf_counter()
        new = num_tokens - self.num_tokens
        if self._first_s is None:
            self._first_s = now
            self._metrics.time_to_first_token.add(now - self._began_s)
        else:
            self._metrics.inter_token.add((now - self._last_s) / new, new)
        if new == num_steps:
            self._num_steps += num_steps
        else:
            self._metrics.skipped_tokens.add((new - num_steps) / num_steps, num_steps)
        self._last_s, self.num_tokens = now, num_tokens

    def ended(self) -> None:
        """It came to its end; called once, or never if it was given up."""
        self._ended_s = perf_counter()
        metrics, inference_s = self._metrics, self.inference_s()
        metrics.queue.add(self.queue_s)
        metrics.inference.add(inference_s)
        if self.request.embedding:
            return
        metrics.mean_time_per_token.add(inference_s / max(self.num_tokens, 1))
        metrics.generated_tokens.add(self.num_tokens)
        metrics.skipped_tokens.add(0, self._num_steps)

    def inference_s(self) -> float:
        """From its first step to its end, or until now."""
        end_s = perf_counter() if self._ended_s is None else self._ended_s
        return end_s - self._submitted_s - self.queue_s

    def finished(self) -> FinishedSequence:
        """For sinks and the log."""
        first_s = self._first_s
        return FinishedSequence(
            sampling=self.request.sampling,
            max_new_tokens=self.request.stop.max_new_tokens,
            num_prompt=len(self.request.prompt),
            num_cached=self.num_cached,
            num_generated=self.num_tokens,
            submitted_s=self._submitted_s - self._began_s,
            queue_s=self.queue_s,
            inference_s=self.inference_s(),
            first_token_s=None if first_s is None else first_s - self._began_s,
        )


class RequestRecord:
    """One HTTP request. Made when it comes in."""

    __slots__ = (
        "_metrics",
        "began_s",
        "failure",
        "message",
        "operation",
        "request_id",
        "sequences",
        "span",
        "submitted_s",
    )

    def __init__(self, metrics: Metrics, request_id: str, span: Span) -> None:
        self.operation: str | None = None
        """TGI's name of the span; None as long as nobody asks for generated text."""
        self.request_id = request_id
        self.span = span
        self.sequences: list[SequenceRecord] = []
        self.failure: Cause | None = None
        self.message = ""
        """What the client was told if it failed."""
        self.began_s = perf_counter()
        self.submitted_s: float | None = None
        """When the engine got its last sequence."""
        self._metrics = metrics

    def begin(self, operation: str) -> None:
        """It asks for generated text; may be called again with a better name."""
        if self.operation is None:
            self._metrics.requests += 1
        self.operation = operation

    def sequence(self, request: Request) -> SequenceRecord:
        """The record of a sequence that is sent to the engine now."""
        record = SequenceRecord(self._metrics, request, self.began_s)
        self.submitted_s = perf_counter()
        self.sequences.append(record)
        return record

    def fail(self, failure: Cause, message: str = "") -> None:
        """It failed; of several failures the first one counts."""
        if self.failure is None:
            self.failure, self.message = failure, message

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        if not self.sequences:
            return Progress.VALIDATION
        started = any(sequence.started for sequence in self.sequences)
        return Progress.INFERENCE if started else Progress.QUEUE


class Observer:
    """Is told of each request when it has been answered."""

    def __init__(self, sinks: Sequence[RequestSink] = ()) -> None:
        self.metrics = Metrics()
        self._sinks = tuple(sinks)

    @property
    def exports(self) -> bool:
        """Whether anybody but the log hears of requests."""
        return bool(self._sinks)

    def answered(self, record: RequestRecord) -> None:
        """A request has its answer, or nobody waits for one any more.

        One that did not ask for generated text is passed over.
        """
        if record.operation is None:
            return
        now = perf_counter()
        metrics, failure = self.metrics, record.failure
        validated_s = now if record.submitted_s is None else record.submitted_s
        if failure is None:
            metrics.successes += 1
            metrics.duration.add(now - record.began_s)
            metrics.validation.add(validated_s - record.began_s)
        else:
            metrics.failures[failure] += 1
            if failure is Cause.DROPPED:
                metrics.cancelled[record.progress] += 1
        level = logging.ERROR if failure not in (None, Cause.DROPPED) else logging.INFO
        if not (self._sinks or logger.isEnabledFor(level)):
            return
        total_s = now - record.began_s
        finished = FinishedRequest(
            operation=record.operation,
            request_id=record.request_id,
            trace_id=record.span.trace_id,
            span_id=record.span.span_id,
            parent_span_id=record.span.parent_id,
            began_s=time.time() - total_s,
            total_s=total_s,
            validation_s=validated_s - record.began_s,
            failure=None if failure is None else failure.value,
            message=record.message,
            sequences=tuple(sequence.finished() for sequence in record.sequences),
        )
        _log(level, finished, traced=record.span.sampled)
        for sink in self._sinks:
            try:
                sink.finished(finished)
            except Exception:
                logger.exception("the sink %s failed on a request", sink.name)

    def close(self) -> None:
        """Lets the sinks send off what they have."""
        for sink in self._sinks:
            sink.close()


def _log(level: int, request: FinishedRequest, *, traced: bool) -> None:
    """One line; the numbers are fields of the record, for the formatter to show."""
    known = {} if request.failure is None else {"err": request.failure}
    if traced:
        known["trace_id"] = request.trace_id
    extra = fields(
        operation=request.operation,
        **known,
        **request.fields(),
        prompt_tokens=sum(sequence.num_prompt for sequence in request.sequences),
        generated_tokens=request.num_generated,
    )
    logger.log(level, "%s", request.message or "Success", extra=extra)
