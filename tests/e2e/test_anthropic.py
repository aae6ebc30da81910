"""Anthropic's own SDK against a server with the plugin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

HI: Any = {
    "model": "any",
    "max_tokens": 24,
    "messages": [{"role": "user", "content": "What is the weather like in Paris today?"}],
    "extra_body": {"temperature": 0},
}


SCHEMA: Any = {
    "type": "object",
    "properties": {"size": {"enum": ["small", "large"]}},
    "required": ["size"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def server(serve: ServerFactory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = write_fake_model(tmp_path_factory.mktemp("fake"))
    flags = ("--backend", "fake", "--max-total-tokens", "4096", "--max-concurrent-requests", "1")
    with serve(str(model), *flags) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0) as client:
        yield client


def facts(message: anthropic.types.Message) -> tuple[object, ...]:
    """All of a message that is the same each time."""
    usage = message.usage
    num_prompt = usage.input_tokens + (usage.cache_read_input_tokens or 0)
    return (
        [block.to_dict() for block in message.content],
        (message.model, message.role, message.type),
        (message.stop_reason, message.stop_sequence),
        (num_prompt, usage.output_tokens),
    )


def test_whole_and_streamed_messages_agree(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**HI)
    with client.messages.stream(**HI) as stream:
        texts = list(stream.text_stream)
        streamed = stream.get_final_message()
    assert facts(whole) == facts(streamed)
    assert whole.stop_reason == "max_tokens" and whole.usage.output_tokens == 24
    [block] = whole.content
    assert block.type == "text" and block.text == "".join(texts) != ""
    assert len(texts) > 5
    # the second one found the first one's prompt
    assert streamed.usage.cache_read_input_tokens


def test_the_count_is_that_of_the_prompt(client: anthropic.Anthropic) -> None:
    prompt: Any = {"model": "any", "messages": HI["messages"], "system": "You tell stories."}
    counted = client.messages.count_tokens(**prompt)
    usage = client.messages.create(max_tokens=1, **prompt).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert counted.input_tokens > 15


def test_a_stop_sequence_is_named_and_cut(client: anthropic.Anthropic) -> None:
    [block] = client.messages.create(**HI).content
    assert block.type == "text"
    stop = block.text[5:8]
    message = client.messages.create(**HI, stop_sequences=[stop])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", stop)
    with client.messages.stream(**HI, stop_sequences=[stop]) as stream:
        assert facts(stream.get_final_message()) == facts(message)


def test_an_answer_follows_a_schema(client: anthropic.Anthropic) -> None:
    wanted: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    message = client.messages.create(**HI, output_config=wanted)
    [block] = message.content
    assert block.type == "text" and message.stop_reason == "end_turn"
    assert json.loads(block.text)["size"] in ("small", "large")


def test_claude_codes_changing_line_does_not_cost_the_prefix_cache(
    client: anthropic.Anthropic,
) -> None:
    story = "Tell me a story about a fox, a river and the moon. " * 8
    for number in range(2):
        line = f"x-anthropic-billing-header: cc_version=2.1.88.{number}; cch={number};"
        usage = client.messages.create(**HI, system=f"{line}\n{story}").usage
    assert usage.cache_read_input_tokens and usage.cache_read_input_tokens > usage.input_tokens


def test_more_than_the_context_holds_may_be_asked_for(client: anthropic.Anthropic) -> None:
    with client.messages.stream(**HI | {"max_tokens": 32_000}) as stream:
        for _ in stream.text_stream:
            break  # the client goes away
    # the only place is free again, sooner or later
    while True:
        try:
            assert client.messages.create(**HI).usage.output_tokens == 24
            break
        except anthropic.APIStatusError as error:
            assert error.status_code == 529
            assert error.body["error"]["type"] == "overloaded_error"  # type: ignore[index]
            assert error.response.headers["retry-after"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "inputs"),
        ({"stop_sequences": list("abcdefgh")}, "stop"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image", "source": {"type": "url"}}]}
                ]
            },
            "image",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_sdks_own(
    client: anthropic.Anthropic, change: dict[str, Any], words: str, stream: bool
) -> None:
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**HI | change, stream=stream)
    assert caught.value.request_id
    assert words in caught.value.message


def test_an_address_that_is_not_there_is_not_found(server: Server) -> None:
    client = anthropic.Anthropic(base_url=f"{server.url}/nowhere", api_key="any", max_retries=0)
    with client, pytest.raises(anthropic.NotFoundError):
        client.messages.create(**HI)
