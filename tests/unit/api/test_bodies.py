"""No body of any kind gets past its checks, and no reply tells more than it should."""

from __future__ import annotations

import gzip
import json

import pytest

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("headers", "content", "status", "text"),
    [
        (
            {"content-type": "text/plain"},
            b"{}",
            415,
            "Expected request with `Content-Type: application/json`",
        ),
        ({}, b"{", 400, "Failed to parse the request body as JSON: "),
        ({}, b"", 400, "Failed to parse the request body as JSON: "),
        ({}, b'{"inputs": "\xff"}', 400, "Failed to parse the request body as JSON: "),
        ({}, b'{"inputs": "\\ud800"}', 400, "Failed to parse the request body as JSON: "),
        ({}, b'\xef\xbb\xbf{"inputs": "x"}', 400, "Failed to parse the request body as JSON: "),
        ({}, b'{"inputs": "x"} x', 400, "Failed to parse the request body as JSON: "),
        ({}, b'{"inputs":"x","parameters":{"temperature":NaN}}', 400, "Failed to parse"),
        ({}, b'{"inputs": 1}', 422, "Failed to deserialize the JSON body into the target type: "),
        ({}, b"{}", 422, "type: missing field `inputs`"),
        ({}, b"[]", 422, "Expected `object`, got `array`"),
        ({}, b'{"inputs": "x", "parameters": null}', 422, "type: parameters: Expected"),
        ({}, b'{"inputs": "x", "y": ' + b"[" * 10**5 + b"]" * 10**5 + b"}", 400, "too deeply"),
        ({}, b'{"inputs": "x", "y": ' + b'{"a":' * 10**5 + b"1" + b"}" * 10**5 + b"}", 400, "deep"),
        # nothing is unpacked, so there is no bomb
        ({"content-encoding": "gzip"}, gzip.compress(b" " * 10**7), 400, "Failed to parse"),
        ({}, b'{"inputs": "x"}'.decode().encode("utf-16"), 400, "Failed to parse"),
        ({}, b'{"inputs": "' + b"x" * 2_000_001 + b'"}', 413, "length limit exceeded"),
    ],
)
def test_a_bad_body_is_refused_in_plain_text_as_in_tgi(server, headers, content, status, text):
    reply = server.post("/generate", content, headers=headers)
    assert (reply.status, text in reply.body.decode()) == (status, True)
    assert reply.headers["content-type"].startswith("text/plain")
    assert not server.engine.generations


def test_a_key_of_a_wrong_type_is_named_by_its_place(server):
    reply = server.post("/v1/completions", {"prompt": "x", "logit_bias": {"x": 1}})
    assert reply.json["error"]["message"].endswith("type: logit_bias: Expected `int`, got `str`")


def test_under_v1_a_bad_body_is_an_openai_error(server):
    reply = server.post("/v1/chat/completions", b"{")
    assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "application/x+json"])
def test_other_names_of_json_are_accepted(server, media_type):
    reply = server.post("/generate", {"inputs": "x"}, headers={"content-type": media_type})
    assert reply.status == 200


BAD_VALUES = [-1, 1.5, True, "5", [1], {}, 10**40]


@pytest.mark.parametrize("value", [*BAD_VALUES, 2**32])
@pytest.mark.parametrize("name", ["max_new_tokens", "top_n_tokens"])
def test_wrong_numbers_are_refused_while_decoding(server, name, value):
    reply = server.post("/generate", {"inputs": "x", "parameters": {name: value}})
    assert reply.status == 422
    assert f"target type: parameters.{name}: " in reply.body.decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, v) for name in ("n", "best_of", "top_logprobs", "max_tokens") for v in BAD_VALUES],
        *[("temperature", v) for v in (-1, "1", True, [1])],
        *[("seed", v) for v in (-1, 1.5, "1", 2**64, 10**40)],
        ("top_logprobs", 6),
        ("stop", [1]),
        ("stop", 5),
        ("stop", [""]),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"-1": 1}),
        ("logit_bias", [1]),
        ("logit_bias", {"1": 1e30}),
        ("messages", "x"),
        ("messages", [{"role": "user"}]),
        ("messages", [{"content": "x"}]),
        ("messages", [{"role": 1, "content": "x"}]),
    ],
)
def test_wrong_values_in_chat_requests_are_refused(server, name, value):
    reply = server.post("/v1/chat/completions", CHAT | {name: value})
    assert (reply.status, reply.json["error"]["type"]) == (422, "invalid_request_error")
    assert server.idle and not server.engine.generations


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" * 400, "1" * 10**5])
@pytest.mark.parametrize("name", ["temperature", "max_tokens", "seed", "unknown"])
def test_numbers_beyond_all_bounds_do_no_harm(server, name, number):
    content = json.dumps(CHAT)[:-1] + f', "{name}": {number}}}'
    reply = server.post("/v1/chat/completions", content.encode())
    assert reply.status in ((200, 400) if name == "unknown" else (400, 422))
    assert server.idle


def test_a_prompt_of_every_character_is_answered(server):
    for text in ("\x00", "\u202e\ufeff", "</s><|end|>", " " * 50, "👩‍👩‍👧"):
        assert server.post("/generate", {"inputs": text}).status == 200


def test_of_a_field_that_comes_twice_the_last_one_counts(server):
    content = b'{"inputs": "a", "inputs": "b", "parameters": {"max_new_tokens": 1}}'
    assert server.post("/generate", content).status == 200
    assert server.engine.last.prompt[1:] == tuple(
        server.tokenizer.encode("b", add_special_tokens=False)
    )
