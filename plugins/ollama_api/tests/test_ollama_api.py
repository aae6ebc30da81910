"""Ollama's API: what is asked of the chat route, and what the client gets."""

from __future__ import annotations

import json
from itertools import count

import numpy as np
import pytest
from tgi_plugin_ollama_api.answer import Answer as Lines
from tgi_plugin_ollama_api.plugin import tgi_routes

from tgi_core.contract import ChatDelta, Embedded, ToolCallDelta
from tgi_core.errors import GenerationError, NotReady, Overloaded, ValidationError
from tgi_core.testing.dialects import USAGE, Answer, ScriptedChatServer, ask

[DIALECT] = tgi_routes()
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
PROMPT = {"model": "m", "prompt": "Hi"}
ROUTES = [("/api/chat", CHAT), ("/api/generate", PROMPT)]
HELLO = (
    ChatDelta(reasoning="Hm."),
    ChatDelta(text="Hel"),
    ChatDelta(text="lo", finish_reason="stop"),
    ChatDelta(usage=USAGE),
)
DURATIONS = ("total_duration", "load_duration", "prompt_eval_duration", "eval_duration")


def post(path, body, *script, **more) -> tuple[Answer, ScriptedChatServer]:
    server = ScriptedChatServer(script or HELLO)
    return ask(DIALECT, "POST", path, body | more, server=server), server


def lines(answer: Answer) -> list[dict]:
    assert answer.media_type == "application/x-ndjson"
    return [json.loads(line) for line in answer.body.decode().splitlines()]


def asked(**more) -> dict:
    """What the chat route is asked for."""
    answer, server = post("/api/chat", CHAT, **more)
    assert answer.status == 200, answer.body
    [body] = server.chats
    return body


def without_times(line: dict) -> dict:
    return {name: v for name, v in line.items() if name not in (*DURATIONS, "created_at")}


def test_a_chat_is_streamed_unless_it_must_not():
    answer, _ = post("/api/chat", CHAT)
    *parts, last = lines(answer)
    assert [part["message"] for part in parts] == [
        {"role": "assistant", "content": "", "thinking": "Hm."},
        {"role": "assistant", "content": "Hel"},
        {"role": "assistant", "content": "lo"},
    ]
    assert not any(part["done"] for part in parts)
    assert without_times(last) == {
        "model": "m",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 12,
        "eval_count": 5,
    }
    answer, _ = post("/api/chat", CHAT, stream=False)
    assert answer.media_type == "application/json; charset=utf-8"
    assert without_times(answer.json) == without_times(last) | {
        "message": {"role": "assistant", "content": "Hello", "thinking": "Hm."}
    }


def test_a_completion_has_a_response_instead_of_a_message():
    *parts, last = lines(post("/api/generate", PROMPT)[0])
    assert [(part["response"], part.get("thinking")) for part in parts] == [
        ("", "Hm."),
        ("Hel", None),
        ("lo", None),
    ]
    whole = post("/api/generate", PROMPT, stream=False)[0].json
    assert without_times(whole) == without_times(last) | {"response": "Hello", "thinking": "Hm."}
    assert "message" not in whole


def test_durations_are_nanoseconds_that_add_up():
    ticks = count(100, 10)
    answer = Lines("m", chat=True, clock=lambda: next(ticks))
    for delta in HELLO:
        answer.push(delta)
    [last] = answer.finish()
    assert (last.prompt_eval_duration, last.eval_duration) == (10, 10)
    assert (last.total_duration, last.load_duration) == (20, 0)


def test_a_call_is_told_when_it_is_complete():
    script = (
        ChatDelta(tool_calls=(ToolCallDelta(index=0, id="a", name="look", arguments='{"x"'),)),
        ChatDelta(tool_calls=(ToolCallDelta(index=0, arguments=": 1}"),)),
        ChatDelta(tool_calls=(ToolCallDelta(index=1, id="b", name="go"),)),
        ChatDelta(finish_reason="tool_calls"),
        ChatDelta(usage=USAGE),
    )
    calls = [
        {"function": {"name": "look", "arguments": {"x": 1}}},
        {"function": {"name": "go", "arguments": {}}},
    ]
    one, two, last = lines(post("/api/chat", CHAT, *script)[0])
    assert [one["message"]["tool_calls"], two["message"]["tool_calls"]] == [calls[:1], calls[1:]]
    assert last["done_reason"] == "stop"
    assert post("/api/chat", CHAT, *script, stream=False)[0].json["message"]["tool_calls"] == calls


def test_the_number_of_tokens_is_a_reason():
    script = (ChatDelta(text="x", finish_reason="length"), ChatDelta(usage=USAGE))
    assert post("/api/chat", CHAT, *script, stream=False)[0].json["done_reason"] == "length"


def test_options_reach_the_chat_route():
    options = {
        "num_predict": 7,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.1,
        "seed": 3,
        "stop": ["a"],
        "repeat_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "num_ctx": 2048,
        "mirostat": 0,
    }
    assert asked(options=options, keep_alive="5m", think=False) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "min_p": 0.1,
        "seed": 3,
        "stop": ["a"],
        "repetition_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
    }
    bare = {"model": "m", "messages": CHAT["messages"]}
    neutral = {"num_predict": -1, "seed": -1, "stop": [], "min_p": 0.0, "repeat_penalty": 0}
    assert asked(options=neutral, format="") == asked(options=None) == bare


def test_no_more_tokens_are_asked_for_than_the_context_has():
    for path, body in ROUTES:
        server = ScriptedChatServer(HELLO, num_prompt_tokens=1000)
        ask(DIALECT, "POST", path, body | {"options": {"num_predict": 500}}, server=server)
        assert server.chats[0]["max_tokens"] == 24


def test_formats_are_translated():
    assert asked(format="json")["response_format"] == {"type": "json_object"}
    wanted = {"name": "answer", "schema": {"type": "object"}}
    translated = {"type": "json_schema", "json_schema": wanted}
    assert asked(format={"type": "object"})["response_format"] == translated


def test_a_conversation_with_tools_is_translated():
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    calls = [
        {"function": {"name": "look", "arguments": {"x": "ä"}}},
        {"function": {"name": "go", "arguments": {}}},
    ]
    turns = [
        {"role": "user", "content": "Look!"},
        {"role": "assistant", "thinking": "Hm.", "tool_calls": calls},
        {"role": "tool", "tool_name": "go", "content": "gone"},
        {"role": "tool", "content": "seen"},
    ]
    body = asked(messages=turns, tools=[tool])
    assert body["tools"] == [tool]
    look = {"name": "look", "arguments": '{"x": "ä"}'}
    assert body["messages"] == [
        {"role": "user", "content": "Look!"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "Hm.",
            "tool_calls": [
                {"id": "call_0", "type": "function", "function": look},
                {"id": "call_1", "type": "function", "function": {"name": "go", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "content": "gone", "tool_call_id": "call_1"},
        {"role": "tool", "content": "seen", "tool_call_id": "call_0"},
    ]


def test_a_prompt_is_a_conversation_unless_it_is_raw():
    _, server = post("/api/generate", PROMPT, system="You help.")
    turns = [{"role": "system", "content": "You help."}, {"role": "user", "content": "Hi"}]
    assert server.chats == [{"messages": turns, "model": "m"}]
    answer, server = post("/api/generate", PROMPT, raw=True, stream=False)
    assert (server.chats, server.completions) == ([], [{"prompt": "Hi", "model": "m"}])
    assert answer.json["response"] == "Hello"


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/api/chat", {"model": "m"}, "message"),
        ("/api/chat", {"model": "m", "messages": []}, "message"),
        ("/api/generate", {"model": "m"}, "response"),
        ("/api/generate", {"model": "m", "prompt": ""}, "response"),
    ],
)
def test_nobodys_question_tells_that_the_model_is_there(path, body, name):
    answer, server = post(path, body)
    assert answer.json["done"] and answer.json["done_reason"] == "load" and name in answer.json
    assert not server.chats
    assert post(path, body, keep_alive=0)[0].json["done_reason"] == "unload"


def test_the_served_model_is_listed_shown_and_running():
    server = ScriptedChatServer()
    [tag] = ask(DIALECT, "GET", "/api/tags", server=server).json["models"]
    [running] = ask(DIALECT, "GET", "/api/ps", server=server).json["models"]
    assert tag["name"] == tag["model"] == running["name"] == "org/model"
    assert tag["digest"] == running["digest"] and len(tag["digest"]) == 64
    assert running["context_length"] == 1024
    shown = ask(DIALECT, "POST", "/api/show", {"model": "other"}, server=server).json
    info = shown["model_info"]
    assert info[f"{info['general.architecture']}.context_length"] == 1024
    assert shown["template"] == "{{ messages }}"
    assert shown["capabilities"] == ["completion", "embedding"]
    assert ask(DIALECT, "GET", "/api/version").json["version"].count(".") == 2


def test_images_come_before_the_text():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    wanted = [{"role": "user", "content": [image, {"type": "text", "text": "What?"}]}]
    message = {"role": "user", "content": "What?", "images": ["aGk="]}
    for path, change in (
        ("/api/chat", {"messages": [message]}),
        ("/api/generate", {"prompt": "What?", "images": ["aGk="]}),
    ):
        _, server = post(path, dict(ROUTES)[path], **change)
        assert server.chats[0]["messages"][-1:] == wanted


@pytest.mark.parametrize(
    ("path", "change", "named"),
    [
        ("/api/chat", {"messages": [{"role": "tool", "content": "x"}]}, "answers no call"),
        ("/api/chat", {"messages": [{"content": "x"}]}, "role"),
        ("/api/chat", {"format": "yaml"}, "`format`"),
        ("/api/chat", {"logprobs": True}, "`logprobs`"),
        ("/api/chat", {"options": {"temperature": "hot"}}, "temperature"),
        ("/api/generate", {"images": ["aGk="], "raw": True}, "`images with raw`"),
        ("/api/generate", {"suffix": "x"}, "`suffix`"),
        ("/api/generate", {"template": "x"}, "`template`"),
        ("/api/generate", {"context": [1]}, "`context`"),
    ],
)
def test_bad_input_is_named(path, change, named):
    answer, server = post(path, dict(ROUTES)[path], **change)
    assert answer.status == 400 and not server.chats
    assert list(answer.json) == ["error"] and named in answer.json["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": 1}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
def test_a_body_that_is_no_request_is_refused(path, body):
    answer = ask(DIALECT, "POST", path, body)
    assert answer.status == 400 and "body" in answer.json["error"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValidationError("no"), 400),
        (Overloaded("full"), 429),
        (NotReady("wait"), 503),
        (GenerationError("bad luck"), 500),
        (RuntimeError("secret"), 500),
    ],
)
@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_their_status(path, body, error, status, stream):
    answer, _ = post(path, body, error, stream=stream)
    assert answer.status == status and list(answer.json) == ["error"]
    assert b"secret" not in answer.body


def test_an_error_in_the_middle_of_a_stream_is_a_line():
    *_, last = lines(post("/api/chat", CHAT, ChatDelta(text="a"), GenerationError("bad luck"))[0])
    assert list(last) == ["error"] and "bad luck" in last["error"]


VECTORS = np.array([[3, 4, 0, 0], [0, 0, 2, 0]], np.float32)


def embed(path: str, **body) -> tuple[Answer, ScriptedChatServer]:
    server = ScriptedChatServer(embedded=Embedded(vectors=VECTORS, num_tokens=9))
    return ask(DIALECT, "POST", path, {"model": "m"} | body, server=server), server


def test_embed_gives_vectors_of_length_1():
    answer, server = embed("/api/embed", input=["a", "b"])
    np.testing.assert_allclose(answer.json["embeddings"], [[0.6, 0.8, 0, 0], [0, 0, 1, 0]])
    assert answer.json["model"] == "m" and answer.json["prompt_eval_count"] == 9
    assert server.embedded_inputs == [(["a", "b"], True)]
    _, server = embed("/api/embed", input="a", truncate=False)
    assert server.embedded_inputs == [(["a"], False)]
    assert len(embed("/api/embed", input="a", dimensions=2)[0].json["embeddings"][0]) == 2
    assert embed("/api/embed", input="a", dimensions=5)[0].status == 400


def test_the_older_route_gives_one_vector_as_it_is():
    answer, server = embed("/api/embeddings", prompt="a")
    assert answer.json == {"embedding": [3, 4, 0, 0]}
    assert server.embedded_inputs == [(["a"], True)]


@pytest.mark.parametrize(
    ("path", "empty"), [("/api/embed", "embeddings"), ("/api/embeddings", "embedding")]
)
def test_embedding_nothing_is_about_loading_the_model(path, empty):
    answer, server = embed(path)
    assert answer.status == 200 and answer.json[empty] == [] and not server.embedded_inputs
