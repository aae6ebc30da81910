"""TGI's metrics and spans. How each metric differs stands in tgi_core/observe/catalog.py."""

from __future__ import annotations

from collections.abc import Iterator

from tests.parity.rows import Row, Rows, Verdict, better, no_meaning, yes
from tgi_core.observe.catalog import CATALOG

_METRICS = "tests/unit/api/test_metrics.py::"
_TRAFFIC = "tests/e2e/test_observe.py::test_every_metric_after_traffic"
_SPANS = "plugins/trace_otlp/tests/test_spans.py::"
_REQUEST = _SPANS + "test_a_request_is_a_span_with_tgis_name_and_attributes"
_CHILDREN = _SPANS + "test_children_follow_each_other"
_COLLECTED = "tests/e2e/test_observe.py::test_traces_reach_a_collector_as_children_of_the_clients"
_NAMES = _METRICS + "test_requests_are_told_of_by_the_names_of_tgis_spans"
_STEPS = "a step serves many requests; its times are metrics"
_INSIDE = "its time is inside `validate`"

_SUCCESS = _METRICS + "test_a_success_is_counted_once_and_measured"

_TESTS = {
    "tgi_request_count": _SUCCESS,
    "tgi_request_success": _SUCCESS,
    "tgi_request_failure": _METRICS + "test_bad_requests_are_counted_as_such",
    "tgi_request_duration": _SUCCESS,
    "tgi_request_validation_duration": _SUCCESS,
    "tgi_request_queue_duration": _SUCCESS,
    "tgi_request_inference_duration": _SUCCESS,
    "tgi_request_mean_time_per_token_duration": _SUCCESS,
    "tgi_request_input_length": _SUCCESS,
    "tgi_request_max_new_tokens": _SUCCESS,
    "tgi_request_generated_tokens": _SUCCESS,
    "tgi_request_skipped_tokens": _METRICS
    + "test_tokens_that_come_together_share_their_time_and_speculated_ones_count_as_skipped",
}
"""For the others: all metrics of a server after traffic."""

_BETTER = {
    "tgi_request_count",
    "tgi_request_failure",
    "tgi_request_skipped_tokens",
    "tgi_batch_max_total_tokens",
    "tgi_batch_inference_failure",
}
"""Of those that differ; the others only do so because the work is divided otherwise."""


def metrics() -> Iterator[tuple[str, Row]]:
    """Each metric of TGI and its verdict."""
    for metric in CATALOG:
        if metric.tgi is not None:
            verdict = Verdict.BETTER if metric.name in _BETTER else Verdict.YES
            words = f"TGI: {metric.tgi}" if metric.tgi else ""
            yield metric.name, Row(verdict, words, (_TESTS.get(metric.name, _TRAFFIC),))


SPANS: Rows = {
    "generate": yes(_REQUEST, "with the plugin `trace_otlp`"),
    "completions": yes(_COLLECTED),
    "generate_stream chat_completions vertex_compatibility": yes(_NAMES),
    "validate queued": yes(_CHILDREN),
    "infer": better(_CHILDREN, "with an event at the first token"),
    "validate_input tokenize": no_meaning(_CHILDREN, _INSIDE),
    "generate_best_of": no_meaning(
        _SPANS + "test_each_sequence_has_its_own_children", "each sequence has its own children"
    ),
    "async_stream waiting send_generation": no_meaning(
        _CHILDREN, "parts of TGI's queues; `queued` and `infer` are the whole time"
    ),
    "prefill decode": better(
        _SPANS + "test_the_first_token_is_where_prefill_ends_and_decode_begins",
        "one of each for a sequence, inside its `infer`; in TGI one for each turn of a batch, in a "
        "trace of its own",
    ),
    "batch filter_batch": no_meaning(_COLLECTED, _STEPS),
    "generate_token filter concatenate": no_meaning(_COLLECTED, _STEPS),
}

SPAN_FIELDS: Rows = {
    "parameters total_time validation_time queue_time inference_time time_per_token seed": yes(
        _REQUEST
    ),
    "traceparent": better(_COLLECTED, "the parent; also comes back to the client"),
    "service.name": yes(_COLLECTED),
}
