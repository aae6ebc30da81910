"""The fields of TGI's requests, object by object. Names of objects and fields are TGI's."""

from __future__ import annotations

from tests.parity.rows import Rows, better, refused, yes

GENERATE = "tests/unit/api/test_generate.py::"
CHAT = "tests/unit/api/test_openai_chat.py::"
COMPLETIONS = "tests/unit/api/test_openai_completions.py::"
GRAMMAR = "tests/unit/api/test_grammar.py::"
PROMPTS = "tests/unit/api/test_tool_prompts.py::"
FORCED = "tests/unit/api/test_forced_calls.py::"
ADAPTERS = "tests/unit/api/test_adapters.py::"
IMAGES = "tests/unit/api/test_images.py::"
CLOUDS = "tests/unit/api/test_clouds.py::"
COMPAT = "tests/unit/api/test_compat.py::"

_SAMPLING = GENERATE + "test_sampling_parameters_arrive_as_they_are_meant"
_REFUSED = GENERATE + "test_what_cannot_be_done_is_refused_by_name"
_CHAT_SAMPLING = CHAT + "test_sampling_fields_arrive_as_they_are_meant"
_COMPLETION_SAMPLING = COMPLETIONS + "test_sampling_fields_arrive_as_they_are_meant"
_CALLS = PROMPTS + "test_earlier_calls_and_their_results_reach_the_template"
_COUNTS = "tests/unit/sampling/test_reference.py::test_frequency_and_presence_count_the_output_only"
_DRAW = "tests/unit/sampling/test_reference.py::test_a_draw_depends_on_seed_and_place_alone"
_STOPS = "tests/unit/text/test_stops.py::test_kept_and_cut"
TIES = "tests/unit/sampling/test_reference.py::test_of_equal_tokens_the_lower_ids_are_listed"
_SHARED = "tests/unit/engine/test_step_engine.py::test_running_sequences_share_their_prompt"
_SEED = "a draw depends on seed and place alone, whatever the device and the neighbours"
_KSERVE = CLOUDS + "test_kserve_generates_a_tensor_of_bytes_for_each"

REQUESTS: dict[str, Rows] = {
    "GenerateRequest": {
        "inputs": yes(GENERATE + "test_generate_answers_with_the_text_alone"),
        "parameters": yes(
            GENERATE + "test_absent_parameters_sample_and_empty_ones_are_greedy",
            "absent samples and `{}` is greedy, as in TGI",
        ),
    },
    "CompatGenerateRequest": {
        "inputs parameters": yes(
            GENERATE + "test_the_root_route_answers_with_a_list_and_the_prompt_in_it"
        ),
        "stream": yes(GENERATE + "test_the_root_route_streams"),
    },
    "GenerateParameters": {
        "adapter_id": better(
            ADAPTERS + "test_adapter_id_chooses_an_adapter",
            "a name that is not there is an error; in TGI it is the base model",
            ADAPTERS + "test_an_unknown_adapter_is_an_error_and_not_the_base_model",
        ),
        "best_of": better(
            GENERATE + "test_the_best_of_several_texts_comes_first",
            "the prompt is computed once, and not once for each text",
            _SHARED,
        ),
        "decoder_input_details": better(
            GENERATE + "test_details_of_the_prompt",
            "always filled; TGI leaves it empty unless the server was started with a flag",
        ),
        "details": yes(GENERATE + "test_details_tell_how_the_text_came_about"),
        "do_sample temperature repetition_penalty top_k top_p typical_p max_new_tokens": yes(
            _SAMPLING
        ),
        "frequency_penalty": better(
            _SAMPLING,
            "counts the output alone; TGI's depends on the neighbours in the batch",
            _COUNTS,
        ),
        "grammar": better(
            GRAMMAR + "test_tgi_grammars",
            "context-free grammars too; a bad one is 422 for its own request alone",
            GRAMMAR + "test_a_grammar_is_examined_before_the_engine_sees_it",
        ),
        "return_full_text": yes(
            GENERATE + "test_the_prompt_is_tokenized_with_special_tokens_and_given_back_if_asked"
        ),
        "seed": better(_SAMPLING, _SEED, _DRAW),
        "stop": better(
            GENERATE + "test_a_text_ends_by_tgis_rules_and_keeps_its_stop_string",
            "also found inside a token; kept in the text, as in TGI",
            _STOPS,
        ),
        "top_n_tokens": better(
            GENERATE + "test_a_stream_without_details_has_none_and_with_top_tokens_has_them",
            "exactly as many; ties make TGI list more",
            TIES,
        ),
        "truncate": yes(
            GENERATE + "test_the_prompt_is_tokenized_with_special_tokens_and_given_back_if_asked"
        ),
        "watermark": yes(
            GENERATE + "test_a_watermark_is_an_adjustment_of_that_name",
            "with the plugin `watermark_kgw`, else refused; other tokens are green than in TGI, "
            "the same on any device",
            "plugins/watermark_kgw/tests/test_detect.py::"
            "test_a_marked_text_is_found_and_an_unmarked_one_is_not",
        ),
    },
    "ChatRequest": {
        "messages": yes(CHAT + "test_a_whole_answer"),
        "model": yes(
            ADAPTERS + "test_model_chooses_an_adapter_if_there_is_one_of_that_name",
            "any name is accepted and given back; that of an adapter chooses it",
        ),
        "frequency_penalty": better(
            _CHAT_SAMPLING,
            "counts the output alone; TGI's depends on the neighbours in the batch",
            _COUNTS,
        ),
        "logit_bias": better(
            _CHAT_SAMPLING,
            "OpenAI's object; a list, which TGI ignores, is ignored and logged with `--compat tgi`",
            COMPAT + "test_biases_without_tokens_mean_nothing_and_the_log_says_so",
        ),
        "logprobs": yes(CHAT + "test_logprobs"),
        "max_tokens": yes(_CHAT_SAMPLING),
        "max_completion_tokens": better(
            _CHAT_SAMPLING, "wins over `max_tokens`; both together are an error in TGI"
        ),
        "n": better(CHAT + "test_several_choices_whole_and_streamed", "TGI ignores it"),
        "presence_penalty": better(
            _CHAT_SAMPLING,
            "OpenAI's; with `--compat tgi` the repetition penalty that TGI makes of it",
            COMPAT + "test_the_presence_penalty_is_a_repetition_penalty",
        ),
        "response_format": better(
            GRAMMAR + "test_openai_response_formats", "OpenAI's shapes besides TGI's"
        ),
        "seed": better(_CHAT_SAMPLING, _SEED, _DRAW),
        "stop": better(
            CHAT + "test_a_stop_string_is_cut_and_never_shown",
            "a text or texts, cut as OpenAI does; kept with `--compat tgi`",
            COMPAT + "test_endings_of_chats",
        ),
        "stream": yes(CHAT + "test_a_stream"),
        "stream_options": better(
            CHAT + "test_neutral_values_of_what_cannot_be_done_are_fine",
            "may be null; also `continuous_usage_stats`",
            CHAT + "test_every_event_can_say_what_it_cost_so_far",
        ),
        "temperature": yes(
            CHAT + "test_unset_temperature_samples_and_zero_is_greedy_whatever_else_is_set"
        ),
        "tool_choice": better(
            FORCED + "test_a_forced_call_has_a_grammar_and_begins_as_the_model_writes_it",
            "`auto` leaves it to the model; a forced call is kept to its schema by a grammar",
        ),
        "tool_prompt": yes(
            PROMPTS + "test_words_of_the_client_are_added_where_the_template_knows_tools"
        ),
        "tools": better(
            PROMPTS + "test_the_template_gets_tools_as_openai_has_them",
            "in the model's own format, with several calls in one answer",
            "tests/unit/api/test_openai_tools.py::test_calls",
        ),
        "top_logprobs": yes(CHAT + "test_logprobs"),
        "top_p": better(_CHAT_SAMPLING, "also 1, OpenAI's default, which TGI refuses"),
    },
    "CompletionRequest": {
        "frequency_penalty": better(
            _COMPLETION_SAMPLING,
            "counts the output alone; TGI's depends on the neighbours in the batch",
            _COUNTS,
        ),
        "max_tokens repetition_penalty temperature": yes(_COMPLETION_SAMPLING),
        "model": yes(
            COMPLETIONS + "test_a_whole_answer",
            "any name is accepted; the answer names the model that is served",
        ),
        "prompt": better(
            COMPLETIONS + "test_every_form_of_prompt",
            "token ids besides texts; choices come in the order of the prompts",
        ),
        "seed": better(_COMPLETION_SAMPLING, _SEED, _DRAW),
        "stop": better(
            COMPLETIONS + "test_a_stop_string_is_cut",
            "a text or texts, cut as OpenAI does; kept with `--compat tgi`",
            COMPAT + "test_endings_of_completions",
        ),
        "stream": yes(COMPLETIONS + "test_a_stream_of_several_prompts"),
        "suffix": refused(
            COMPLETIONS + "test_bad_requests_have_a_status_also_as_streams",
            "TGI refuses it too; its words and `error_type`",
        ),
        "top_p": better(_COMPLETION_SAMPLING, "also 1, OpenAI's default, which TGI refuses"),
    },
    "TextMessage": {
        "content": better(
            CHAT + "test_a_message_cannot_hold_special_tokens",
            "special tokens that a message spells stay text, so it cannot forge a turn",
        ),
        "role": yes(CHAT + "test_a_whole_answer", "any role, as in TGI"),
        "tool_call_id": better(_CALLS, "given to the template; TGI drops it"),
    },
    "ToolCallMessage": {
        "role": yes(_CALLS, "the message may have text besides its calls"),
        "tool_calls": better(_CALLS, "calls as objects for the template; TGI makes text of them"),
    },
    "Message": {
        "name": better(
            PROMPTS + "test_names_of_speakers_reach_the_template",
            "given to the template; TGI drops it",
        ),
    },
    "Url": {
        "url": better(
            IMAGES + "test_images_of_a_chat_stand_where_the_template_puts_them",
            "a data URI, or, from hosts that the operator names, https",
            IMAGES + "test_text_that_spells_a_placeholder_is_text",
            IMAGES + "test_a_text_model_refuses_images_by_name_and_leaves_markdown_alone",
        ),
    },
    "StreamOptions": {"include_usage": yes(CHAT + "test_usage_is_a_chunk_of_its_own_if_asked_for")},
    "Tool": {
        "type function": yes(
            PROMPTS + "test_the_template_gets_tools_as_openai_has_them",
            "OpenAI's object; TGI's names in it are known",
        ),
    },
    "FunctionDefinition": {
        "arguments": yes(
            PROMPTS + "test_tgis_other_name_of_parameters", "also `parameters`; may be left out"
        ),
        "description name": yes(PROMPTS + "test_the_template_gets_tools_as_openai_has_them"),
    },
    "FunctionName": {
        "name": yes(
            FORCED + "test_a_named_tool_is_the_only_one_that_the_model_sees",
            "in OpenAI's object, or as a bare text",
        ),
    },
    "JsonSchemaConfig": {
        "name schema": better(
            GRAMMAR + "test_tgi_grammars",
            "the schema needs no `properties`",
        ),
    },
    "VertexRequest": {
        "instances": better(
            CLOUDS + "test_vertex_samples_unless_told_not_to_and_honours_the_parameters",
            "all parameters count; in TGI `max_new_tokens` and `seed` alone",
        ),
    },
    "KServeInferRequest": {"id inputs outputs parameters": yes(_KSERVE)},
}
