"""TGI's routes, response headers, errors and the rules of its streams."""

from __future__ import annotations

from tests.parity.requests import CHAT, CLOUDS, COMPAT, COMPLETIONS, GENERATE
from tests.parity.rows import Row, Rows, better, no_meaning, yes

_OPS = "tests/unit/api/test_ops.py::"
_BODIES = "tests/unit/api/test_bodies.py::"
_FAILURES = "tests/unit/api/test_failures.py::"
_KEYS = "tests/unit/api/test_keys.py::"
_SSE = "tests/unit/api/test_sse.py::"
_WIRE = "tests/unit/api/test_wire.py::"
_READY = (
    _OPS + "test_readiness_is_false_while_the_model_loads_the_engine_is_away_or_the_server_drains"
)
_KSERVE = CLOUDS + "test_kserve_describes_the_server"
_AIP = CLOUDS + "test_vertex_answers_on_the_routes_that_it_is_given"
_COST = GENERATE + "test_the_headers_say_what_it_cost"
_PLAIN = _BODIES + "test_a_bad_body_is_refused_in_plain_text_as_in_tgi"
_EMPTY = _OPS + "test_wrong_methods_and_paths_have_empty_answers"
_FAILED = _FAILURES + "test_a_failure_is_a_status_before_the_first_event_and_an_event_after_it"
_BAD_COMPLETIONS = COMPLETIONS + "test_bad_requests_have_a_status_also_as_streams"
_BAD_STREAM = GENERATE + "test_a_stream_reports_bad_requests_as_an_event"
_DRAINS = "also false while the server drains"
_ALWAYS = "always there; TGI needs a build with a feature"

ROUTES: dict[str, Row] = {
    "POST /": yes(GENERATE + "test_the_root_route_answers_with_a_list_and_the_prompt_in_it"),
    "GET /": yes(_READY, _DRAINS),
    "POST /generate": yes(GENERATE + "test_generate_answers_with_the_text_alone"),
    "POST /generate_stream": yes(GENERATE + "test_a_stream_is_one_event_a_token"),
    "POST /v1/chat/completions": better(
        CHAT + "test_a_whole_answer", "OpenAI's answers; TGI's with `--compat tgi`"
    ),
    "POST /v1/completions": better(
        COMPLETIONS + "test_a_whole_answer", "OpenAI's answers; TGI's with `--compat tgi`"
    ),
    "POST /vertex": better(
        CLOUDS + "test_vertex_refuses_what_it_cannot_predict",
        "failures have their own status; all are 500 in TGI",
    ),
    "POST /invocations": yes(CLOUDS + "test_invocations_is_the_route_that_the_body_fits"),
    "POST /tokenize": yes(GENERATE + "test_tokenize_gives_the_bytes_of_each_token"),
    "POST /chat_tokenize": better(
        _KEYS + "test_without_a_key_only_the_listed_routes_answer",
        "needs the API key; open with `--compat tgi`",
    ),
    "GET /info": yes(_OPS + "test_info_is_tgis_object"),
    "GET /v1/models": better(
        _OPS + "test_models_lists_the_one_model",
        "`created` is true; also adapters, and `/v1/models/{id}`",
    ),
    "GET /health": yes(_READY, _DRAINS),
    "GET /ping": yes(_READY, _DRAINS),
    "GET /metrics": better(
        "tests/unit/api/test_metrics.py::test_metrics_answer_while_the_model_loads",
        "answers while the model loads, too",
    ),
    "GET /docs": yes(
        "tests/unit/api/test_docs.py::test_the_page_lists_every_route_and_object_and_runs_nothing",
        "a page without scripts that lists the same as Swagger UI",
    ),
    "GET /api-doc/openapi.json": yes(
        "tests/unit/api/test_docs.py::test_both_addresses_have_the_document",
        "OpenAPI 3.1, made from the types on the wire",
    ),
    "POST $AIP_PREDICT_ROUTE": yes(_AIP),
    "GET $AIP_HEALTH_ROUTE": yes(_AIP),
    "GET /v2": better(_KSERVE, _ALWAYS),
    "GET /v2/health/live": better(_KSERVE, _ALWAYS),
    "GET /v2/health/ready": better(_KSERVE, "false when the server is not ready"),
    "GET /v2/models/{model}/versions/{version}": better(_KSERVE, _ALWAYS),
    "GET /v2/models/{model}/versions/{version}/ready": better(
        _KSERVE, "false when the server is not ready"
    ),
    "POST /v2/models/{model}/versions/{version}/infer": better(
        CLOUDS + "test_kserve_generates_a_tensor_of_bytes_for_each", _ALWAYS
    ),
}

HEADERS: Rows = {
    "x-compute-type": yes(_COST, "the name of the backend's device, or `--compute-type`"),
    "x-compute-time": better(
        COMPLETIONS + "test_the_headers_say_what_it_cost", "also of completions"
    ),
    "x-compute-characters x-total-time x-validation-time x-queue-time x-inference-time": yes(_COST),
    "x-time-per-token x-prompt-tokens x-generated-tokens": yes(_COST),
    "x-accel-buffering": yes(GENERATE + "test_a_stream_is_one_event_a_token"),
}

ERROR_TYPES: dict[str, Row] = {
    "generation": yes(_FAILED, "424"),
    "overloaded": yes(
        _FAILURES + "test_too_many_requests_are_turned_away_and_may_come_again", "429"
    ),
    "validation": yes(GENERATE + "test_what_cannot_be_done_is_refused_by_name", "422"),
    "incomplete_generation": yes(
        _FAILURES + "test_an_engine_that_falls_silent_is_an_incomplete_generation", "500"
    ),
    "incomplete_generation_stream": yes(
        _FAILURES + "test_inside_a_stream_it_is_an_incomplete_stream"
    ),
    "template_error": yes(CHAT + "test_a_template_that_refuses_is_a_template_error", "422"),
    "missing_template_variable": no_meaning(
        "tests/unit/text/test_chat.py::test_a_name_that_nobody_gives_is_empty",
        "a variable that nobody gives is empty in a template, as in transformers",
    ),
    "tool_error": yes(
        "tests/unit/api/test_tool_prompts.py::test_what_makes_no_sense_is_refused",
        "422; output that is no call is text, and no error",
    ),
    "stream_serialization_error": no_meaning(
        _WIRE + "test_a_number_that_json_cannot_hold_is_null",
        "every event can be written as JSON: numbers without a value are null",
    ),
    "healthcheck": yes(_READY, "503"),
    "suffix not supported": yes(_BAD_COMPLETIONS, "422"),
    "batch size exceeded": yes(_BAD_COMPLETIONS, "422"),
}

PLAIN_REFUSALS: dict[str, Row] = {
    "400 malformed JSON": yes(_PLAIN, "TGI's beginning, other words behind it"),
    "401 wrong key": better(
        _KEYS + "test_a_refusal_is_empty_in_tgis_dialect_and_an_error_in_openais",
        "empty, with `www-authenticate`; OpenAI's error under `/v1`",
    ),
    "404 unknown path": yes(_EMPTY),
    "405 wrong method": yes(_EMPTY),
    "413 body over the limit": yes(_PLAIN),
    "415 other content type": yes(_PLAIN),
    "422 wrong type of a field": yes(
        _PLAIN, "TGI's beginning and the path of the field, other words, no line and column"
    ),
}

STREAM_RULES: dict[str, Row] = {
    "content type and `no-cache`": yes(GENERATE + "test_a_stream_is_one_event_a_token"),
    "an event is `data: `, one JSON object and an empty line": yes(
        _WIRE + "test_events_are_json_that_any_parser_reads"
    ),
    "a comment after 15 seconds of silence": yes(
        _SSE + "test_a_silent_stream_gets_comments_and_still_notices_that_the_client_leaves"
    ),
    "TGI's streams end without `[DONE]`": yes(GENERATE + "test_a_stream_is_one_event_a_token"),
    "streams under `/v1` end with `[DONE]`, also after an error": yes(_FAILED),
    "status 200 before anything is checked": better(
        _FAILED,
        "TGI's streams the same; under `/v1` a status, and 200 with `--compat tgi`",
        COMPAT + "test_a_stream_begins_before_anything_is_checked",
    ),
    "what is wrong before the stream is a status": yes(
        COMPAT + "test_what_fails_before_a_stream_is_a_status"
    ),
    "error inside TGI's streams": yes(_BAD_STREAM, "`error` and `error_type`"),
    "error inside streams under `/v1`": better(
        _FAILED,
        "`http_status_code` is true; always 422 with `--compat tgi`",
        COMPAT + "test_an_error_inside_a_stream_has_tgis_status",
    ),
    "an end that never comes is an incomplete stream": yes(
        _FAILURES + "test_inside_a_stream_it_is_an_incomplete_stream"
    ),
}
