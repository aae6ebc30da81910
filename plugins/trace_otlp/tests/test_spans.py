"""One request is one span with children for its parts, whoever began the trace."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tgi_plugin_trace_otlp.spans import GivenIds, TraceSink

from tgi_core.contract import FinishedRequest, FinishedSequence, SamplingParams

TRACE, SPAN, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"
BEGAN_S = 1_700_000_000.0


def sequence(**more: Any) -> FinishedSequence:
    values: dict[str, Any] = {
        "sampling": SamplingParams(temperature=0.5, seed=7),
        "max_new_tokens": 20,
        "num_prompt": 5,
        "num_cached": 0,
        "num_generated": 4,
        "submitted_s": 0.25,
        "queue_s": 0.5,
        "inference_s": 2.0,
        "first_token_s": 1.0,
    }
    return FinishedSequence(**{**values, **more})


def request(*sequences: FinishedSequence, **more: Any) -> FinishedRequest:
    values: dict[str, Any] = {
        "operation": "generate",
        "request_id": "abc",
        "trace_id": TRACE,
        "span_id": SPAN,
        "parent_span_id": PARENT,
        "began_s": BEGAN_S,
        "total_s": 3.0,
        "validation_s": 0.25,
        "failure": None,
        "message": "",
        "sequences": sequences,
    }
    return FinishedRequest(**{**values, **more})


class Recorded:
    """A sink whose spans stay here."""

    def __init__(self) -> None:
        ids, self._exporter = GivenIds(), InMemorySpanExporter()
        provider = TracerProvider(id_generator=ids, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.sink = TraceSink(provider, ids)

    def __call__(self, *requests: FinishedRequest) -> list[ReadableSpan]:
        """The spans of requests, in order of their beginning, children last."""
        self._exporter.clear()
        for one in requests:
            self.sink.finished(one)
        spans = self._exporter.get_finished_spans()
        return sorted(spans, key=lambda span: (span.start_time, -span.end_time))


@pytest.fixture
def spans_of() -> Recorded:
    return Recorded()


def seconds(span: ReadableSpan) -> tuple[float, float]:
    return since(span.start_time), since(span.end_time)


def since(nanoseconds: int) -> float:
    return (nanoseconds - round(BEGAN_S * 1e9)) / 1e9


def test_a_request_is_a_span_with_tgis_name_and_attributes(spans_of):
    span = spans_of(request(sequence()))[0]
    assert (span.name, span.kind) == ("generate", SpanKind.SERVER)
    assert seconds(span) == (0, 3)
    assert dict(span.attributes) == {
        "parameters": "max_new_tokens: 20, temperature: 0.5",
        "total_time": "3s",
        "validation_time": "250ms",
        "queue_time": "500ms",
        "inference_time": "2s",
        "time_per_token": "500ms",
        "seed": "Some(7)",
        "request_id": "abc",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 4,
    }
    assert span.status.status_code is StatusCode.UNSET


def test_its_ids_are_those_that_the_client_got(spans_of):
    span = spans_of(request(sequence()))[0]
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.context.span_id:016x}" == SPAN
    assert f"{span.parent.span_id:016x}" == PARENT


def test_without_a_parent_it_is_the_root_of_the_trace_that_the_client_got(spans_of):
    span = spans_of(request(sequence(), parent_span_id=None))[0]
    assert span.parent is None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.context.span_id:016x}" == SPAN


def test_children_follow_each_other(spans_of):
    root, *inner = spans_of(request(sequence()))
    children = inner[:3]
    assert [(child.name, *seconds(child)) for child in children] == [
        ("validate", 0, 0.25),
        ("queued", 0.25, 0.75),
        ("infer", 0.75, 2.75),
    ]
    assert {child.parent.span_id for child in children} == {root.context.span_id}
    assert {child.context.trace_id for child in children} == {root.context.trace_id}
    assert len({span.context.span_id for span in (root, *children)}) == 4
    [event] = children[2].events
    assert (event.name, since(event.timestamp)) == ("first_token", 1)


def test_the_first_token_is_where_prefill_ends_and_decode_begins(spans_of):
    *_, infer, prefill, decode = spans_of(request(sequence()))
    assert [(part.name, *seconds(part)) for part in (prefill, decode)] == [
        ("prefill", 0.75, 1),
        ("decode", 1, 2.75),
    ]
    assert prefill.parent.span_id == decode.parent.span_id == infer.context.span_id


def test_each_sequence_has_its_own_children(spans_of):
    names = Counter(span.name for span in spans_of(request(sequence(), sequence())))
    assert names == {
        "generate": 1, "validate": 1, "queued": 2, "infer": 2, "prefill": 2, "decode": 2
    }  # fmt: skip


def test_a_failure_is_an_error(spans_of):
    root, *_ = spans_of(request(failure="overloaded", message="Model is overloaded"))
    assert root.attributes["err"] == "overloaded"
    assert root.status.status_code is StatusCode.ERROR


def test_a_sequence_without_a_token_has_no_first_one(spans_of):
    *_, infer = spans_of(request(sequence(first_token_s=None, num_generated=0)))
    assert infer.name == "infer" and not infer.events


def test_two_requests_of_one_client_keep_apart(spans_of):
    second = request(sequence(), span_id="1" * 16, parent_span_id=None, trace_id="2" * 32)
    spans = spans_of(request(sequence()), second)
    assert len(spans) == 12
    assert len({span.context.span_id for span in spans}) == 12
    assert {f"{span.context.trace_id:032x}" for span in spans} == {TRACE, "2" * 32}
