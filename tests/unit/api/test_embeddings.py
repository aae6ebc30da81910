"""Vectors through the API process: what the engine is asked, errors, cancelling, counting."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from tgi_plugin_embeddings_api.plugin import tgi_routes

from tgi_core.contract import PromptEmbedded, Request, RequestFailed, RequestStarted

PATH = "/v1/embeddings"
SIZE = 4


def vector_of(request: Request) -> np.ndarray:
    return np.array([len(request.prompt), sum(request.prompt), 1, 2], "<f4")


def embedded(request: Request) -> list:
    started = RequestStarted(request_id=request.request_id, queue_s=0.5, num_cached=0)
    vector = vector_of(request).tobytes()
    return [(started,), (PromptEmbedded(request_id=request.request_id, vector=vector),)]


@pytest.fixture
def embedding(server):
    """A server whose model embeds, with the plugin."""
    model = server.service.model
    server.service.model = replace(model, limits=replace(model.limits, embedding_size=SIZE))
    server.engine.script = embedded
    return server.with_options(tgi_routes())


def test_each_text_is_a_request_of_its_own(embedding):
    reply = embedding.post(PATH, {"input": ["Hi", "Hello"], "model": "m"})
    assert reply.status == 200, reply.body
    requests = [generation.request for generation in embedding.engine.generations]
    assert all(request.embedding for request in requests)
    encode = embedding.tokenizer.encode
    assert [r.prompt for r in requests] == [
        tuple(encode(text, add_special_tokens=True)) for text in ("Hi", "Hello")
    ]
    for request, item in zip(requests, reply.json["data"], strict=True):
        want = vector_of(request) / np.linalg.norm(vector_of(request))
        np.testing.assert_allclose(item["embedding"], want, rtol=1e-6)
    assert reply.json["usage"]["prompt_tokens"] == sum(len(r.prompt) for r in requests)
    assert embedding.idle


def test_vectors_come_in_the_order_of_their_texts(embedding):
    def script(request: Request) -> list:
        started, vector = embedded(request)
        # the first one takes longest
        return [started] * (9 - len(request.prompt)) + [vector]

    embedding.engine.script = script
    texts = ["a" * n for n in range(1, 8)]
    data = embedding.post(PATH, {"input": texts}).json["data"]
    lengths = [item["embedding"][0] / item["embedding"][2] for item in data]
    # a token for the beginning of each
    np.testing.assert_allclose(lengths, [n + 1 for n in range(1, 8)], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "cannot be empty"),
        ([[]], "cannot be empty"),
        (["x"] * 2049, "at most 2048 texts"),
        ("x" * 200, "at most 100 tokens. Given: 201"),
        ([999_999], "token ids must be"),
    ],
)
def test_what_cannot_be_embedded_is_refused_before_the_engine(embedding, given, said):
    reply = embedding.post(PATH, {"input": given})
    assert reply.status == 400 and said in reply.json["error"]["message"]
    assert not embedding.engine.generations and embedding.idle


def test_a_model_that_does_not_embed_says_so(server):
    reply = server.with_options(tgi_routes()).post(PATH, {"input": "a"})
    assert reply.status == 400 and "cannot embed" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": "a"}),
        ("/generate_stream", {"inputs": "a"}),
        ("/", {"inputs": "a"}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/vertex", {"instances": [{"inputs": "a"}]}),
        ("/invocations", {"inputs": "a"}),
    ],
)
def test_a_model_that_only_embeds_generates_nothing(embedding, path, body):
    model = embedding.service.model
    embedding.service.model = replace(model, limits=replace(model.limits, generates=False))
    reply = embedding.post(path, body)
    # a stream of TGI's has begun by then
    assert reply.status == (200 if path == "/generate_stream" else 422)
    assert b"embeds texts and generates none" in reply.body
    assert not embedding.engine.generations and embedding.idle


@pytest.mark.parametrize(("invalid", "status"), [(True, 400), (False, 500)])
def test_one_text_that_fails_ends_all(embedding, invalid, status):
    def script(request: Request) -> list:
        if len(request.prompt) == 3:
            failed = RequestFailed(
                request_id=request.request_id, message="bad luck", invalid=invalid
            )
            return [(failed,)]
        return []  # for ever

    embedding.engine.script = script
    reply = embedding.post(PATH, {"input": ["a", "aa", "aaa"]})
    assert reply.status == status and "bad luck" in reply.json["error"]["message"]
    assert embedding.idle


def test_a_client_that_goes_away_cancels_all(embedding):
    embedding.engine.script = lambda request: []

    async def leave() -> None:
        gone = asyncio.Event()
        body = {"input": ["a", "b"]}
        asking = asyncio.create_task(embedding.exchange("POST", PATH, body, gone=gone))
        while len(embedding.engine.generations) < 2:
            await asyncio.sleep(0)
        gone.set()
        await asking

    asyncio.run(leave())
    assert embedding.idle


def test_a_long_list_is_given_to_the_engine_in_portions_and_takes_one_permit(embedding):
    embedding.engine.script = lambda request: []
    free_before = embedding.service.admission.free

    async def watch() -> None:
        gone = asyncio.Event()
        body = {"input": ["a"] * 100}
        asking = asyncio.create_task(embedding.exchange("POST", PATH, body, gone=gone))
        while len(embedding.engine.generations) < 32:
            await asyncio.sleep(0)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(embedding.engine.generations) == 32
        assert embedding.service.admission.free == free_before - 1
        gone.set()
        await asking

    asyncio.run(watch())
    assert embedding.idle


def test_it_is_counted(embedding):
    embedding.post(PATH, {"input": ["a", "b"]})
    metrics = embedding.get("/metrics").body.decode()
    assert "tgi_request_count 1" in metrics and "tgi_request_success 1" in metrics
    assert "tgi_request_input_length_count 2" in metrics
    assert "tgi_request_generated_tokens_count 0" in metrics


def test_prefixes_are_shared_only_by_those_who_have_one_key(embedding):
    embedding.with_options(tgi_routes(), api_keys=("a", "b"))
    for key in "ab":
        assert embedding.request("POST", PATH, {"x-api-key": key}, {"input": "Hi"}).status == 200
    assert len({g.request.cache_salt for g in embedding.engine.generations}) == 2
