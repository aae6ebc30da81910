"""/v1/chat/completions gives what OpenAI's clients read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tgi_core.text.chat import ChatTemplate

HI = {"messages": [{"role": "user", "content": "Hi"}]}
AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}


def chat(server, **more):
    return server.post("/v1/chat/completions", HI | more)


def content(events):
    chunks = [event for event in events if event != "[DONE]" and event["choices"]]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def test_a_whole_answer(server):
    reply = chat(server)
    answer = reply.json
    assert reply.status == 200
    assert answer["id"].startswith("chatcmpl-") and len(answer["id"]) > 20
    assert answer["object"] == "chat.completion"
    assert (answer["model"], type(answer["created"])) == ("org/model", int)
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    num_prompt = len("[user]Hi[assistant]")
    assert answer["usage"] == {
        "prompt_tokens": num_prompt,
        "completion_tokens": 6,
        "total_tokens": num_prompt + 6,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert reply.headers["x-compute-characters"] == str(num_prompt)
    assert server.idle


def test_the_template_alone_decides_about_special_tokens(server):
    chat(server)
    expected = server.tokenizer.encode("[user]Hi[assistant]", add_special_tokens=False)
    assert list(server.engine.last.prompt) == expected


def test_any_model_name_is_accepted_and_given_back(server):
    assert chat(server, model="gpt-4").json["model"] == "gpt-4"
    assert chat(server, model="tgi").json["model"] == "org/model"


def test_a_stream(server):
    reply = chat(server, stream=True, max_tokens=3)
    events = reply.events
    assert reply.headers["content-type"] == "text/event-stream"
    assert events[-1] == "[DONE]"
    chunks = events[:-1]
    assert content(events) == "Hel"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1 and chunks[0]["id"].startswith("chatcmpl-")
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "H"}
    assert all("role" not in chunk["choices"][0]["delta"] for chunk in chunks[1:])
    finishes = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert finishes == [None, None, "length"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert server.idle


def test_each_chunk_says_what_it_has_cost_if_asked_for(server):
    *chunks, _ = chat(server, stream=True, stream_options={"continuous_usage_stats": True}).events
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == list(range(1, len(chunks) + 1))
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {19}


def test_the_stop_string_that_ended_the_text_is_named(server):
    server.says("one two three", ends=False)
    stop = {"stop": ["never", "two", "three"]}
    whole = chat(server, **stop).json
    assert whole["choices"][0]["stop_reason"] == "two"
    *_, last, _ = chat(server, stream=True, **stop).events
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["choices"][0]["stop_reason"] == "two"
    server.says("one")
    assert "stop_reason" not in chat(server, **stop).json["choices"][0]


def test_usage_is_a_chunk_of_its_own_if_asked_for(server):
    events = chat(server, stream=True, stream_options={"include_usage": True, "x": 1}).events
    *chunks, cost, done = events
    assert (cost["choices"], done) == ([], "[DONE]")
    assert cost["usage"]["completion_tokens"] == 6
    assert cost["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    assert all(chunk["usage"] is None for chunk in chunks)


def test_events_that_are_ready_together_leave_together(server):
    server.says("Hello")
    script = server.engine.script
    server.engine.script = lambda request: [[event for batch in script(request) for event in batch]]
    reply = chat(server, stream=True)
    assert content(reply.events) == "Hello"
    assert len(reply.chunks) == 2  # all tokens, then [DONE]


@pytest.mark.parametrize("stop", ["lo", ["lo"], ["x", "llo w"]])
def test_a_stop_string_is_cut_and_never_shown(server, stop):
    server.says("Hello world")
    whole = chat(server, stop=stop).json["choices"][0]
    expected = "Hel" if "lo" in stop else "He"
    assert (whole["message"]["content"], whole["finish_reason"]) == (expected, "stop")
    reply = chat(server, stop=stop, stream=True)
    assert content(reply.events) == expected
    assert reply.events[-2]["choices"][0]["finish_reason"] == "stop"
    assert server.idle


def test_text_that_only_looks_like_a_stop_string_is_not_lost(server):
    server.says("Hello")
    assert content(chat(server, stop=["lox"], stream=True).events) == "Hello"


def test_an_answer_that_is_nothing_but_a_stop_string_still_ends(server):
    server.says("stop")
    events = chat(server, stop=["stop"], stream=True).events
    assert events[0]["choices"][0] == {
        "index": 0,
        "delta": {"role": "assistant"},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": "stop",
    }
    assert events[1:] == ["[DONE]"]


def test_logprobs(server):
    server.says("é")
    whole = chat(server, logprobs=True, top_logprobs=1).json["choices"][0]["logprobs"]["content"]
    assert [item["token"] for item in whole] == ["", "é", "</s>"]
    assert whole[1]["bytes"] == [0xC3, 0xA9]
    assert whole[1]["logprob"] == -0.25
    assert whole[1]["top_logprobs"][0]["logprob"] == -0.5
    events = chat(server, logprobs=True, top_logprobs=1, stream=True).events
    streamed = [e["choices"][0]["logprobs"]["content"][0] for e in events[:-1]]
    assert streamed == whole


def test_unset_temperature_samples_and_zero_is_greedy_whatever_else_is_set(server):
    chat(server)
    assert server.engine.last.sampling.temperature == 1.0
    chat(server, temperature=0, top_p=0.5, seed=5)
    assert server.engine.last.sampling.greedy


def test_sampling_fields_arrive_as_they_are_meant(server):
    chat(
        server,
        temperature=0.5,
        top_p=1,
        top_k=-1,
        min_p=0.1,
        typical_p=1.0,
        repetition_penalty=1.2,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"5": 10, "6": -100},
        seed=2**64 - 1,
        max_completion_tokens=4,
        max_tokens=9,
        ignore_eos=True,
    )
    request = server.engine.last
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 1.0, 0)
    assert (sampling.min_p, sampling.typical_p, sampling.repetition_penalty) == (0.1, 1.0, 1.2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, -0.5)
    assert sampling.logit_bias == ((5, 10.0), (6, -100.0))
    assert sampling.seed == 2**64 - 1
    assert (request.stop.max_new_tokens, request.stop.ignore_eos) == (4, True)


def test_an_unset_length_is_the_rest_of_the_budget(server):
    chat(server)
    assert server.engine.last.stop.max_new_tokens == 128 - len("[user]Hi[assistant]")


def test_neutral_values_of_what_cannot_be_done_are_fine(server):
    neutral = dict.fromkeys(
        ("tools", "tool_choice", "response_format", "grammar", "logit_bias", "stop", "user", "n")
    )
    neutral |= {"n": 1, "best_of": 1, "watermark": False, "response_format": {"type": "text"}}
    neutral |= {"stream_options": None, "stream": None, "parallel_tool_calls": True}
    assert chat(server, **neutral).status == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_watermark_can_be_asked_for_here_too(marking, stream):
    assert chat(marking, watermark=True, n=2, stream=stream).status == 200
    generations = marking.engine.generations
    assert [g.request.sampling.adjustments for g in generations] == [("watermark",)] * 2


def test_several_choices_whole_and_streamed(server):
    answers = [("one", -1.0), ("two", -2.0), ("", -3.0)]
    server.says_in_turn(*answers)
    whole = chat(server, n=3, seed=2**64 - 1, logprobs=True).json
    assert [c["message"]["content"] for c in whole["choices"]] == ["one", "two", ""]
    assert [c["index"] for c in whole["choices"]] == [0, 1, 2]
    assert whole["choices"][1]["logprobs"]["content"][0]["logprob"] == -2.0
    prompt = len(server.engine.last.prompt)
    assert whole["usage"]["prompt_tokens"] == prompt
    assert whole["usage"]["completion_tokens"] == 4 + 4 + 1
    assert [g.request.sampling.seed for g in server.engine.generations] == [2**64 - 1, 0, 1]
    assert len({g.request.request_id for g in server.engine.generations}) == 3

    server.says_in_turn(*answers)
    options = {"include_usage": True}
    *chunks, cost, done = chat(server, n=3, stream=True, stream_options=options).events
    for index, (text, _) in enumerate(answers):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in mine) == text
        assert [c["delta"].get("role") for c in mine] == ["assistant"] + [None] * (len(mine) - 1)
        assert [c["finish_reason"] for c in mine] == [None] * (len(mine) - 1) + ["stop"]
    assert (cost["usage"], done) == (whole["usage"], "[DONE]")
    assert server.idle


def test_every_event_can_say_what_it_cost_so_far(server):
    options = {"continuous_usage_stats": True}
    *chunks, _ = chat(server, stream=True, stream_options=options).events
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 4, 5, 6]


def test_too_many_choices_are_a_bad_request_and_no_overload(server):
    reply = chat(server, n=1000)
    assert reply.status == 422
    assert "`n` must be > 0 and <= 16. Given: 1000" in reply.json["error"]["message"]


def test_the_last_message_is_continued_if_asked(server):
    chat(server, continue_final_message=True)
    prompt = server.tokenizer.decode(server.engine.last.prompt, skip_special_tokens=False)
    assert prompt == "[user]Hi"


def test_a_message_cannot_hold_special_tokens(server):
    for content in ("</s><s>", [{"type": "text", "text": "<|end|>"}]):
        body = {"messages": [{"role": "</s>user", "content": content}]}
        assert server.post("/v1/chat/completions", body).status == 200
        assert not any(map(server.tokenizer.is_special, server.engine.last.prompt))
    server.post("/generate", {"inputs": "</s>"})  # raw prompts may, as in TGI
    assert server.tokenizer.is_special(server.engine.last.prompt[-1])


def test_parts_of_text_are_joined(server):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    prompt = server.tokenizer.decode(server.engine.last.prompt, skip_special_tokens=False)
    assert prompt == "[user]ab[assistant]"


@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"best_of": 3}, "best_of"),
        ({"watermark": True}, "watermark"),
        ({"messages": [{"role": "user", "content": [AUDIO]}]}, "input_audio"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_done_is_refused_by_name(server, more, name, stream):
    reply = chat(server, stream=stream, **more)
    assert reply.status == 422
    assert reply.json["error"] == {
        "message": f"Input validation error: `{name}` is not supported by this server",
        "type": "invalid_request_error",
        "param": None,
        "code": "validation",
    }
    assert server.idle and not server.engine.generations


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "`messages` cannot be empty"),
        ([{"role": "user", "content": None}], "`content` of a message cannot be null"),
        ([{"role": "user", "content": "x" * 90}], "`inputs` must have less than 100 tokens"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_messages_that_make_no_prompt_are_refused(server, messages, message, stream):
    body = {"messages": messages, "stream": stream, "max_tokens": None}
    reply = server.post("/v1/chat/completions", body)
    assert reply.status == 422
    assert message in reply.json["error"]["message"]
    assert server.idle


def test_a_template_that_refuses_is_a_template_error(server):
    template = ChatTemplate("{{ raise_exception('no') }}", bos_token=None, eos_token=None)
    server.service.model = replace(server.service.model, template=template)
    reply = chat(server, stream=True)
    assert (reply.status, reply.json["error"]["message"]) == (422, "Template error: no")
    assert reply.json["error"]["code"] == "template_error"
