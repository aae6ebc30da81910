"""TGI's own routes answer as TGI does, key by key."""

from __future__ import annotations

import pytest


def token(server, char, logprob=-0.25):
    (token_id,) = server.tokenizer.encode(char, add_special_tokens=False)
    return {"id": token_id, "text": char, "logprob": logprob, "special": char == "</s>"}


def test_generate_answers_with_the_text_alone(server):
    reply = server.post("/generate", {"inputs": "Hi", "parameters": {}})
    assert (reply.status, reply.body) == (200, b'{"generated_text":"Hello"}')
    assert reply.headers["content-type"] == "application/json"
    assert server.idle


def test_details_tell_how_the_text_came_about(server):
    server.says("ab")
    body = {"inputs": "Hi", "parameters": {"details": True, "top_n_tokens": 1}}
    details = server.post("/generate", body).json["details"]
    assert list(details) == [
        "finish_reason",
        "generated_tokens",
        "seed",
        "prefill",
        "tokens",
        "top_tokens",
    ]
    assert details["finish_reason"] == "eos_token"
    assert (details["generated_tokens"], details["seed"], details["prefill"]) == (3, None, [])
    assert details["tokens"] == [token(server, c) for c in ("a", "b", "</s>")]
    assert [[t["logprob"] for t in tops] for tops in details["top_tokens"]] == [[-0.5]] * 3


def test_the_headers_say_what_it_cost(server):
    headers = server.post("/generate", {"inputs": "Hé", "parameters": {}}).headers
    assert headers["x-compute-type"] == "1-script"
    assert headers["x-compute-characters"] == "2"
    assert (headers["x-prompt-tokens"], headers["x-generated-tokens"]) == ("4", "6")
    assert headers["x-queue-time"] == "500"
    float(headers["x-compute-time"])
    for name in ("total", "validation", "inference"):
        int(headers[f"x-{name}-time"])
    int(headers["x-time-per-token"])


def test_absent_parameters_sample_and_empty_ones_are_greedy(server):
    server.post("/generate", {"inputs": "Hi"})
    assert server.engine.last.sampling.temperature == 1.0
    server.post("/generate", {"inputs": "Hi", "parameters": {}})
    assert server.engine.last.sampling.temperature == 0.0


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_sampling_parameters_arrive_as_they_are_meant(server, path):
    parameters = {
        "do_sample": True,
        "temperature": 0.5,
        "repetition_penalty": 1.2,
        "frequency_penalty": -0.5,
        "top_k": 7,
        "top_p": 0.9,
        "typical_p": 0.8,
        "max_new_tokens": 3,
        "seed": 2**64 - 1,
        "top_n_tokens": 4,
    }
    assert server.post(path, {"inputs": "Hi", "parameters": parameters}).status == 200
    request = server.engine.last
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.5, 7, 0.9)
    assert (sampling.typical_p, sampling.repetition_penalty) == (0.8, 1.2)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (-0.5, 0)
    assert (sampling.seed, sampling.num_top) == (2**64 - 1, 4)
    assert request.stop.max_new_tokens == 3
    server.post(path, {"inputs": "Hi", "parameters": {"do_sample": True}})
    assert not server.engine.last.sampling.greedy
    server.post(path, {"inputs": "Hi", "parameters": {"do_sample": False}})
    assert server.engine.last.sampling.greedy


@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_a_watermark_is_an_adjustment_of_that_name(marking, path):
    for wanted, adjustments in ((True, ("watermark",)), (False, ())):
        body = {"inputs": "Hi", "parameters": {"watermark": wanted}}
        assert marking.post(path, body).status == 200
        assert marking.engine.last.sampling.adjustments == adjustments


def test_two_unseeded_requests_get_different_seeds(server):
    seeds = set()
    for _ in range(2):
        server.post("/generate", {"inputs": "Hi"})
        seeds.add(server.engine.last.sampling.seed)
    assert len(seeds) == 2


def test_the_prompt_is_tokenized_with_special_tokens_and_given_back_if_asked(server):
    body = {"inputs": "Hi", "parameters": {"return_full_text": True, "truncate": 2}}
    assert server.post("/generate", body).json == {"generated_text": "HiHello"}
    assert len(server.engine.last.prompt) == 2
    server.post("/generate", {"inputs": "Hi"})
    assert server.engine.last.prompt[0] == server.tokenizer.encode("", add_special_tokens=True)[0]


@pytest.mark.parametrize(
    ("parameters", "text", "reason"),
    [
        ({"stop": ["lo"]}, "Hello", "stop_sequence"),
        ({"stop": ["ell"]}, "Hell", "stop_sequence"),
        ({"max_new_tokens": 2}, "He", "length"),
        ({"max_new_tokens": 3, "stop": ["l"]}, "Hel", "length"),
        ({}, "Hello", "eos_token"),
    ],
)
def test_a_text_ends_by_tgis_rules_and_keeps_its_stop_string(server, parameters, text, reason):
    body = {"inputs": "Hi", "parameters": {"details": True, **parameters}}
    answer = server.post("/generate", body).json
    assert (answer["generated_text"], answer["details"]["finish_reason"]) == (text, reason)
    assert server.idle


def test_a_stream_is_one_event_a_token(server):
    server.says("ab")
    reply = server.post("/generate_stream", {"inputs": "Hi", "parameters": {"details": True}})
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/event-stream"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    first, second, last = reply.events
    assert list(first) == ["index", "token", "generated_text", "details"]
    assert first == {
        "index": 1,
        "token": token(server, "a"),
        "generated_text": None,
        "details": None,
    }
    assert (second["index"], second["token"]) == (2, token(server, "b"))
    assert last == {
        "index": 3,
        "token": token(server, "</s>"),
        "generated_text": "ab",
        "details": {
            "finish_reason": "eos_token",
            "generated_tokens": 3,
            "seed": None,
            "input_length": 3,
        },
    }
    assert server.idle


def test_a_stream_without_details_has_none_and_with_top_tokens_has_them(server):
    body = {"inputs": "Hi", "parameters": {"top_n_tokens": 2, "max_new_tokens": 1}}
    (only,) = server.post("/generate_stream", body).events
    assert list(only) == ["index", "token", "top_tokens", "generated_text", "details"]
    assert (len(only["top_tokens"]), only["details"]) == (2, None)


def test_streamed_tokens_add_up_to_the_text_also_behind_a_stop_string_and_in_unicode(server):
    server.says("naïve 😀 end here")
    body = {"inputs": "Hi", "parameters": {"stop": ["end"]}}
    events = server.post("/generate_stream", body).events
    texts = [event["token"]["text"] for event in events]
    assert "".join(texts) == events[-1]["generated_text"] == "naïve 😀 end"
    assert not any("\ufffd" in text for text in texts)


def test_the_root_route_answers_with_a_list_and_the_prompt_in_it(server):
    assert server.post("/", {"inputs": "Hi"}).json == [{"generated_text": "HiHello"}]
    off = {"inputs": "Hi", "parameters": {"return_full_text": False}}
    assert server.post("/", off).json == [{"generated_text": "Hello"}]


def test_the_root_route_streams(server):
    events = server.post("/", {"inputs": "Hi", "stream": True}).events
    assert events[-1]["generated_text"] == "HiHello"


def test_tokenize_gives_the_bytes_of_each_token(server):
    answer = server.post("/tokenize", {"inputs": "aé"}).json
    assert [(t["text"], t["start"], t["stop"]) for t in answer] == [
        ("", 0, 0),
        ("a", 0, 1),
        ("é", 1, 3),
        ("é", 1, 3),
    ]
    assert list(answer[0]) == ["id", "text", "start", "stop"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"watermark": True}, "`watermark` is not supported by this server"),
        ({"best_of": 3, "do_sample": True}, "`best_of` must be > 0 and <= 2. Given: 3"),
        ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
        (
            {"best_of": 2, "top_k": 5, "seed": 1},
            "`seed` must not be set when `best_of` > 1",
        ),
        ({"temperature": 0}, "`temperature` must be strictly positive"),
        ({"seed": 2**64}, "`seed` must be >= 0 and <= 18446744073709551615"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(server, parameters, message):
    reply = server.post("/generate", {"inputs": "Hi", "parameters": parameters})
    assert reply.status == 422
    assert reply.json == {
        "error": f"Input validation error: {message}",
        "error_type": "validation",
    }
    assert server.idle and not server.engine.generations


def test_the_best_of_several_texts_comes_first(server):
    server.says_in_turn(("bad", -2.0), ("good", -0.5))
    parameters = {"best_of": 2, "do_sample": True, "details": True, "top_n_tokens": 1}
    parameters |= {"decoder_input_details": True, "return_full_text": True}
    reply = server.post("/generate", {"inputs": "Hi", "parameters": parameters})
    answer = reply.json
    details = answer["details"]
    [other] = details["best_of_sequences"]
    assert (answer["generated_text"], other["generated_text"]) == ("Higood", "Hibad")
    assert {*other} == {*details, "generated_text"} - {"best_of_sequences"}
    assert [token["logprob"] for token in other["tokens"]] == [-2.0] * 4
    assert len(other["top_tokens"]) == other["generated_tokens"] == 4
    assert other["prefill"] == details["prefill"]
    assert other["seed"] != details["seed"]
    assert reply.headers["x-generated-tokens"] == "5"
    assert reply.headers["x-prompt-tokens"] == "3"
    assert server.idle


def test_the_best_text_alone_is_given_without_details(server):
    server.says_in_turn(("bad", -2.0), ("good", -0.5))
    body = {"inputs": "Hi", "parameters": {"best_of": 2, "temperature": 0.5}}
    assert server.post("/generate", body).json == {"generated_text": "good"}


def test_best_of_needs_a_permit_for_each_sequence(server):
    body = {"inputs": "Hi", "parameters": {"best_of": 2, "temperature": 0.5}}
    with server.service.admission.permits(7):
        reply = server.post("/generate", body)
    assert (reply.status, reply.json["error_type"]) == (429, "overloaded")
    assert server.idle and not server.engine.generations


def test_details_of_the_prompt(server):
    body = {"inputs": "Hi", "parameters": {"decoder_input_details": True, "truncate": 2}}
    details = server.post("/generate", body).json["details"]
    assert [(t["text"], t["logprob"]) for t in details["prefill"]] == [("H", None), ("i", -0.125)]
    assert list(details["prefill"][0]) == ["id", "text", "logprob"]
    assert [token["text"] for token in details["tokens"]] == [*"Hello", "</s>"]


def test_a_prompt_of_one_token_has_details_too(server):
    body = {"inputs": "Hi", "parameters": {"decoder_input_details": True, "truncate": 1}}
    [token] = server.post("/generate", body).json["details"]["prefill"]
    assert (token["text"], token["logprob"]) == ("i", None)


def test_neutral_values_of_what_cannot_be_done_are_fine(server):
    parameters = {"grammar": None, "adapter_id": None, "watermark": False, "best_of": 1}
    parameters |= {"decoder_input_details": False, "unknown": 1, "max_new_tokens": None}
    reply = server.post("/generate", {"inputs": "Hi", "parameters": parameters, "other": []})
    assert reply.status == 200


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"inputs": "Hi", "parameters": {"best_of": 0}},
            "`best_of` != 1 is not supported when streaming tokens",
        ),
        (
            {"inputs": "Hi", "parameters": {"decoder_input_details": True}},
            "`decoder_input_details` == true is not supported when streaming tokens",
        ),
        ({"inputs": ""}, "`inputs` cannot be empty"),
        ({"inputs": "x" * 100}, "`inputs` must have less than 100 tokens. Given: 101"),
    ],
)
def test_a_stream_reports_bad_requests_as_an_event(server, body, message):
    reply = server.post("/generate_stream", body)
    assert reply.status == 200
    assert reply.events == [
        {"error": f"Input validation error: {message}", "error_type": "validation"}
    ]
    assert reply.ended and server.idle
