"""Ollama's own Python package against a server with the plugin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import ollama
import pytest

from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

TURNS = [{"role": "user", "content": "What is the weather like in Paris today?"}]
OPTIONS = {"num_predict": 24, "temperature": 0}
FACTS = ("model", "done", "done_reason", "prompt_eval_count", "eval_count")


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
    with serve(str(model), *flags, "--served-model-name", "fake:latest") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


def chat(client: ollama.Client, **more: Any) -> Any:
    return client.chat("fake", TURNS, **{"options": OPTIONS} | more)


def test_whole_and_streamed_chats_agree(client: ollama.Client) -> None:
    whole = chat(client)
    parts = list(chat(client, stream=True))
    assert len(parts) > 5 and [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert "".join(part.message.content for part in parts) == whole.message.content != ""
    for name in FACTS:
        assert whole[name] == parts[-1][name]
    assert (whole.done_reason, whole.eval_count) == ("length", 24)
    assert whole.total_duration >= whole.eval_duration > 0
    assert whole.prompt_eval_count > 10


def test_whole_and_streamed_completions_agree(client: ollama.Client) -> None:
    for raw in (False, True):
        more: Any = {"prompt": "Once upon a time", "options": OPTIONS, "raw": raw}
        whole = client.generate("fake", **more)
        parts = list(client.generate("fake", stream=True, **more))
        assert "".join(part.response or "" for part in parts) == whole.response != ""
        for name in FACTS:
            assert whole[name] == parts[-1][name]


def test_a_prompt_is_what_a_user_says(client: ollama.Client) -> None:
    completed = client.generate("fake", prompt=TURNS[0]["content"], options=OPTIONS)
    answered = chat(client)
    assert completed.response == answered.message.content
    assert completed.prompt_eval_count == answered.prompt_eval_count


def test_stop_strings_and_endless_answers(client: ollama.Client) -> None:
    text = chat(client).message.content
    stopped = chat(client, options=OPTIONS | {"stop": [text[5:8]]})
    assert text.startswith(stopped.message.content) and stopped.message.content != text
    assert stopped.done_reason == "stop"


def test_an_answer_follows_a_schema(client: ollama.Client) -> None:
    for answer in (
        chat(client, format=SCHEMA).message.content,
        client.generate("fake", prompt="Hi", options=OPTIONS, format=SCHEMA).response,
        "".join(part.message.content for part in chat(client, format=SCHEMA, stream=True)),
    ):
        assert json.loads(answer)["size"] in ("small", "large")
    assert chat(client, format="json").message.content.lstrip()[0] == "{"


def test_a_client_that_leaves_frees_its_place(client: ollama.Client) -> None:
    for wanted in (-1, 1_000_000):
        for _ in chat(client, stream=True, options={"num_predict": wanted}):
            break
        while True:
            try:
                assert chat(client).eval_count == 24
                break
            except ollama.ResponseError as error:
                assert error.status_code == 429


def test_the_model_is_found_under_any_name(client: ollama.Client) -> None:
    [listed] = client.list().models
    [running] = client.ps().models
    assert listed.model == running.model == "fake:latest"
    assert listed.digest == running.digest and listed.modified_at
    shown = client.show("another")
    assert shown.modelinfo and shown.modelinfo["tgi.context_length"] == 4096
    assert shown.template and "message" in shown.template
    assert "completion" in (shown.capabilities or [])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"temperature": -1}}, "temperature"),
        ({"options": {"stop": list("abcdefgh")}}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, "inputs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_packages_own(
    client: ollama.Client, change: dict[str, Any], words: str, stream: bool
) -> None:
    with pytest.raises(ollama.ResponseError) as caught:
        list(client.chat(**{"model": "m", "messages": TURNS, "stream": stream} | change))
    assert caught.value.status_code == 400 and words in caught.value.error
