"""The Messages API: what is asked of the chat route, and what the client gets."""

from __future__ import annotations

import json
import re

import pytest
from tgi_plugin_anthropic_api.plugin import tgi_routes

from tgi_core.contract import ChatDelta, TokenUsage, ToolCallDelta
from tgi_core.errors import GenerationError, NotReady, Overloaded, ValidationError
from tgi_core.testing.dialects import USAGE, Answer, ScriptedChatServer, ask

[DIALECT] = tgi_routes()
HI = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
HELLO = (
    ChatDelta(text="Hel", usage=TokenUsage(prompt=12, generated=1, cached=4)),
    ChatDelta(text="lo", finish_reason="stop"),
    ChatDelta(usage=USAGE),
)


def messages(*script: ChatDelta | Exception, **more: object) -> tuple[Answer, ScriptedChatServer]:
    server = ScriptedChatServer(script or HELLO)
    return ask(DIALECT, "POST", "/v1/messages", HI | more, server=server), server


def asked(**more: object) -> dict[str, object]:
    """What the chat route is asked for."""
    answer, server = messages(**more)
    assert answer.status == 200, answer.body
    [body] = server.chats
    return body


def events(answer: Answer) -> list[dict]:
    found = []
    for block in answer.body.decode().split("\n\n")[:-1]:
        match = re.fullmatch(r"event: (\w+)\ndata: (.*)", block)
        assert match, block
        found.append(json.loads(match[2]))
        assert found[-1]["type"] == match[1]
    return found


def accumulate(stream: list[dict]) -> dict:
    """The message that a client makes of the events, by the rules of the API."""
    message = dict(stream[0]["message"])
    inputs = {}
    for event in stream[1:-1]:
        match event["type"]:
            case "content_block_start":
                assert event["index"] == len(message["content"])
                message["content"] = [*message["content"], event["content_block"]]
            case "content_block_delta":
                block, delta = message["content"][event["index"]], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "input_json_delta":
                        inputs.setdefault(event["index"], []).append(delta["partial_json"])
            case "content_block_stop":
                if event["index"] in inputs:
                    text = "".join(inputs[event["index"]])
                    message["content"][event["index"]]["input"] = json.loads(text)
            case "message_delta":
                message |= event["delta"] | {"usage": event["usage"]}
    return message


def test_a_whole_message():
    answer, _ = messages()
    assert answer.status == 200 and answer.headers["request-id"] == "the-request"
    message = answer.json
    assert re.fullmatch("msg_[0-9a-f]{32}", message.pop("id"))
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
        },
    }


def test_the_events_of_a_stream_in_their_order():
    answer, _ = messages(stream=True)
    assert answer.media_type == "text/event-stream"
    stream = events(answer)
    assert [event["type"] for event in stream] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = stream[0]["message"]
    assert start["content"] == [] and start["stop_reason"] is None
    assert start["usage"]["input_tokens"] == 8 and start["usage"]["cache_read_input_tokens"] == 4
    assert stream[1]["content_block"] == {"type": "text", "text": ""}


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


@pytest.mark.parametrize(
    "script",
    [
        HELLO,
        WITH_TOOLS,
        (ChatDelta(finish_reason="stop"), ChatDelta(usage=USAGE)),
        (ChatDelta(text="a", finish_reason="stop", stop_string="b"), ChatDelta(usage=USAGE)),
        (),
    ],
)
def test_the_events_add_up_to_the_whole_message(script):
    server = ScriptedChatServer(script)
    whole = ask(DIALECT, "POST", "/v1/messages", HI, server=server).json
    stream = events(ask(DIALECT, "POST", "/v1/messages", HI | {"stream": True}, server=server))
    assert accumulate(stream) | {"id": 0} == whole | {"id": 0}


def test_tools_are_used_in_blocks_of_their_own():
    message = messages(*WITH_TOOLS)[0].json
    assert message["stop_reason"] == "tool_use"
    assert message["content"] == [
        {"type": "thinking", "thinking": "Let me see.", "signature": ""},
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "a", "name": "look", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "go", "input": {}},
    ]


def test_arguments_that_were_cut_off_leave_an_empty_input():
    call = ToolCallDelta(index=0, id="a", name="look", arguments='{"x"')
    script = (ChatDelta(tool_calls=(call,), finish_reason="length"), ChatDelta(usage=USAGE))
    message = messages(*script)[0].json
    assert message["content"][0]["input"] == {} and message["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    ("finish", "stop_string", "reason"),
    [
        ("stop", None, "end_turn"),
        ("stop", "###", "stop_sequence"),
        ("length", None, "max_tokens"),
        ("tool_calls", None, "tool_use"),
        ("content_filter", None, "refusal"),
    ],
)
def test_stop_reasons(finish, stop_string, reason):
    last = ChatDelta(text="x", finish_reason=finish, stop_string=stop_string)
    message = messages(last, ChatDelta(usage=USAGE))[0].json
    assert (message["stop_reason"], message["stop_sequence"]) == (reason, stop_string)


def test_wishes_reach_the_chat_route():
    body = asked(
        stop_sequences=["a"], temperature=0.5, top_p=0.9, top_k=7, metadata={"user_id": "u"}
    )
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 10,
        "stop": ["a"],
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 7,
    }
    assert "stop" not in asked(stop_sequences=[])


def test_tools_are_translated():
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    tools = [{"name": "look", "description": "looks", "input_schema": schema}]
    body = asked(tools=tools)
    function = {"name": "look", "description": "looks", "parameters": schema}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert "tool_choice" not in body
    for choice, translated in (
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "look"}, {"type": "function", "function": {"name": "look"}}),
    ):
        assert asked(tools=tools, tool_choice=choice)["tool_choice"] == translated
    single = {"type": "auto", "disable_parallel_tool_use": True}
    assert asked(tools=tools, tool_choice=single)["parallel_tool_calls"] is False


def test_a_schema_for_the_answer_is_translated():
    output = {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}}
    wanted = {"name": "answer", "schema": {"type": "object"}}
    body = asked(output_config=output)
    assert body["response_format"] == {"type": "json_schema", "json_schema": wanted}


def test_a_conversation_with_tools_is_translated():
    question = [{"type": "text", "text": "What "}, {"type": "text", "text": "now?"}]
    conversation = [
        {"role": "user", "content": question},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "a", "name": "look", "input": {"x": "ä"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "nothing", "is_error": True},
                {
                    "type": "tool_result",
                    "tool_use_id": "b",
                    "content": [{"type": "text", "text": "1"}],
                },
                {"type": "tool_result", "tool_use_id": "c"},
                {"type": "text", "text": "Well?"},
            ],
        },
    ]
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": '{"x": "ä"}'}}
    assert asked(messages=conversation)["messages"] == [
        {"role": "user", "content": question},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "Hm.",
            "tool_calls": [call],
        },
        {"role": "tool", "tool_call_id": "a", "content": "nothing"},
        {"role": "tool", "tool_call_id": "b", "content": "1"},
        {"role": "tool", "tool_call_id": "c", "content": ""},
        {"role": "user", "content": [{"type": "text", "text": "Well?"}]},
    ]


LINE = "x-anthropic-billing-header: cc_version=2.1.88.{}; cc_entrypoint=cli; cch={};"


@pytest.mark.parametrize(
    "system",
    [
        lambda line: f"{line}\nYou help.",
        lambda line: [{"type": "text", "text": line}, {"type": "text", "text": "You help."}],
        lambda line: [{"type": "text", "text": f"{line}\nYou help.", "cache_control": {}}],
    ],
)
def test_claude_codes_changing_line_is_no_part_of_the_prompt(system):
    prompts = [asked(system=system(LINE.format(n, n)))["messages"] for n in ("a3f", "b40")]
    assert prompts[0] == prompts[1]
    assert prompts[0][0] == {"role": "system", "content": "You help."}


def test_a_line_like_it_elsewhere_is_left_alone():
    text = f"You help.\n{LINE}"
    assert asked(system=text)["messages"][0] == {"role": "system", "content": text}


def test_system_texts_become_one_message_in_front():
    system = [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]
    turns = [{"role": "user", "content": "Hi"}, {"role": "system", "content": "C"}]
    assert asked(system=system, messages=turns)["messages"] == [
        {"role": "system", "content": "A\n\nB\n\nC"},
        {"role": "user", "content": "Hi"},
    ]


def test_an_answer_may_have_as_many_tokens_as_the_context_has_left():
    server = ScriptedChatServer(
        (ChatDelta(text="x", finish_reason="length"), ChatDelta(usage=USAGE)),
        num_prompt_tokens=1000,
    )
    message = ask(DIALECT, "POST", "/v1/messages", HI | {"max_tokens": 32000}, server=server).json
    assert server.chats[0]["max_tokens"] == 24
    assert message["stop_reason"] == "model_context_window_exceeded"
    # a prompt that does not fit is the chat route's to refuse
    server.num_prompt_tokens = 5000
    ask(DIALECT, "POST", "/v1/messages", HI | {"max_tokens": 32000}, server=server)
    assert server.chats[1]["max_tokens"] == 1


def test_tokens_are_counted_for_the_same_prompt():
    prompt = {"model": "m", "messages": HI["messages"], "system": "You help."}
    server = ScriptedChatServer(num_prompt_tokens=17)
    answer = ask(DIALECT, "POST", "/v1/messages/count_tokens", prompt, server=server)
    assert answer.json == {"input_tokens": 17}
    assert server.counts == [
        {name: asked(system="You help.")[name] for name in ("model", "messages")}
    ]


def test_images_stand_where_the_client_put_them():
    content = [
        {"type": "text", "text": "is "},
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
        },
        {"type": "image", "source": {"type": "url", "url": "https://a.org/cat.png"}},
    ]
    _, server = messages(messages=[{"role": "user", "content": content}])
    [chat] = server.chats
    urls = ("data:image/png;base64,aGk=", "https://a.org/cat.png")
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    assert chat["messages"][-1]["content"] == [{"type": "text", "text": "is "}, *images]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": [{"role": "robot", "content": "Hi"}]}, "role"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "`image`"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "`text`"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
        ({"tool_choice": {"type": "some"}}, "tool_choice"),
    ],
)
def test_bad_input_is_named(change, named):
    answer, server = messages(**change)
    assert answer.status == 400 and not server.chats
    error = answer.json
    assert error["type"] == "error" and error["request_id"] == "the-request"
    assert error["error"]["type"] == "invalid_request_error"
    assert named in error["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"messages": 1}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_request_is_refused(body):
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = ask(DIALECT, "POST", path, body)
        assert (answer.status, answer.json["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (ValidationError("no"), 400, "invalid_request_error"),
        (Overloaded("full"), 529, "overloaded_error"),
        (NotReady("wait"), 503, "api_error"),
        (GenerationError("bad luck"), 500, "api_error"),
        (RuntimeError("secret"), 500, "api_error"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_have_their_status_and_type(error, status, kind, stream):
    answer, _ = messages(error, stream=stream)
    assert (answer.status, answer.json["error"]["type"]) == (status, kind)
    assert answer.headers["request-id"] == "the-request"
    assert ("retry-after" in answer.headers) == (status == 529)
    assert b"secret" not in answer.body


def test_an_error_in_the_middle_of_a_stream_is_an_event():
    answer, _ = messages(ChatDelta(text="a"), Overloaded("full"), stream=True)
    *_, last = events(answer)
    assert answer.status == 200
    assert (last["type"], last["error"]["type"]) == ("error", "overloaded_error")
