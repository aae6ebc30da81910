"""OpenAI's own SDK and its Responses API against a server with the plugin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

HI: Any = {
    "model": "any",
    "input": "What is the weather like in Paris today?",
    "max_output_tokens": 24,
    "temperature": 0,
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
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def facts(response: Any) -> dict[str, Any]:
    """All of a response that is the same each time."""
    found = response.to_dict()
    for name in ("id", "created_at", "completed_at"):
        found.pop(name)
    found["output"] = [item | {"id": ""} for item in found["output"]]
    # the second one finds the first one's prompt
    found["usage"]["input_tokens_details"].pop("cached_tokens")
    return dict(found)


def test_whole_and_streamed_responses_agree(client: openai.OpenAI) -> None:
    whole = client.responses.create(**HI)
    events = list(client.responses.create(**HI, stream=True))
    final: Any = events[-1]
    assert final.type == "response.incomplete"
    assert facts(final.response) == facts(whole)
    assert whole.status == "incomplete" and whole.usage and whole.usage.output_tokens == 24
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(texts) == whole.output_text != ""
    assert len(texts) > 5
    assert [event.sequence_number for event in events] == list(range(len(events)))


def test_the_sdks_own_accumulator_agrees(client: openai.OpenAI) -> None:
    # with a stop string it would be complete, but this API has none: so until the model's end
    asked: Any = HI | {"max_output_tokens": 3000}
    with client.responses.stream(**asked) as stream:
        for _ in stream:
            pass
        streamed = stream.get_final_response()
    whole = client.responses.create(**asked)
    assert (streamed.status, whole.status) == ("completed", "completed")
    assert streamed.output_text == whole.output_text != ""


def test_the_count_is_that_of_the_prompt(client: openai.OpenAI) -> None:
    prompt: Any = {"model": "any", "input": HI["input"], "instructions": "You tell stories."}
    usage = client.responses.create(**prompt, max_output_tokens=1).usage
    assert usage
    assert client.responses.input_tokens.count(**prompt).input_tokens == usage.input_tokens > 15


def test_a_conversation_goes_on_with_the_items_of_the_answer(client: openai.OpenAI) -> None:
    first = client.responses.create(**HI)
    items = [{"role": "user", "content": HI["input"]}, *(item.to_dict() for item in first.output)]
    again: Any = [*items, {"role": "user", "content": "And tomorrow?"}]
    second = client.responses.create(**HI | {"input": again})
    assert second.usage and first.usage
    assert second.usage.input_tokens > first.usage.total_tokens
    assert second.usage.input_tokens_details.cached_tokens > first.usage.input_tokens


def test_codexs_first_question_is_answered(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "web_search"}, {"type": "namespace"}, {"type": "image_generation"}]
    response = client.responses.create(model="any", input="", max_output_tokens=1, tools=tools)
    assert response.usage and response.usage.output_tokens == 1
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**HI, previous_response_id=response.id)
    assert caught.value.code == "previous_response_not_found"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(response.id)


def test_an_answer_follows_a_schema(client: openai.OpenAI) -> None:
    wanted: Any = {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}}
    response = client.responses.create(**HI, text=wanted)
    assert response.status == "completed"
    assert json.loads(response.output_text)["size"] in ("small", "large")


def test_a_client_that_leaves_frees_its_place(client: openai.OpenAI) -> None:
    asked: Any = HI | {"max_output_tokens": 1_000_000}
    with client.responses.create(**asked, stream=True) as stream:
        for _ in stream:
            break
    while True:
        try:
            assert client.responses.create(**HI).output_text
            break
        except openai.RateLimitError as error:
            assert error.response.headers["retry-after"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": -1}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "word " * 5000}, "inputs"),
        ({"background": True}, "background"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_sdks_own(
    client: openai.OpenAI, change: dict[str, Any], words: str, stream: bool
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**HI | change, stream=stream)
    assert words in caught.value.message and caught.value.request_id
