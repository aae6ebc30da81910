"""The fields of TGI's answers, object by object. Names of objects and fields are TGI's."""

from __future__ import annotations

from tests.parity.requests import CHAT, CLOUDS, COMPAT, COMPLETIONS, GENERATE, TIES
from tests.parity.rows import Rows, better, yes

_WIRE = "tests/unit/api/test_wire.py::test_what_goes_well"
_TOOLS = "tests/unit/api/test_openai_tools.py::"
_OPS = "tests/unit/api/test_ops.py::"
_DETAILS = GENERATE + "test_details_tell_how_the_text_came_about"
_BEST = GENERATE + "test_the_best_of_several_texts_comes_first"
_PREFILL = GENERATE + "test_details_of_the_prompt"
_EVENT = GENERATE + "test_a_stream_is_one_event_a_token"
_TOP = GENERATE + "test_a_stream_without_details_has_none_and_with_top_tokens_has_them"
_CALLS = _TOOLS + "test_shapes_on_the_wire"
_NAN = "tests/unit/api/test_wire.py::test_a_number_that_json_cannot_hold_is_null"
_ID = "unique; empty in TGI, and with `--compat tgi`"
_NULL = "null where the engine gives no number, as in TGI"
_REASON = "OpenAI's words; TGI's with `--compat tgi`"
_KSERVE = CLOUDS + "test_kserve_generates_a_tensor_of_bytes_for_each"

ANSWERS: dict[str, Rows] = {
    "GenerateResponse": {
        "generated_text": yes(GENERATE + "test_generate_answers_with_the_text_alone"),
        "details": yes(_DETAILS),
    },
    "Details": {
        "finish_reason generated_tokens prefill seed tokens": yes(_DETAILS),
        "top_tokens": better(_DETAILS, "exactly as many as asked for", TIES),
        "best_of_sequences": yes(_BEST),
    },
    "BestOfSequence": {
        "finish_reason generated_text generated_tokens prefill tokens": yes(_BEST),
        "seed": yes(_BEST),
        "top_tokens": better(_BEST, "exactly as many as asked for", TIES),
    },
    "Token": {"id logprob special text": yes(_EVENT)},
    "PrefillToken": {"id logprob text": yes(_PREFILL)},
    "StreamResponse": {
        "details generated_text index token": yes(_EVENT),
        "top_tokens": better(_TOP, "exactly as many as asked for", TIES),
    },
    "StreamDetails": {"finish_reason generated_tokens input_length seed": yes(_EVENT)},
    "SimpleToken": {
        "id start stop text": yes(GENERATE + "test_tokenize_gives_the_bytes_of_each_token")
    },
    "ChatTokenizeResponse": {
        "templated_text tokenize_response": yes(
            CLOUDS + "test_a_chat_is_tokenized_as_it_is_sent_to_the_model"
        )
    },
    "ChatCompletion": {
        "choices created model usage": yes(CHAT + "test_a_whole_answer"),
        "system_fingerprint": yes(_WIRE),
        "id": better(CHAT + "test_a_whole_answer", _ID),
    },
    "ChatCompletionComplete": {
        "index logprobs message": yes(CHAT + "test_a_whole_answer"),
        "finish_reason": better(COMPAT + "test_endings_of_chats", _REASON),
    },
    "ChatCompletionChunk": {
        "choices created model system_fingerprint": yes(_WIRE),
        "usage": yes(CHAT + "test_usage_is_a_chunk_of_its_own_if_asked_for"),
        "id": better(_WIRE, _ID),
    },
    "ChatCompletionChoice": {
        "delta index logprobs": yes(_WIRE),
        "finish_reason": better(COMPAT + "test_endings_of_chats", _REASON),
    },
    "ChatCompletionLogprobs": {"content": yes(CHAT + "test_logprobs")},
    "ChatCompletionLogprob": {
        "token top_logprobs": yes(CHAT + "test_logprobs"),
        "logprob": yes(_NAN, _NULL),
    },
    "ChatCompletionTopLogprob": {
        "token": yes(COMPAT + "test_each_chunk_of_a_chat_says_who_speaks_and_has_all_keys"),
        "logprob": yes(_NAN, _NULL),
    },
    "ToolCall": {
        "id": better(_CALLS, 'unique; `"0"` in TGI'),
        "type": yes(_CALLS),
        "function": better(_CALLS, "without TGI's `description: null`"),
    },
    "ToolCallDelta": {
        "role": better(_CALLS, "in the first chunk, as OpenAI; in all with `--compat tgi`"),
        "tool_calls": better(_CALLS, "several calls in one answer"),
    },
    "DeltaToolCall": {
        "function index": better(_CALLS, "OpenAI's chunks: of any number of calls"),
        "id type": better(_CALLS, "once, with the name, as OpenAI"),
    },
    "Function": {
        "arguments": better(
            _TOOLS + "test_arguments_come_as_they_are_written",
            "as the model writes them; TGI holds tokens back, and loses some",
        ),
        "name": better(_CALLS, "once; TGI says null in the chunks that follow"),
    },
    "CompletionFinal": {
        "choices model": yes(COMPLETIONS + "test_a_whole_answer"),
        "created system_fingerprint": yes(_WIRE),
        "usage": yes(_WIRE, "the same; also says how much of the prompt was cached"),
        "id": better(COMPLETIONS + "test_a_whole_answer", _ID),
    },
    "Chunk": {
        "choices created model system_fingerprint": yes(_WIRE),
        "id": better(_WIRE, _ID),
    },
    "CompletionComplete": {
        "index text": yes(COMPLETIONS + "test_a_whole_answer"),
        "finish_reason": better(COMPAT + "test_endings_of_completions", _REASON),
        "logprobs": better(
            COMPLETIONS + "test_logprobs_in_the_old_shape_also_across_chunks",
            "OpenAI's object, if asked for; always null in TGI",
        ),
    },
    "Usage": {
        "completion_tokens prompt_tokens total_tokens": yes(
            _WIRE, "`prompt_tokens_details` besides, except with `--compat tgi`"
        )
    },
    "Info": {
        "max_input_tokens max_total_tokens model_id router": yes(_OPS + "test_info_is_tgis_object"),
        "max_best_of max_client_batch_size max_concurrent_requests max_stop_sequences": yes(_WIRE),
        "version model_sha": yes(_WIRE),
        "model_pipeline_tag": yes(
            _WIRE,
            "from the model's card on the hub; null for a folder, as in TGI",
            "tests/e2e/test_termination.py::test_a_model_of_the_hub_is_served_by_its_name",
        ),
        "validation_workers": yes(_WIRE, "always TGI's default, 2; nothing here has such workers"),
        "docker_label": yes(
            _OPS + "test_the_image_is_named_if_there_is_one", "null outside of images"
        ),
        "sha": yes(_WIRE, "null, as TGI outside its image"),
    },
    "ModelInfo": {
        "id object owned_by": yes(_OPS + "test_models_lists_the_one_model"),
        "created": better(_OPS + "test_models_lists_the_one_model", "when the server started"),
    },
    "ErrorResponse": {
        "error error_type": yes(
            GENERATE + "test_what_cannot_be_done_is_refused_by_name",
            "under `/v1` OpenAI's object, with `error_type` beside it; TGI's with `--compat tgi`",
        )
    },
    "VertexResponse": {
        "predictions": yes(CLOUDS + "test_vertex_answers_prompts_and_conversations_in_their_order")
    },
    "KServeInferResponse": {"id outputs": yes(_KSERVE)},
}
