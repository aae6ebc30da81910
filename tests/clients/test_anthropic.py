"""Messages, whole and streamed, sync and async; counting tokens; errors. Needs the plugin."""

from __future__ import annotations

import asyncio
import json
import urllib.request

import pytest
from anthropic import (
    Anthropic,
    APIStatusError,
    AsyncAnthropic,
    BadRequestError,
    NotFoundError,
)

from tests.servers import Server

PROMPT = "Once upon a time there was a fox: Größe 你好 🦊"
ASKED = {
    "model": "fake-model",
    "max_tokens": 20,
    # the SDK has no parameter for it any more, the API has
    "extra_body": {"temperature": 0},
    "system": "Be short.",
    "messages": [{"role": "user", "content": PROMPT}],
}


@pytest.fixture
def client(server: Server) -> Anthropic:
    return Anthropic(base_url=server.url, api_key="unused", max_retries=0)


def test_a_message(client: Anthropic) -> None:
    message = client.messages.create(**ASKED)
    [block] = message.content
    assert block.type == "text" and block.text
    assert message.role == "assistant" and message.type == "message" and message.id
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 20 and message.usage.input_tokens > 0


def test_the_stream_is_the_message(client: Anthropic) -> None:
    whole = client.messages.create(**ASKED)
    with client.messages.stream(**ASKED) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_the_events_come_in_anthropics_order(client: Anthropic) -> None:
    kinds = [event.type for event in client.messages.create(**ASKED, stream=True)]
    deltas = kinds.count("content_block_delta")
    assert deltas > 1
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * deltas,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_a_stop_sequence_is_named(client: Anthropic) -> None:
    whole = client.messages.create(**{**ASKED, "max_tokens": 60}).content[0].text
    stop = next(word for word in whole.split() if word.isascii() and len(word) > 2)
    cut = client.messages.create(**{**ASKED, "max_tokens": 60}, stop_sequences=[stop])
    assert cut.content[0].text == whole[: whole.index(stop)]
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", stop)


def test_counted_tokens_are_those_of_the_message(client: Anthropic) -> None:
    asked = {name: ASKED[name] for name in ("model", "system", "messages")}
    counted = client.messages.count_tokens(**asked)
    message = client.messages.create(**ASKED)
    cached = message.usage.cache_read_input_tokens or 0
    assert counted.input_tokens == message.usage.input_tokens + cached


def test_errors_are_the_clients(client: Anthropic, narrow_server: Server) -> None:
    with pytest.raises(BadRequestError, match="temperature"):
        client.messages.create(**{**ASKED, "extra_body": {"temperature": -1}})
    with pytest.raises(BadRequestError):
        client.messages.create(
            **{**ASKED, "messages": [{"role": "user", "content": "word " * 5000}]}
        )
    with pytest.raises(NotFoundError):
        client.post("/v1/no-such-route", cast_to=object)


def test_overload_is_the_clients_error(narrow_server: Server) -> None:
    client = Anthropic(base_url=narrow_server.url, api_key="unused", max_retries=0)
    # this API cannot ask for more than the end of a text: the place is taken through another
    long = {"prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "stream": True}
    taken = urllib.request.Request(
        narrow_server.url + "/v1/completions",
        json.dumps(long).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(taken) as stream:
        stream.readline()
        with pytest.raises(APIStatusError) as caught:
            client.messages.create(**ASKED)
    assert caught.value.status_code == 529
    assert caught.value.body["error"]["type"] == "overloaded_error"
    patient = client.with_options(max_retries=10)
    assert patient.messages.create(**ASKED).usage.output_tokens == 20


def test_async_is_like_sync(server: Server, client: Anthropic) -> None:
    async def ask() -> tuple[str, str]:
        async with AsyncAnthropic(base_url=server.url, api_key="unused") as asynchronous:
            whole = await asynchronous.messages.create(**ASKED)
            async with asynchronous.messages.stream(**ASKED) as stream:
                streamed = [text async for text in stream.text_stream]
        return whole.content[0].text, "".join(streamed)

    text = client.messages.create(**ASKED).content[0].text
    assert asyncio.run(ask()) == (text, text)
