"""Spans of a finished request, with TGI's names. Knows not where they go."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from tgi_core.contract import FinishedRequest, FinishedSequence


class GivenIds(RandomIdGenerator):
    """Random ids, except for the one span whose ids the client has been told already."""

    def __init__(self) -> None:
        self._trace_id: int | None = None
        self._span_id: int | None = None

    def give(self, trace_id: int, span_id: int) -> None:
        """The ids of the next span, and of its trace if it has no parent."""
        self._trace_id, self._span_id = trace_id, span_id

    def generate_trace_id(self) -> int:
        """Called by the tracer, for a span without a parent."""
        given, self._trace_id = self._trace_id, None
        return super().generate_trace_id() if given is None else given

    def generate_span_id(self) -> int:
        """Called by the tracer, for every span."""
        given, self._span_id = self._span_id, None
        return super().generate_span_id() if given is None else given


class TraceSink:
    """Satisfies RequestSink. Its calls come from one thread."""

    name = "otlp"

    def __init__(self, provider: TracerProvider, ids: GivenIds) -> None:
        """`ids` must be the provider's."""
        self._provider = provider
        self._tracer = provider.get_tracer("tgi_core")
        self._ids = ids

    def finished(self, request: FinishedRequest) -> None:
        """Makes the spans of a request; they are sent later."""
        began = _ns(request.began_s)
        self._ids.give(int(request.trace_id, 16), int(request.span_id, 16))
        span = self._tracer.start_span(
            request.operation,
            _parent(request),
            kind=SpanKind.SERVER,
            start_time=began,
            attributes={
                **request.fields(),
                "request_id": request.request_id,
                "gen_ai.usage.input_tokens": sum(s.num_prompt for s in request.sequences),
                "gen_ai.usage.output_tokens": request.num_generated,
            },
        )
        if request.failure is not None:
            span.set_attribute("err", request.failure)
            span.set_status(Status(StatusCode.ERROR, request.failure))
        inside = set_span_in_context(span, Context())
        self._child("validate", inside, began, began + _ns(request.validation_s))
        for sequence in request.sequences:
            self._sequence(inside, began, sequence)
        span.end(began + _ns(request.total_s))

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()

    def _sequence(self, inside: Context, began: int, sequence: FinishedSequence) -> None:
        submitted = began + _ns(sequence.submitted_s)
        started = submitted + _ns(sequence.queue_s)
        self._child("queued", inside, submitted, started)
        ended = started + _ns(sequence.inference_s)
        infer = self._tracer.start_span("infer", inside, start_time=started)
        if sequence.first_token_s is not None:
            first = began + _ns(sequence.first_token_s)
            infer.add_event("first_token", timestamp=first)
            parts = set_span_in_context(infer, Context())
            self._child("prefill", parts, started, first)
            self._child("decode", parts, first, ended)
        infer.end(ended)

    def _child(self, name: str, inside: Context, began: int, ended: int) -> None:
        """All times in nanoseconds since the epoch."""
        self._tracer.start_span(name, inside, start_time=began).end(ended)


def _parent(request: FinishedRequest) -> Context:
    if request.parent_span_id is None:
        return Context()
    parent = SpanContext(
        trace_id=int(request.trace_id, 16),
        span_id=int(request.parent_span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
