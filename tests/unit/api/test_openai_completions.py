"""/v1/completions gives what OpenAI's clients read, for one prompt or several."""

from __future__ import annotations

import pytest


def complete(server, prompt="Hi", **more):
    return server.post("/v1/completions", {"prompt": prompt, **more})


def test_a_whole_answer(server):
    reply = complete(server, model="whatever")
    answer = reply.json
    assert answer["id"].startswith("cmpl-") and answer["object"] == "text_completion"
    assert answer["model"] == "org/model"
    assert answer["choices"] == [
        {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}
    ]
    assert answer["usage"]["prompt_tokens"] == 3
    assert reply.headers["x-generated-tokens"] == "6"
    assert server.idle


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Hi", ["<s>Hi"]),
        (["Hi"], ["<s>Hi"]),
        (["a", "b"], ["<s>a", "<s>b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", [3]], ["<s>a", [3]]),
    ],
)
def test_every_form_of_prompt(server, prompt, prompts):
    answer = complete(server, prompt).json
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(prompts)))
    seen = [list(generation.request.prompt) for generation in server.engine.generations]
    expected = [
        server.tokenizer.encode(p, add_special_tokens=False) if isinstance(p, str) else p
        for p in prompts
    ]
    assert seen == expected
    assert answer["usage"]["completion_tokens"] == 6 * len(prompts)
    assert server.idle


def test_a_stream_of_several_prompts(server):
    events = complete(
        server, ["a", "b"], stream=True, stream_options={"include_usage": True}
    ).events
    *chunks, cost, done = events
    assert done == "[DONE]"
    for index in (0, 1):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in mine) == "Hello"
        assert [choice["finish_reason"] for choice in mine] == [None] * 5 + ["stop"]
    assert (cost["choices"], cost["usage"]["completion_tokens"]) == ([], 12)
    assert server.idle


def test_logprobs_in_the_old_shape_also_across_chunks(server):
    server.says("aé")
    whole = complete(server, logprobs=1).json["choices"][0]["logprobs"]
    assert whole["tokens"] == ["a", "", "é", "</s>"]
    assert whole["token_logprobs"] == [-0.25] * 4
    assert whole["text_offset"] == [0, 1, 1, 2]
    assert [list(top.values()) for top in whole["top_logprobs"]] == [[-0.5]] * 4
    events = complete(server, logprobs=1, stream=True).events
    parts = [event["choices"][0]["logprobs"] for event in events[:-1]]
    for key in whole:
        assert [item for part in parts for item in part[key]] == whole[key]


def test_a_stop_string_is_cut(server):
    choice = complete(server, stop="ell").json["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("H", "stop")
    events = complete(server, stop=["ell"], stream=True).events
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "H"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"prompt": []}, "validation", "Empty array detected."),
        ({"prompt": [[]]}, "validation", "`inputs` cannot be empty"),
        ({"prompt": ""}, "validation", "`inputs` cannot be empty"),
        ({"prompt": [-1]}, "validation", "token ids must be >= 0"),
        ({"prompt": [[10**6]]}, "validation", "token ids must be >= 0"),
        ({"prompt": ["a", 1]}, "validation", "texts or token ids, not both"),
        ({"prompt": ["a"] * 5}, "batch size exceeded", "Number of prompts exceeds"),
        ({"prompt": [1] * 101}, "validation", "`inputs` must have less than 100 tokens"),
        ({"prompt": "a", "suffix": "b"}, "suffix not supported", "Suffix is not supported"),
        ({"prompt": "a", "echo": True}, "validation", "`echo` is not supported"),
        ({"prompt": "a", "n": 2}, "validation", "`n` is not supported"),
        ({"prompt": "a", "best_of": 2}, "validation", "`best_of` is not supported"),
        ({"prompt": "a", "max_tokens": 0}, "validation", "`max_new_tokens` must be strictly"),
        ({"prompt": "a", "logprobs": 6}, "validation", "`top_n_tokens` must be >= 0 and <= 5"),
        ({"prompt": "a", "logit_bias": {"9999": 1}}, "validation", "`logit_bias` token ids"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_have_a_status_also_as_streams(server, body, code, message, stream):
    reply = server.post("/v1/completions", body | {"stream": stream})
    error = reply.json["error"]
    assert (reply.status, error["code"], error["type"]) == (422, code, "invalid_request_error")
    assert message in error["message"]
    assert server.idle


def test_one_bad_prompt_fails_all_before_any_is_started(server):
    reply = complete(server, ["a", ""])
    assert reply.status == 422
    assert server.idle and not server.engine.generations
