"""Chat, completions, streams, tools, schemas, embeddings, log-probabilities, errors."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise

import pytest
from openai import (
    AsyncOpenAI,
    BadRequestError,
    NotFoundError,
    OpenAI,
    RateLimitError,
    UnprocessableEntityError,
)

from tests.servers import Server

MODEL = "fake-model"
PROMPT = "Once upon a time there was a fox: Größe 你好 🦊"
MESSAGES = [{"role": "system", "content": "Be short."}, {"role": "user", "content": PROMPT}]


def connect(server: Server) -> OpenAI:
    return OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0)


@pytest.fixture
def client(server: Server) -> OpenAI:
    return connect(server)


def test_chat_whole(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=12, temperature=0
    )
    [choice] = answer.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length" and choice.logprobs is None
    assert answer.object == "chat.completion" and answer.model == MODEL and answer.id
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    assert answer.usage.prompt_tokens_details.cached_tokens is not None


def test_chat_streamed_is_chat_whole(client: OpenAI) -> None:
    wishes = {"model": MODEL, "messages": MESSAGES, "max_tokens": 30, "temperature": 0}
    whole = client.chat.completions.create(**wishes)
    chunks = list(
        client.chat.completions.create(
            **wishes, stream=True, stream_options={"include_usage": True}
        )
    )
    *told, last = chunks
    assert "".join(c.choices[0].delta.content or "" for c in told) == (
        whole.choices[0].message.content
    )
    assert told[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in told] == [None] * (len(told) - 1) + ["length"]
    assert last.choices == [] and last.usage.completion_tokens == whole.usage.completion_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_the_streaming_helper_collects_the_same_message(client: OpenAI) -> None:
    wishes = {"model": MODEL, "messages": MESSAGES, "max_tokens": 60, "temperature": 0}
    text = client.chat.completions.create(**wishes).choices[0].message.content
    wishes["stop"] = next(word for word in text.split() if word.isascii() and len(word) > 2)
    whole = client.chat.completions.create(**wishes)
    with client.chat.completions.stream(**wishes) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert {"content.delta", "content.done"} <= kinds


def test_several_choices_with_log_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=6, n=3, seed=1, logprobs=True, top_logprobs=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    for choice in answer.choices:
        for token in choice.logprobs.content:
            first, second = token.top_logprobs
            assert first.logprob >= second.logprob
            assert token.bytes is None or bytes(token.bytes).decode() == token.token


def test_several_choices_streamed(client: OpenAI) -> None:
    wishes = {"model": MODEL, "messages": MESSAGES, "max_tokens": 6, "n": 2, "seed": 1}
    whole = client.chat.completions.create(**wishes)
    texts = ["", ""]
    for chunk in client.chat.completions.create(**wishes, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]


def test_a_seed_decides_the_text(client: OpenAI) -> None:
    def sampled(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=16, seed=seed
        )
        return answer.choices[0].message.content

    assert sampled(1) == sampled(1) != sampled(2)


def test_a_stop_string_is_cut(client: OpenAI) -> None:
    wishes = {"model": MODEL, "messages": MESSAGES, "max_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**wishes).choices[0].message.content or ""
    stop = next(word for word in whole.split() if word.isascii() and len(word) > 2)
    cut = client.chat.completions.create(**wishes, stop=stop).choices[0]
    assert cut.message.content == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop"
    listed = client.chat.completions.create(**wishes, stop=[stop, "\x00"], stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in listed) == cut.message.content


def test_a_bias_decides_the_token(client: OpenAI) -> None:
    for wanted in (100, 101):
        [choice] = client.completions.create(
            model=MODEL,
            prompt=PROMPT,
            max_tokens=3,
            temperature=0,
            logprobs=0,
            logit_bias={str(wanted): 100},
        ).choices
        first, *others = choice.logprobs.tokens
        assert others == [first, first]


def test_completion_whole_and_streamed(client: OpenAI) -> None:
    wishes = {"model": MODEL, "prompt": PROMPT, "max_tokens": 25, "temperature": 0}
    whole = client.completions.create(**wishes)
    chunks = list(
        client.completions.create(**wishes, stream=True, stream_options={"include_usage": True})
    )
    *told, last = chunks
    assert "".join(chunk.choices[0].text for chunk in told) == whole.choices[0].text
    assert told[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert last.usage.total_tokens == whole.usage.total_tokens


def test_completion_of_several_prompts_with_several_choices(client: OpenAI) -> None:
    prompts = ["one", "two"]
    answer = client.completions.create(
        model=MODEL, prompt=prompts, n=2, max_tokens=5, seed=4, temperature=1
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    alone = client.completions.create(
        model=MODEL, prompt="two", n=2, max_tokens=5, seed=4, temperature=1
    )
    assert [c.text for c in answer.choices[2:]] == [c.text for c in alone.choices]


def test_completion_echo_scores_the_prompt(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=PROMPT, echo=True, logprobs=2, max_tokens=3, temperature=0
    )
    [choice] = answer.choices
    logprobs = choice.logprobs
    assert choice.text.startswith(PROMPT)
    assert len(logprobs.tokens) == answer.usage.total_tokens == len(logprobs.token_logprobs)
    assert logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])
    assert all(before <= after for before, after in pairwise(logprobs.text_offset))
    only = client.completions.create(
        model=MODEL, prompt=PROMPT, echo=True, logprobs=2, max_tokens=0, temperature=0
    )
    assert only.choices[0].text == PROMPT and only.usage.completion_tokens == 0
    assert only.choices[0].logprobs.token_logprobs == (logprobs.token_logprobs[:-3])


def test_completion_of_token_ids(client: OpenAI) -> None:
    several = client.completions.create(
        model=MODEL, prompt=[[10, 11, 12], [13, 14]], max_tokens=4, temperature=0
    )
    alone = client.completions.create(model=MODEL, prompt=[13, 14], max_tokens=4, temperature=0)
    assert several.choices[1].text == alone.choices[0].text


def test_best_of(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt=PROMPT, n=1, best_of=2, max_tokens=5, seed=4
    )
    assert len(answer.choices) == 1


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_a_bad_request_is_the_clients_error(client: OpenAI) -> None:
    with pytest.raises(UnprocessableEntityError, match="temperature") as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=-1)
    assert caught.value.type == "invalid_request_error" and caught.value.code == "validation"
    assert caught.value.request_id
    with pytest.raises(UnprocessableEntityError, match="messages"):
        client.chat.completions.create(model=MODEL, messages="hello")
    with pytest.raises(NotFoundError):
        client.post("/no-such-route", cast_to=object)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_the_clients_error(client: OpenAI, stream: bool) -> None:
    with pytest.raises(UnprocessableEntityError, match="inputs"):
        client.completions.create(model=MODEL, prompt="word " * 5000, stream=stream)
    with pytest.raises(UnprocessableEntityError, match="inputs"):
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "word " * 5000}], stream=stream
        )


@pytest.mark.parametrize("stream", [False, True])
def test_overload_is_the_clients_rate_limit(narrow_server: Server, stream: bool) -> None:
    client = connect(narrow_server)
    with pytest.raises(RateLimitError) as caught:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2, stream=stream)
    assert caught.value.code == "overloaded"
    assert caught.value.response.headers["retry-after"] == "1"


def test_async_is_like_sync(server: Server, client: OpenAI) -> None:
    wishes = {"model": MODEL, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}

    async def ask() -> tuple[str, str]:
        async with AsyncOpenAI(base_url=server.url + "/v1", api_key="-") as asynchronous:
            whole = await asynchronous.chat.completions.create(**wishes)
            stream = await asynchronous.chat.completions.create(**wishes, stream=True)
            texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
            with pytest.raises(UnprocessableEntityError):
                await asynchronous.chat.completions.create(**{**wishes, "temperature": -1})
        return whole.choices[0].message.content, "".join(texts)

    whole = client.chat.completions.create(**wishes).choices[0].message.content
    assert asyncio.run(ask()) == (whole, whole)


def test_a_stream_that_is_left_frees_its_place(narrow_server: Server) -> None:
    client = connect(narrow_server)
    stream = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=3000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    stream.close()
    patient = client.with_options(max_retries=10)
    answer = patient.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=2)
    assert answer.usage.completion_tokens == 2


SCHEMA = {
    "type": "object",
    "properties": {"fox": {"type": "boolean"}, "color": {"enum": ["red", "grey"]}},
    "required": ["fox", "color"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_follows_a_schema(client: OpenAI, stream: bool) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=MESSAGES,
        max_tokens=200,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "f", "schema": SCHEMA}},
        stream=stream,
    )
    if stream:
        text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
    else:
        text = answer.choices[0].message.content
        assert answer.choices[0].finish_reason == "stop"
    said = json.loads(text)
    assert said["fox"] in (True, False) and said["color"] in ("red", "grey")


TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA},
}


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_must_be_called_is_called(client: OpenAI, stream: bool) -> None:
    wishes = {
        "model": MODEL,
        "messages": MESSAGES,
        "max_tokens": 300,
        "temperature": 0,
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "look"}},
    }
    if stream:
        with client.chat.completions.stream(**wishes) as events:
            choice = events.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**wishes).choices[0]
    [call] = choice.message.tool_calls
    assert call.id and call.type == "function" and call.function.name == "look"
    assert set(json.loads(call.function.arguments)) == {"fox", "color"}


def test_embeddings_in_both_encodings(embedding_server: Server) -> None:
    texts = [PROMPT, "fox"]
    with connect(embedding_server) as client:
        # base64 unless it is told otherwise
        packed = client.embeddings.create(model=MODEL, input=texts)
        plain = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
        short = client.embeddings.create(model=MODEL, input=texts[0], dimensions=4)
    assert packed.object == "list" and packed.model == MODEL
    assert packed.usage.total_tokens == packed.usage.prompt_tokens == plain.usage.prompt_tokens > 2
    for index, (one, other) in enumerate(zip(packed.data, plain.data, strict=True)):
        assert one.index == other.index == index
        assert one.embedding == pytest.approx(other.embedding, rel=1e-6)
        assert sum(x * x for x in one.embedding) == pytest.approx(1, rel=1e-5)
    assert (len(packed.data[0].embedding), len(short.data[0].embedding)) == (16, 4)


def test_embeddings_from_many_async_clients(embedding_server: Server) -> None:
    texts = [f"text {i}" for i in range(8)]

    async def ask() -> list[list[float]]:
        async with AsyncOpenAI(
            base_url=embedding_server.url + "/v1", api_key="unused", max_retries=0
        ) as client:
            answers = await asyncio.gather(
                *[client.embeddings.create(model=MODEL, input=text) for text in texts]
            )
            return [answer.data[0].embedding for answer in answers]

    found = asyncio.run(ask())
    with connect(embedding_server) as client:
        together = client.embeddings.create(model=MODEL, input=texts)
    for one, other in zip(found, together.data, strict=True):
        assert one == pytest.approx(other.embedding, rel=1e-5)


def test_embeddings_that_cannot_be(embedding_server: Server, server: Server) -> None:
    with connect(embedding_server) as client:
        with pytest.raises(BadRequestError, match="at most"):
            client.embeddings.create(model=MODEL, input="word " * 9000)
        with pytest.raises(BadRequestError, match="dimensions"):
            client.embeddings.create(model=MODEL, input="a", dimensions=17)
    with connect(server) as client, pytest.raises(BadRequestError, match="cannot embed"):
        client.embeddings.create(model=MODEL, input="a")
