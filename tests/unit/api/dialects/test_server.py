"""What a dialect asks of core is what the OpenAI routes answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.unit.api.tooled import ASK, TWO
from tgi_core.api.dialects.server import RoutesChatServer
from tgi_core.api.openai.manners import OPENAI
from tgi_core.api.openai.routes import OpenAIRoutes
from tgi_core.contract import ModelCard, TokenUsage
from tgi_core.errors import NotReady, ValidationError
from tgi_core.observe.requests import RequestRecord
from tgi_core.observe.trace import begin_span

HI = {"messages": [{"role": "user", "content": "Hi"}]}


def serving(server, scope):
    """A chat server inside an exchange with these headers."""
    record = RequestRecord(server.service.observer.metrics, "id", begin_span(None, recorded=False))
    return RoutesChatServer(server.service, OpenAIRoutes(server.service, OPENAI), scope, record)


@pytest.fixture
def chat_server(server):
    return serving(server, {"headers": []})


def deltas(iterator):
    async def collect():
        return [delta async for delta in iterator]

    return asyncio.run(collect())


def test_a_chat_is_the_deltas_of_the_chat_route(server, chat_server):
    found = deltas(chat_server.chat(HI))
    assert [delta.text for delta in found] == [*"Hello", "", ""]
    assert [delta.finish_reason for delta in found] == [None] * 5 + ["stop", None]
    prompt = len("[user]Hi[assistant]")
    assert found[0].usage == TokenUsage(prompt=prompt, generated=1, cached=3)
    assert found[-1].usage == TokenUsage(prompt=prompt, generated=6, cached=3)
    assert server.idle


def test_thoughts_and_tool_calls_come_as_such(tooled, chat_server):
    tooled.says(f"<think>hm</think>{TWO}")
    found = deltas(chat_server.chat(ASK))
    assert "".join(delta.reasoning for delta in found) == "hm"
    assert "".join(delta.text for delta in found) == "Let me see."
    parts = [part for delta in found for part in delta.tool_calls]
    begun = [part for part in parts if part.name is not None]
    assert [(part.index, part.name) for part in begun] == [(0, "weather"), (1, "time")]
    assert all(part.id and part.id.startswith("call_") for part in begun)
    arguments = ["".join(p.arguments for p in parts if p.index == index) for index in (0, 1)]
    assert arguments == ['{"city": "Zü\\"rich"}', "{}"]
    assert [delta.finish_reason for delta in found][-2:] == ["tool_calls", None]


def test_the_stop_string_is_named(server, chat_server):
    server.says("one two three")
    [*_, last, _] = deltas(chat_server.chat(HI | {"stop": ["x", " tw"]}))
    assert (last.finish_reason, last.stop_string) == ("stop", " tw")


def test_a_completion_continues_its_prompt(server, chat_server):
    found = deltas(chat_server.complete({"prompt": "Say: "}))
    assert "".join(delta.text for delta in found) == "Hello"
    assert list(server.engine.last.prompt) == server.tokenizer.encode(
        "Say: ", add_special_tokens=True
    )


def test_counting_takes_the_prompt_that_a_chat_would_have(server, chat_server):
    count = asyncio.run(chat_server.count_tokens(HI))
    assert not server.engine.generations
    deltas(chat_server.chat(HI))
    assert count == len(server.engine.last.prompt)


@pytest.mark.parametrize("body", [{"messages": []}, {"messages": [{"role": "user"}]}])
def test_what_the_route_refuses_cannot_be_counted(chat_server, body):
    with pytest.raises(ValidationError):
        asyncio.run(chat_server.count_tokens(body))


def test_what_fits_is_what_the_context_has_left(server, chat_server, monkeypatch):
    num_prompt = len("[user]Hi[assistant]")

    def fit(wanted):
        return asyncio.run(chat_server.fit(HI, wanted))

    assert [fit(n) for n in (1, 109, 110, 10**9)] == [1, 109, 128 - num_prompt, 128 - num_prompt]
    long = {"messages": [{"role": "user", "content": "x" * 500}]}
    assert asyncio.run(chat_server.fit(long, 10)) == 1
    limits = replace(server.service.model.limits, max_total_tokens=4096)
    server.service.model = replace(server.service.model, limits=limits)
    # far from the limit nothing is counted
    monkeypatch.setattr(server.service.model.template, "render", None)
    assert fit(2000) == 2000


def test_the_model_is_named_with_its_limits(server, chat_server):
    assert chat_server.models() == [
        ModelCard(
            name="org/model",
            revision=None,
            max_prompt_tokens=100,
            max_sequence_tokens=128,
            chat_template=server.tokenizer.chat_template,
        )
    ]
    server.service.model = None
    with pytest.raises(NotReady):
        chat_server.models()


def test_the_clients_trace_goes_on(server):
    scope = {"headers": [(b"traceparent", b"00-1-2-03"), (b"content-type", b"text/odd")]}
    chat_server = serving(server, scope)
    deltas(chat_server.chat(HI))
    assert server.engine.last.trace_parent == "00-1-2-03"


def test_a_dialects_clients_share_prefixes_only_with_their_own_key(server):
    deltas(serving(server, {"headers": [], "state": {"tenant": "0a"}}).chat(HI))
    assert server.engine.last.cache_salt == "0a"
