"""The Responses API: what is asked of the chat route, and what the client gets."""

from __future__ import annotations

import json
import re

import pytest
from tgi_plugin_responses_api.plugin import tgi_routes

from tgi_core.contract import ChatDelta, ToolCallDelta
from tgi_core.errors import GenerationError, NotReady, Overloaded, ValidationError
from tgi_core.testing.dialects import USAGE, Answer, ScriptedChatServer, ask

[DIALECT] = tgi_routes()
HI = {"model": "m", "input": "Hi"}
HELLO = (
    ChatDelta(text="Hel"),
    ChatDelta(text="lo", finish_reason="stop"),
    ChatDelta(usage=USAGE),
)
CUT = (ChatDelta(text="Hel", finish_reason="length"), ChatDelta(usage=USAGE))
WITH_TOOLS = (
    ChatDelta(reasoning="Let me "),
    ChatDelta(reasoning="see."),
    ChatDelta(text="I look."),
    ChatDelta(tool_calls=(ToolCallDelta(index=0, id="a", name="look", arguments='{"x"'),)),
    ChatDelta(tool_calls=(ToolCallDelta(index=0, arguments=": 1}"),)),
    ChatDelta(tool_calls=(ToolCallDelta(index=1, id="b", name="go", arguments="{}"),)),
    ChatDelta(finish_reason="tool_calls"),
    ChatDelta(usage=USAGE),
)


def post(*script, **more) -> tuple[Answer, ScriptedChatServer]:
    server = ScriptedChatServer(script or HELLO)
    return ask(DIALECT, "POST", "/v1/responses", HI | more, server=server), server


def asked(**more) -> dict:
    """What the chat route is asked for."""
    answer, server = post(**more)
    assert answer.status == 200, answer.body
    [body] = server.chats
    return body


def events(answer: Answer) -> list[dict]:
    found = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        match = re.fullmatch(r"event: ([\w.]+)\ndata: (.*)", block)
        assert match, block
        found.append(json.loads(match[2]))
        assert found[-1]["type"] == match[1]
    return found


def without_ids(value: object) -> object:
    """The same without what differs from answer to answer."""
    match value:
        case dict():
            changing = ("id", "item_id", "created_at", "completed_at")
            return {name: without_ids(v) for name, v in value.items() if name not in changing}
        case list():
            return [without_ids(item) for item in value]
        case _:
            return value


def test_a_whole_response():
    answer, _ = post(instructions="Help.", temperature=0.5, metadata={"a": "b"}, user="u")
    response = answer.json
    assert response.pop("id").startswith("resp_")
    assert response.pop("completed_at") >= response.pop("created_at") > 1_700_000_000
    assert response["output"][0].pop("id").startswith("msg_")
    assert response == {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "m",
        "output": [
            {
                "type": "message",
                "status": "completed",
                "role": "assistant",
                "content": [
                    {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
                ],
            }
        ],
        "usage": {
            "input_tokens": 12,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 17,
        },
        "background": False,
        "instructions": "Help.",
        "max_output_tokens": None,
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 0.5,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "truncation": "disabled",
        "user": "u",
    }


def test_the_events_of_a_stream_in_their_order():
    answer, _ = post(stream=True)
    assert answer.media_type == "text/event-stream"
    stream = events(answer)
    assert [event["type"].removeprefix("response.") for event in stream] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    created, added, part = stream[0]["response"], stream[2]["item"], stream[3]["part"]
    assert (created["status"], created["output"], created["usage"]) == ("in_progress", [], None)
    assert (added["status"], added["content"], part["text"]) == ("in_progress", [], "")
    assert {event["item_id"] for event in stream if "item_id" in event} == {added["id"]}


@pytest.mark.parametrize("script", [HELLO, CUT, WITH_TOOLS, (ChatDelta(usage=USAGE),), ()])
def test_the_events_add_up_to_the_whole_response(script):
    server = ScriptedChatServer(script)
    whole = ask(DIALECT, "POST", "/v1/responses", HI, server=server).json
    stream = events(ask(DIALECT, "POST", "/v1/responses", HI | {"stream": True}, server=server))
    final = stream[-1]["response"]
    assert without_ids(final) == without_ids(whole)
    done = [event["item"] for event in stream if event["type"] == "response.output_item.done"]
    assert done == final["output"]
    for index, item in enumerate(final["output"]):
        own = [event for event in stream if event.get("output_index") == index]
        deltas = "".join(event["delta"] for event in own if event["type"].endswith(".delta"))
        assert deltas == (
            item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        )


def test_thoughts_text_and_calls_are_items():
    output = without_ids(post(*WITH_TOOLS)[0].json["output"])
    assert output[0]["type"] == "reasoning" and output[0]["summary"] == []
    assert output[0]["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert output[1]["content"][0]["text"] == "I look."
    call = {"type": "function_call", "status": "completed"}
    assert output[2:] == [
        call | {"call_id": "a", "name": "look", "arguments": '{"x": 1}'},
        call | {"call_id": "b", "name": "go", "arguments": "{}"},
    ]


def test_a_response_that_was_cut_is_incomplete():
    response = post(*CUT)[0].json
    assert response["status"] == response["output"][0]["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert events(post(*CUT, stream=True)[0])[-1]["type"] == "response.incomplete"


def test_wishes_reach_the_chat_route():
    body = asked(max_output_tokens=7, temperature=0.5, top_p=0.9, store=True, include=["x"])
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
    }


def test_no_more_tokens_are_asked_for_than_the_context_has():
    server = ScriptedChatServer(HELLO, num_prompt_tokens=1000)
    ask(DIALECT, "POST", "/v1/responses", HI | {"max_output_tokens": 500}, server=server)
    assert server.chats[0]["max_tokens"] == 24


@pytest.mark.parametrize("empty", ["", [], None])
def test_the_question_whether_anybody_is_there_is_answered(empty):
    body = asked(input=empty, max_output_tokens=1)
    assert (body["messages"], body["max_tokens"]) == ([{"role": "user", "content": ""}], 1)


def test_tools_are_translated_and_those_of_openai_ignored():
    parameters = {"type": "object"}
    function = {"type": "function", "name": "look", "parameters": parameters, "strict": True}
    others = [{"type": kind} for kind in ("web_search", "namespace", "image_generation")]
    body = asked(tools=[*others, function], tool_choice="required", parallel_tool_calls=False)
    wanted = {"name": "look", "parameters": parameters, "strict": True}
    assert body["tools"] == [{"type": "function", "function": wanted}]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    choice = {"type": "function", "name": "look"}
    translated = {"type": "function", "function": {"name": "look"}}
    assert asked(tools=[function], tool_choice=choice)["tool_choice"] == translated
    assert "tool_choice" not in asked(tools=[function], tool_choice={"type": "web_search"})
    assert "tools" not in asked(tools=others, tool_choice="auto")
    assert post(tools=[*others, function])[0].json["tools"] == [function]


def test_formats_are_translated():
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    wanted = {"name": "n", "schema": {"type": "object"}, "strict": True}
    body = asked(text={"format": schema})
    assert body["response_format"] == {"type": "json_schema", "json_schema": wanted}
    body = asked(text={"format": {"type": "json_object"}})
    assert body["response_format"] == {"type": "json_object"}
    assert "response_format" not in asked(text={"format": {"type": "text"}, "verbosity": "low"})


def test_items_become_a_conversation():
    def part(kind, text):
        return [{"type": kind, "text": text}]

    items = [
        {"role": "developer", "content": "Be short."},
        {"type": "message", "role": "user", "content": part("input_text", "Look!")},
        {"type": "reasoning", "id": "r", "summary": [], "content": part("reasoning_text", "Hm.")},
        {"type": "message", "role": "assistant", "content": part("output_text", "I look.")},
        {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "b", "name": "go", "arguments": ""},
        {"type": "function_call_output", "call_id": "a", "output": "seen"},
        {"type": "function_call_output", "call_id": "b", "output": part("input_text", "gone")},
        {"type": "function_call", "call_id": "c", "name": "go"},
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": "Two."},
    ]
    body = asked(input=items, instructions="Help.")

    def call(call_id, name):
        function = {"name": name, "arguments": "{}"}
        return {"id": call_id, "type": "function", "function": function}

    assert body["messages"] == [
        {"role": "system", "content": "Help.\n\nBe short."},
        {"role": "user", "content": "Look!"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [call("a", "look"), call("b", "go")],
        },
        {"role": "tool", "tool_call_id": "a", "content": "seen"},
        {"role": "tool", "tool_call_id": "b", "content": "gone"},
        {"role": "assistant", "content": None, "tool_calls": [call("c", "go")]},
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": "Two."},
    ]


def test_tokens_are_counted_for_the_same_prompt():
    server = ScriptedChatServer(num_prompt_tokens=17)
    answer = ask(DIALECT, "POST", "/v1/responses/input_tokens", HI, server=server)
    assert answer.json == {"object": "response.input_tokens", "input_tokens": 17}
    assert server.counts == [asked()]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/input_tokens"])
def test_a_response_of_the_past_is_not_there(path):
    server = ScriptedChatServer(HELLO)
    body = HI | {"previous_response_id": "resp_1", "stream": True}
    answer = ask(DIALECT, "POST", path, body, server=server)
    assert answer.status == 400 and not server.chats
    error = answer.json["error"]
    assert (error["code"], error["param"]) == (
        "previous_response_not_found",
        "previous_response_id",
    )
    assert "resp_1" in error["message"]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_no_response_can_be_fetched_or_deleted(method):
    parameters = {"id": "resp_1"}
    answer = ask(DIALECT, method, "/v1/responses/{id}", path_parameters=parameters)
    assert answer.status == 404
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert "resp_1" in answer.json["error"]["message"]


def test_images_stand_where_the_client_put_them():
    url = "data:image/png;base64,aGk="
    content = [
        {"type": "input_text", "text": "is "},
        {"type": "input_image", "image_url": url, "detail": "low"},
    ]
    _, server = post(input=[{"role": "user", "content": content}])
    assert server.chats[0]["messages"][-1]["content"] == [
        {"type": "text", "text": "is "},
        {"type": "image_url", "image_url": {"url": url}},
    ]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": [{"role": "robot", "content": "Hi"}]}, "robot"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "`input_image"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "`item_reference`"),
        ({"text": {"format": {"type": "yaml"}}}, "yaml"),
        ({"tools": [{"type": "function", "name": "f"}], "tool_choice": "some"}, "'some'"),
        ({"background": True}, "`background`"),
        ({"conversation": "c"}, "`conversation`"),
        ({"prompt": {"id": "p"}}, "`prompt`"),
        ({"top_logprobs": 3}, "`top_logprobs`"),
    ],
)
def test_bad_input_is_named(change, named):
    answer, server = post(**change)
    assert answer.status == 400 and not server.chats
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert named in answer.json["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"input": 1}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_request_is_refused(body):
    answer = ask(DIALECT, "POST", "/v1/responses", body)
    assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ValidationError("no"), 400, "invalid_request_error"),
        (Overloaded("full"), 429, "rate_limit_error"),
        (NotReady("wait"), 503, "server_error"),
        (GenerationError("bad luck"), 500, "server_error"),
        (RuntimeError("secret"), 500, "server_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_their_status_and_type(error, status, kind, stream):
    answer, _ = post(error, stream=stream)
    assert (answer.status, answer.json["error"]["type"]) == (status, kind)
    assert b"secret" not in answer.body


def test_an_error_in_the_middle_of_a_stream_is_its_last_event():
    answer, _ = post(ChatDelta(text="a"), GenerationError("bad luck"), stream=True)
    *_, last = events(answer)
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"]["code"] == "server_error"
    assert "bad luck" in last["response"]["error"]["message"]
