"""`--compat tgi`: the routes under /v1 answer in TGI's shapes. The others always do."""

from __future__ import annotations

import pytest

from tgi_core.config.settings import Compat
from tgi_core.contract import Dialect, HttpReply, RequestFailed, Route, TokenEvent

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
STREAM = {"stream": True}


@pytest.fixture
def tgi(server):
    return server.with_options(compat=Compat.TGI)


def chunks(reply):
    *events, done = reply.events
    assert done == "[DONE]"
    return events


def test_a_chat_answer(tgi):
    reply = tgi.post("/v1/chat/completions", CHAT | {"logprobs": True, "max_tokens": 1}).json
    created, fingerprint = reply.pop("created"), reply.pop("system_fingerprint")
    assert isinstance(created, int) and isinstance(fingerprint, str)
    assert reply == {
        "id": "",
        "object": "chat.completion",
        "model": "org/model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "H"},
                "logprobs": {"content": [{"token": "H", "logprob": -0.25, "top_logprobs": []}]},
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 19, "completion_tokens": 1, "total_tokens": 20},
    }


@pytest.mark.parametrize(
    ("more", "reason", "text"),
    [
        ({}, "stop", "Hello"),
        ({"max_tokens": 2}, "length", "He"),
        ({"stop": ["ll"]}, "stop_sequence", "Hell"),
    ],
)
def test_endings_of_chats(tgi, more, reason, text):
    [choice] = tgi.post("/v1/chat/completions", CHAT | more).json["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == (reason, text)
    events = chunks(tgi.post("/v1/chat/completions", CHAT | more | STREAM))
    assert "".join(e["choices"][0]["delta"]["content"] for e in events) == text
    assert [e["choices"][0]["finish_reason"] for e in events] == [None] * (len(events) - 1) + [
        reason
    ]


def test_each_chunk_of_a_chat_says_who_speaks_and_has_all_keys(tgi):
    tgi.says("ab")
    body = CHAT | STREAM | {"logprobs": True, "top_logprobs": 1}
    events = chunks(tgi.post("/v1/chat/completions", body | {"stream_options": {}}))
    assert [e["choices"][0]["delta"] for e in events] == [
        {"role": "assistant", "content": text} for text in ("a", "b", "")
    ]
    for event in events:
        assert (event["id"], event["usage"]) == ("", None)
        assert set(event["choices"][0]) == {"index", "delta", "logprobs", "finish_reason"}
        [token] = event["choices"][0]["logprobs"]["content"]
        assert set(token) == {"token", "logprob", "top_logprobs"}
        assert set(token["top_logprobs"][0]) == {"token", "logprob"}


def test_usage_comes_in_a_chunk_of_its_own_if_wanted(tgi):
    body = CHAT | STREAM | {"stream_options": {"include_usage": True}}
    last = chunks(tgi.post("/v1/chat/completions", body))[-1]
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 19, "completion_tokens": 6, "total_tokens": 25}


@pytest.mark.parametrize(
    ("more", "reason", "raw", "text"),
    [
        ({}, "stop", "eos_token", "Hello"),
        ({"max_tokens": 2}, "length", "length", "He"),
        ({"stop": ["ll"]}, "stop_sequence", "stop_sequence", "Hell"),
    ],
)
def test_endings_of_completions(tgi, more, reason, raw, text):
    body = {"prompt": "x"} | more
    reply = tgi.post("/v1/completions", body).json
    [choice] = reply["choices"]
    assert reply["id"] == ""
    assert choice == {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    assert set(reply["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    events = chunks(tgi.post("/v1/completions", body | STREAM))
    assert "".join(e["choices"][0]["text"] for e in events) == text
    reasons = [e["choices"][0]["finish_reason"] for e in events]
    assert reasons == [""] * (len(events) - 1) + [raw]
    assert ["usage" in e for e in events] == [False] * (len(events) - 1) + [True]
    assert events[-1]["usage"]["completion_tokens"] == reply["usage"]["completion_tokens"]


def test_each_prompt_of_a_stream_ends_with_its_own_usage(tgi):
    body = {"prompt": ["a", "bcd"], "max_tokens": 3} | STREAM
    events = chunks(tgi.post("/v1/completions", body))
    costs = {e["choices"][0]["index"]: e["usage"] for e in events if "usage" in e}
    assert {index: cost["prompt_tokens"] for index, cost in costs.items()} == {0: 2, 1: 4}


def test_what_tgi_ignores_is_done(tgi):
    more = {"n": 2, "best_of": 3, "echo": True, "logprobs": 1, "presence_penalty": 1.5}
    choices = tgi.post("/v1/completions", {"prompt": "x"} | more).json["choices"]
    assert [choice["text"] for choice in choices] == ["xHello"] * 2
    assert choices[0]["logprobs"]["tokens"][:2] == ["<s>", "x"]
    assert tgi.engine.last.sampling.presence_penalty == 1.5
    assert len(tgi.post("/v1/chat/completions", CHAT | {"n": 2}).json["choices"]) == 2
    events = chunks(tgi.post("/v1/completions", {"prompt": "x", "n": 2} | STREAM))
    assert [e["choices"][0]["index"] for e in events if "usage" in e] == [0, 1]


def test_biases_without_tokens_mean_nothing_and_the_log_says_so(tgi, server, caplog):
    assert tgi.post("/v1/chat/completions", CHAT | {"logit_bias": []}).status == 200
    assert not caplog.messages
    assert tgi.post("/v1/chat/completions", CHAT | {"logit_bias": [0.5, -1]}).status == 200
    assert "`logit_bias` is a list" in caplog.text
    assert tgi.engine.last.sampling.logit_bias == ()
    assert tgi.post("/v1/chat/completions", CHAT | {"logit_bias": {"7": 2}}).status == 200
    assert tgi.engine.last.sampling.logit_bias == ((7, 2),)


def test_without_it_biases_without_tokens_are_refused(server):
    assert server.post("/v1/chat/completions", CHAT | {"logit_bias": []}).status == 200
    reply = server.post("/v1/chat/completions", CHAT | {"logit_bias": [0.5]})
    assert (reply.status, server.engine.last.sampling.logit_bias) == (422, ())
    assert "`logit_bias` must be an object" in reply.json["error"]["message"]


@pytest.mark.parametrize("penalty", [0, 0.5, -1])
def test_the_presence_penalty_is_a_repetition_penalty(tgi, penalty):
    tgi.post("/v1/chat/completions", CHAT | {"presence_penalty": penalty})
    sampling = tgi.engine.last.sampling
    assert (sampling.repetition_penalty, sampling.presence_penalty) == (penalty + 2, 0)


def test_the_lowest_presence_penalty_is_refused_for_what_it_becomes(tgi):
    reply = tgi.post("/v1/chat/completions", CHAT | {"presence_penalty": -2})
    assert (reply.status, reply.json["error_type"]) == (422, "validation")
    assert "`repetition_penalty` must be strictly positive" in reply.json["error"]


def test_errors_have_tgis_body(tgi):
    reply = tgi.post("/v1/chat/completions", CHAT | {"top_p": 3})
    assert (reply.status, set(reply.json)) == (422, {"error", "error_type"})
    reply = tgi.post("/v1/completions", {"prompt": "x", "suffix": "y"})
    assert reply.json["error_type"] == "suffix not supported"
    reply = tgi.post("/v1/completions", b"{")
    assert (reply.status, reply.headers["content-type"]) == (400, "text/plain; charset=utf-8")
    assert tgi.get("/v1/models/other").json["error_type"] == "model_not_found"


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": "x"})]
)
def test_a_stream_begins_before_anything_is_checked(tgi, path, body):
    refused = tgi.post(path, body | STREAM | {"top_p": 3})
    assert (refused.status, chunks(refused)) == (
        200,
        [
            {
                "error": {
                    "message": "Input validation error: `top_p` must be > 0.0 and < 1.0",
                    "http_status_code": 422,
                }
            }
        ],
    )
    with tgi.service.admission.permits(8):
        full = tgi.post(path, body | STREAM)
    assert full.status == 200
    message = {"message": "Model is overloaded", "http_status_code": 422}
    assert chunks(full) == [{"error": message}]
    assert tgi.idle


def test_an_error_inside_a_stream_has_tgis_status(tgi):
    def breaks(request):
        token = TokenEvent(request_id=request.request_id, tokens=(5,))
        return [(token,), (RequestFailed(request_id=request.request_id, message="no luck"),)]

    tgi.engine.script = breaks
    events = chunks(tgi.post("/v1/chat/completions", CHAT | STREAM))
    assert events[1]["error"]["http_status_code"] == 422


def test_what_fails_before_a_stream_is_a_status(tgi):
    assert tgi.post("/v1/completions", {"prompt": "x", "suffix": "y"} | STREAM).status == 422
    assert tgi.post("/v1/completions", {"prompt": ["x"] * 5} | STREAM).status == 422


def test_dialects_of_plugins_are_not_touched(server):
    async def answer(request, chat_server):
        deltas = [delta async for delta in chat_server.chat(CHAT | {"stop": ["ll"]})]
        text = "".join(delta.text for delta in deltas)
        reasons = [delta.finish_reason for delta in deltas if delta.finish_reason]
        return HttpReply(body=f"{text} {reasons} {deltas[-1].usage.cached}".encode())

    def failure(failure):
        return HttpReply(body=b"", status=failure.status)

    route = Route(method="POST", path="/odd", handler=answer)
    dialect = Dialect(name="odd", contract=(1, 0), failure=failure, routes=[route])
    server.with_options(dialects=[dialect], compat=Compat.TGI)
    assert server.post("/odd", {}).body == b"He ['stop'] 3"


def test_without_it_a_stop_string_is_cut_and_named(server):
    body = {"prompt": "x", "stop": ["ll"]}
    [choice] = server.post("/v1/completions", body).json["choices"]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("He", "stop", "ll")
    last = chunks(server.post("/v1/completions", body | STREAM))[-1]["choices"][0]
    assert (last["finish_reason"], last["stop_reason"]) == ("stop", "ll")
