"""A streamed answer, put together, is the whole answer of the same seed, field by field."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

TEXTS = ("Hi", "Zwölf Boxkämpfer", "naïve 日本 🎉 ", "a b" * 20, " ")


@pytest.fixture
def server(serve: ServerFactory, tmp_path: Path) -> Iterator[Server]:
    with serve(str(write_fake_model(tmp_path)), "--backend", "fake") as server:
        yield server


def ask(server: Server, path: str, body: dict[str, Any]) -> Any:
    status, answer = server.post(path, body)
    assert status == 200, answer
    return json.loads(answer)


def ask_streamed(server: Server, path: str, body: dict[str, Any]) -> list[Any]:
    status, answer = server.post(path, body)
    assert status == 200, answer
    blocks = answer.decode().split("\n\n")[:-1]
    return [json.loads(block[6:]) for block in blocks if block != "data: [DONE]"]


def tgi_parameters(chance: random.Random) -> dict[str, Any]:
    """Any that are allowed together, half of the time sampled."""
    some: dict[str, Any] = {
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.4,
        "stop": [chance.choice("aeiou"), "zz"],
        "truncate": 3,
        "top_n_tokens": 3,
        "return_full_text": True,
    }
    shapes = {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "typical_p": 0.8}
    chosen = {key: value for key, value in some.items() if chance.random() < 0.3}
    if chance.random() < 0.5:
        chosen |= {key: value for key, value in shapes.items() if chance.random() < 0.5}
        chosen |= {"do_sample": True, "seed": chance.randrange(2**64)}
    return {**chosen, "max_new_tokens": chance.randint(1, 40), "details": True}


def openai_parameters(chance: random.Random) -> dict[str, Any]:
    some: dict[str, Any] = {
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.4,
        "presence_penalty": -0.5,
        "stop": chance.choice(("e", ["a", "xy"])),
        "logit_bias": {"65": 5, "66": -100},
        "ignore_eos": True,
        "top_p": 0.9,
        "min_p": 0.02,
        "n": 3,
    }
    chosen = {key: value for key, value in some.items() if chance.random() < 0.3}
    chosen["temperature"] = chance.choice((0, 0.7, 1, 1.5))
    return {**chosen, "seed": chance.randrange(2**64), "max_tokens": chance.randint(1, 40)}


def test_generate(server: Server) -> None:
    chance = random.Random(1)
    for _ in range(60):
        body = {"inputs": chance.choice(TEXTS), "parameters": tgi_parameters(chance)}
        whole = ask(server, "/generate", body)
        events = ask_streamed(server, "/generate_stream", body)
        [root] = ask(server, "/", {**body, "stream": False, "parameters": full_text_said(body)})
        assert root == whole
        assert ask_streamed(server, "/", {**body, "stream": True}) == [
            *events[:-1],
            {**events[-1], "generated_text": full_text(body, events[-1]["generated_text"])},
        ]
        details, last = whole["details"], events[-1]
        assert [event["index"] for event in events] == list(range(1, len(events) + 1))
        assert [event["token"] for event in events] == details["tokens"]
        assert [e["top_tokens"] for e in events if "top_tokens" in e] == details.get(
            "top_tokens", []
        )
        assert {event["generated_text"] for event in events[:-1]} <= {None}
        assert last["generated_text"] == whole["generated_text"]
        for key in ("finish_reason", "generated_tokens", "seed"):
            assert last["details"][key] == details[key]


def full_text_said(body: dict[str, Any]) -> dict[str, Any]:
    """The root route gives the prompt back unless told otherwise."""
    return {"return_full_text": False, **body["parameters"]}


def full_text(body: dict[str, Any], text: str) -> str:
    return text if "return_full_text" in body["parameters"] else body["inputs"] + text


def test_clouds(server: Server) -> None:
    """SageMaker's route is the one that the body fits; the others' are whole texts alone."""
    chance = random.Random(4)
    for _ in range(8):
        body = {"inputs": chance.choice(TEXTS), "parameters": tgi_parameters(chance)}
        whole = ask(server, "/", body)
        assert ask(server, "/invocations", body) == whole
        streamed = {**body, "stream": True}
        assert ask_streamed(server, "/invocations", streamed) == ask_streamed(server, "/", streamed)
        seeded = {"do_sample": False, **body["parameters"], "return_full_text": False}
        text = ask(server, "/generate", {**body, "parameters": seeded})["generated_text"]
        instances = [{"inputs": body["inputs"], "parameters": seeded}]
        assert ask(server, "/vertex", {"instances": instances}) == {"predictions": [text]}
        data = [*body["inputs"].encode()]
        tensor = {"name": "in", "shape": [1], "datatype": "BYTES", "data": data}
        infer = {"id": "1", "inputs": [tensor], "outputs": [{"name": "out"}], "parameters": seeded}
        [output] = ask(server, "/v2/models/m/infer", infer)["outputs"]
        assert bytes(output["data"]).decode() == text
    for _ in range(5):
        messages = [{"role": "user", "content": chance.choice(TEXTS)}]
        body = {**openai_parameters(chance), "messages": messages}
        routes = ("/v1/chat/completions", "/invocations", "/openai/v1/chat/completions")
        first, *others = [ask(server, route, body)["choices"] for route in routes]
        assert others == [first, first]
        body["stream"] = True
        first, *others = [
            [chunk["choices"] for chunk in ask_streamed(server, route, body)] for route in routes
        ]
        joined = [texts(chunks) for chunks in (first, *others)]
        assert joined == joined[:1] * 3


def texts(chunks: list[list[dict[str, Any]]]) -> dict[int, str]:
    """Of each choice; how tokens come together in chunks is a matter of time."""
    found: dict[int, str] = {}
    for choice in (choice for choices in chunks for choice in choices):
        index = choice["index"]
        found[index] = found.get(index, "") + (choice["delta"].get("content") or "")
    return found


def test_completions(server: Server) -> None:
    chance = random.Random(2)
    for _ in range(60):
        prompts = [chance.choice(TEXTS) for _ in range(chance.randint(1, 3))]
        body = {**openai_parameters(chance), "prompt": chance.choice((prompts, prompts[0]))}
        if chance.random() < 0.5:
            body["logprobs"] = chance.randint(0, 3)
        if chance.random() < 0.4:
            body["echo"] = True
        whole = ask(server, "/v1/completions", body)
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, cost = ask_streamed(server, "/v1/completions", {**body, **stream})
        assert cost["choices"] == []
        same_usage(cost["usage"], whole["usage"])
        for choice in whole["choices"]:
            parts = [
                part
                for chunk in chunks
                for part in chunk["choices"]
                if part["index"] == choice["index"]
            ]
            assert "".join(part["text"] for part in parts) == choice["text"]
            assert [p["finish_reason"] for p in parts[:-1]] == [None] * (len(parts) - 1)
            assert parts[-1]["finish_reason"] == choice["finish_reason"]
            for key, values in (choice["logprobs"] or {}).items():
                joined = [part["logprobs"][key] for part in parts if part["logprobs"][key]]
                assert [item for values in joined for item in values] == (values or [])


def test_chat(server: Server) -> None:
    chance = random.Random(3)
    for _ in range(60):
        messages = [{"role": "user", "content": chance.choice(TEXTS)}]
        body = {**openai_parameters(chance), "messages": messages}
        if chance.random() < 0.5:
            body |= {"logprobs": True, "top_logprobs": chance.randint(0, 3)}
        whole = ask(server, "/v1/chat/completions", body)
        stream = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, cost = ask_streamed(server, "/v1/chat/completions", {**body, **stream})
        same_usage(cost["usage"], whole["usage"])
        for choice in whole["choices"]:
            parts = [
                part
                for chunk in chunks
                for part in chunk["choices"]
                if part["index"] == choice["index"]
            ]
            deltas = [part["delta"] for part in parts]
            text = "".join(delta.get("content") or "" for delta in deltas)
            assert text == (choice["message"]["content"] or "")
            assert [d["role"] for d in deltas if "role" in d] == [choice["message"]["role"]]
            assert parts[-1]["finish_reason"] == choice["finish_reason"]
            logprobs = [
                token for part in parts if part["logprobs"] for token in part["logprobs"]["content"]
            ]
            assert logprobs == (choice["logprobs"] or {"content": []})["content"]


def same_usage(streamed: dict[str, Any], whole: dict[str, Any]) -> None:
    """The second request finds its prompt in the cache."""
    for key in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert streamed[key] == whole[key]
