"""Generation whole and streamed, sync and async; details, best_of, top tokens, chat; errors."""

from __future__ import annotations

import asyncio
import re

import pytest
from text_generation import AsyncClient, Client
from text_generation.errors import OverloadedError, ValidationError
from text_generation.types import FinishReason, Grammar, GrammarType, Message

from tests.servers import Server

PROMPT = "Once upon a time there was a fox: Größe 你好 🦊"


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url)


def test_a_whole_text_with_details(client: Client) -> None:
    answer = client.generate(PROMPT, max_new_tokens=12, decoder_input_details=True)
    details = answer.details
    assert details.finish_reason == FinishReason.Length
    assert details.generated_tokens == len(details.tokens) == 12
    assert details.seed is None
    assert details.prefill[0].logprob is None
    assert all(token.logprob < 0 for token in details.prefill[1:])
    assert all(token.logprob < 0 for token in details.tokens)
    assert not any(token.special for token in details.tokens)


def test_the_stream_is_the_whole_text(client: Client) -> None:
    whole = client.generate(PROMPT, max_new_tokens=30)
    events = list(client.generate_stream(PROMPT, max_new_tokens=30))
    assert [event.token.id for event in events] == [token.id for token in whole.details.tokens]
    assert events[-1].generated_text == whole.generated_text
    assert events[-1].details.finish_reason == FinishReason.Length
    assert events[-1].details.generated_tokens == 30
    assert all(event.generated_text is None for event in events[:-1])


def test_the_prompt_comes_back_as_it_was(client: Client) -> None:
    alone = client.generate(PROMPT, max_new_tokens=5).generated_text
    full = client.generate(PROMPT, max_new_tokens=5, return_full_text=True).generated_text
    assert full == PROMPT + alone


def test_a_seed_decides_the_text(client: Client) -> None:
    def sampled(seed: int) -> str:
        answer = client.generate(PROMPT, do_sample=True, seed=seed, temperature=1.5)
        assert answer.details.seed == seed
        return answer.generated_text

    assert sampled(1) == sampled(1) != sampled(2)


def test_a_stop_sequence_ends_the_text_and_stays_in_it(client: Client) -> None:
    whole = client.generate(PROMPT, max_new_tokens=30).generated_text
    stop = next(word for word in whole.split() if word.isascii() and len(word) > 2)
    answer = client.generate(PROMPT, max_new_tokens=30, stop_sequences=[stop])
    assert answer.details.finish_reason == FinishReason.StopSequence
    assert answer.details.generated_tokens < 30
    assert stop in answer.generated_text and whole.startswith(answer.generated_text)


def test_best_of_gives_the_others_too(client: Client) -> None:
    answer = client.generate(PROMPT, best_of=2, do_sample=True, max_new_tokens=10)
    [other] = answer.details.best_of_sequences

    def mean(tokens) -> float:
        return sum(token.logprob for token in tokens) / len(tokens)

    assert mean(answer.details.tokens) >= mean(other.tokens)
    assert other.generated_tokens == len(other.tokens)


def test_top_tokens_begin_with_the_greedy_one(client: Client) -> None:
    answer = client.generate(PROMPT, max_new_tokens=4, top_n_tokens=3)
    assert [len(tokens) for tokens in answer.details.top_tokens] == [3] * 4
    for token, [first, second, _] in zip(
        answer.details.tokens, answer.details.top_tokens, strict=True
    ):
        assert first.id == token.id and first.logprob >= second.logprob
    streamed = list(client.generate_stream(PROMPT, max_new_tokens=4, top_n_tokens=3))
    assert [event.top_tokens for event in streamed] == answer.details.top_tokens


def test_all_sampling_parameters_are_taken(client: Client) -> None:
    answer = client.generate(
        PROMPT,
        do_sample=True,
        max_new_tokens=5,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        seed=3,
        temperature=0.7,
        top_k=20,
        top_p=0.9,
        typical_p=0.9,
        truncate=4,
        decoder_input_details=True,
    )
    assert answer.details.generated_tokens == 5
    assert len(answer.details.prefill) == 4


def test_a_prompt_that_is_too_long_is_the_clients_validation_error(client: Client) -> None:
    too_long = "word " * 5000
    with pytest.raises(ValidationError, match="inputs"):
        client.generate(too_long)
    with pytest.raises(ValidationError, match="inputs"):
        list(client.generate_stream(too_long))


def test_what_the_server_does_not_allow_is_the_clients_validation_error(client: Client) -> None:
    with pytest.raises(ValidationError, match="max_new_tokens"):
        client.generate(PROMPT, max_new_tokens=0)
    with pytest.raises(ValidationError, match="stop"):
        client.generate(PROMPT, stop_sequences=list("abcde"))


def test_overload_is_the_clients_overloaded_error(narrow_server: Server) -> None:
    client = Client(narrow_server.url)
    with pytest.raises(OverloadedError, match="overloaded"):
        client.generate(PROMPT, best_of=2, do_sample=True)
    assert client.generate(PROMPT, max_new_tokens=1).details.generated_tokens == 1


def test_chat(client: Client) -> None:
    answer = client.chat([Message(role="user", content=PROMPT)], max_tokens=8, temperature=0.0)
    [choice] = answer.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason == "length"
    assert answer.usage["completion_tokens"] == 8


def test_errors_of_chat_have_a_type_too(client: Client, narrow_server: Server) -> None:
    messages = [Message(role="user", content=PROMPT)]
    with pytest.raises(ValidationError, match="temperature"):
        client.chat(messages, temperature=-1.0)
    with pytest.raises(OverloadedError):
        Client(narrow_server.url).chat(messages, n=2)


def test_async_is_like_sync(server: Server, client: Client) -> None:
    asynchronous = AsyncClient(server.url)

    async def ask() -> tuple[str, list[int], str]:
        whole, other = await asyncio.gather(
            asynchronous.generate(PROMPT, max_new_tokens=20),
            asynchronous.chat([Message(role="user", content="Hi")], max_tokens=4, temperature=0.0),
        )
        stream = asynchronous.generate_stream(PROMPT, max_new_tokens=20)
        ids = [event.token.id async for event in stream]
        with pytest.raises(ValidationError):
            await asynchronous.generate(PROMPT, max_new_tokens=0)
        with pytest.raises(ValidationError):
            async for _ in asynchronous.generate_stream(PROMPT, max_new_tokens=0):
                pass
        return whole.generated_text, ids, other.choices[0].message.content

    text, ids, said = asyncio.run(ask())
    whole = client.generate(PROMPT, max_new_tokens=20)
    assert text == whole.generated_text
    assert ids == [token.id for token in whole.details.tokens]
    assert said


def test_output_follows_a_grammar(client: Client) -> None:
    grammar = Grammar(type=GrammarType.Regex, value="[0-9]{3}-[0-9]{4}")
    text = client.generate(PROMPT, max_new_tokens=60, grammar=grammar).generated_text
    assert re.fullmatch("[0-9]{3}-[0-9]{4}", text)
    events = list(client.generate_stream(PROMPT, max_new_tokens=60, grammar=grammar))
    assert events[-1].generated_text == text
