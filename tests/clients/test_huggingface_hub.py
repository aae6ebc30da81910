"""InferenceClient: text generation, chat, streams, tools, grammars; sync and async; errors."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError, OverloadedError, ValidationError

from tests.servers import Server

PROMPT = "Once upon a time there was a fox: Größe 你好 🦊"
MESSAGES = [{"role": "user", "content": PROMPT}]


@pytest.fixture
def client(server: Server) -> InferenceClient:
    return InferenceClient(server.url)


def test_text_generation_whole_and_streamed(client: InferenceClient) -> None:
    whole = client.text_generation(PROMPT, max_new_tokens=30)
    details = client.text_generation(PROMPT, max_new_tokens=30, details=True)
    stream = list(client.text_generation(PROMPT, max_new_tokens=30, details=True, stream=True))
    texts = list(client.text_generation(PROMPT, max_new_tokens=30, stream=True))
    assert details.generated_text == whole == stream[-1].generated_text
    assert [event.token.id for event in stream] == [t.id for t in details.details.tokens]
    assert texts == [event.token.text for event in stream if not event.token.special]
    assert stream[-1].details.finish_reason == details.details.finish_reason == "length"


def test_text_generation_takes_every_parameter(client: InferenceClient) -> None:
    wishes = {
        "best_of": 2,
        "decoder_input_details": True,
        "do_sample": True,
        "frequency_penalty": 0.1,
        "max_new_tokens": 4,
        "repetition_penalty": 1.1,
        "stop": ["\x00"],
        "temperature": 0.7,
        "top_k": 20,
        "top_n_tokens": 2,
        "top_p": 0.9,
        "truncate": 5,
        "typical_p": 0.9,
        "watermark": False,
    }
    answer = client.text_generation(PROMPT, details=True, return_full_text=True, **wishes)
    assert answer.generated_text.startswith(PROMPT)
    assert len(answer.details.prefill) == 5
    # top_p may leave no second token
    assert all(1 <= len(tokens) <= 2 for tokens in answer.details.top_tokens)
    assert len(answer.details.best_of_sequences) == 1


def test_a_seed_decides_the_text(client: InferenceClient) -> None:
    texts = [
        client.text_generation(PROMPT, do_sample=True, seed=seed, max_new_tokens=16)
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_stop_string_ends_the_text(client: InferenceClient) -> None:
    wishes = {"max_new_tokens": 30, "return_full_text": False}
    whole = client.text_generation(PROMPT, **wishes)
    stop = next(word for word in whole.split() if word.isascii() and len(word) > 2)
    answer = client.text_generation(PROMPT, **wishes, stop=[stop], details=True)
    assert answer.details.finish_reason == "stop_sequence"
    assert whole.startswith(answer.generated_text) and stop in answer.generated_text


def test_chat_whole_and_streamed(client: InferenceClient) -> None:
    wishes = {"messages": MESSAGES, "max_tokens": 20, "temperature": 0}
    whole = client.chat_completion(**wishes)
    chunks = list(
        client.chat_completion(**wishes, stream=True, stream_options={"include_usage": True})
    )
    *told, last = chunks
    text = "".join(chunk.choices[0].delta.content or "" for chunk in told)
    assert text == whole.choices[0].message.content
    assert told[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert last.usage.completion_tokens == whole.usage.completion_tokens == 20


def test_chat_log_probabilities_and_a_stop_string(client: InferenceClient) -> None:
    wishes = {"messages": MESSAGES, "max_tokens": 30, "temperature": 0}
    answer = client.chat_completion(**wishes, logprobs=True, top_logprobs=2, seed=1)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 2 for token in tokens)
    whole = answer.choices[0].message.content
    stop = next(word for word in whole.split() if word.isascii() and len(word) > 2)
    cut = client.chat_completion(**wishes, stop=[stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)]


def test_the_openai_shaped_alias_takes_any_model_name(client: InferenceClient) -> None:
    answer = client.chat.completions.create(model="tgi", messages=MESSAGES, max_tokens=2)
    assert answer.usage.completion_tokens == 2


def test_info_and_health(server: Server) -> None:
    # without the name of a provider the client refuses to ask
    client = InferenceClient(server.url, provider="hf-inference")
    assert client.get_endpoint_info()["model_id"] == "fake-model"
    assert client.health_check()


@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_are_the_clients_validation_error(
    client: InferenceClient, stream: bool
) -> None:
    with pytest.raises(ValidationError, match="max_new_tokens"):
        list(client.text_generation(PROMPT, max_new_tokens=0, stream=stream))
    with pytest.raises(ValidationError, match="inputs"):
        list(client.text_generation("word " * 5000, stream=stream))


@pytest.mark.parametrize("stream", [False, True])
def test_bad_chats_are_the_clients_http_error(client: InferenceClient, stream: bool) -> None:
    with pytest.raises(HfHubHTTPError, match="temperature") as caught:
        list(client.chat_completion(MESSAGES, temperature=-1, stream=stream))
    assert caught.value.response.status_code == 422


def test_overload_is_the_clients_overloaded_error(narrow_server: Server) -> None:
    client = InferenceClient(narrow_server.url)
    with pytest.raises(OverloadedError):
        client.text_generation(PROMPT, best_of=2, do_sample=True)
    with pytest.raises(HfHubHTTPError) as caught:
        client.chat_completion(MESSAGES, extra_body={"n": 2})
    assert caught.value.response.status_code == 429


def test_async_is_like_sync(server: Server, client: InferenceClient) -> None:
    async def ask() -> tuple[str, str, str]:
        asynchronous = AsyncInferenceClient(server.url)
        text = await asynchronous.text_generation(PROMPT, max_new_tokens=20)
        stream = await asynchronous.text_generation(
            PROMPT, max_new_tokens=20, stream=True, details=True
        )
        streamed = [event async for event in stream][-1].generated_text
        chat = await asynchronous.chat_completion(MESSAGES, max_tokens=10, temperature=0)
        with pytest.raises(ValidationError):
            await asynchronous.text_generation(PROMPT, max_new_tokens=0)
        return text, streamed, chat.choices[0].message.content

    text = client.text_generation(PROMPT, max_new_tokens=20)
    said = client.chat_completion(MESSAGES, max_tokens=10, temperature=0)
    assert asyncio.run(ask()) == (text, text, said.choices[0].message.content)


SCHEMA = {
    "type": "object",
    "properties": {"fox": {"type": "boolean"}, "color": {"enum": ["red", "grey"]}},
    "required": ["fox", "color"],
    "additionalProperties": False,
}


def test_output_follows_a_grammar(client: InferenceClient) -> None:
    wishes = {"max_new_tokens": 200, "return_full_text": False}
    text = client.text_generation(PROMPT, grammar={"type": "json", "value": SCHEMA}, **wishes)
    assert set(json.loads(text)) == {"fox", "color"}
    text = client.text_generation(
        PROMPT, grammar={"type": "regex", "value": "[0-9]{3}-[0-9]{4}"}, **wishes
    )
    assert re.fullmatch("[0-9]{3}-[0-9]{4}", text)


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json_schema", "json_schema": {"name": "f", "schema": SCHEMA}},
        {"type": "json_object", "value": SCHEMA},
    ],
)
def test_a_chat_follows_a_schema(client: InferenceClient, wanted: dict) -> None:
    answer = client.chat_completion(MESSAGES, max_tokens=200, temperature=0, response_format=wanted)
    assert set(json.loads(answer.choices[0].message.content)) == {"fox", "color"}


def test_a_tool_that_must_be_called_is_called(client: InferenceClient) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
    answer = client.chat_completion(
        MESSAGES, max_tokens=300, temperature=0, tools=[tool], tool_choice="required"
    )
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "look"
    assert set(json.loads(call.function.arguments)) == {"fox", "color"}
