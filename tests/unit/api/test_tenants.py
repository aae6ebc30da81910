"""Who shares the prefix cache: nobody learns from it what others have asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.engines import fake_engine
from tests.in_process import InProcessEngine
from tests.unit.api.conftest import Server

TEXT = "Dear Dr. Lee, the results of Ms. Smith's test of last Monday are as follows: "
CHAT = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": 4, "temperature": 0}
A, B = ({"authorization": f"Bearer key-{name}"} for name in "ab")


@pytest.fixture
def shared(server: Server) -> Server:
    """A server with two keys on a real engine."""
    model = server.service.model
    assert model is not None
    engine = InProcessEngine(fake_engine(vocab_size=model.limits.vocab_size))
    limits = replace(model.limits, max_input_tokens=1000, max_total_tokens=2000)
    server.service.model = replace(model, limits=limits)
    server.service.engine = server.engine = engine
    return server.with_options(api_keys=("key-a", "key-b"))


def cached(server: Server, headers: dict[str, str], **more: object) -> int:
    """Tokens of the prompt that were found: what the time to the first token tells."""
    reply = server.request("POST", "/v1/chat/completions", headers, {**CHAT, **more})
    assert reply.status == 200, reply.body
    told = reply.json["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert told == server.engine.generations[-1].num_cached
    return told


def test_a_key_finds_nothing_of_what_another_has_cached(shared):
    assert cached(shared, A) == 0
    computed = shared.engine.stats.prefill_tokens
    assert cached(shared, A) > len(TEXT)
    computed_with_hit = shared.engine.stats.prefill_tokens - computed
    assert cached(shared, B) == 0
    # the same work as if nobody had asked before
    assert shared.engine.stats.prefill_tokens - computed - computed_with_hit == computed
    assert cached(shared, B) > len(TEXT)
    assert cached(shared, {"x-api-key": "key-a"}) > len(TEXT)


def test_neither_does_one_that_asks_at_the_same_time(shared):
    async def together():
        ask = [
            shared.exchange("POST", "/v1/chat/completions", CHAT, headers=who)
            for who in (A, B, A, B)
        ]
        await asyncio.gather(*ask)

    asyncio.run(together())
    found = {g.request.cache_salt: [] for g in shared.engine.generations}
    assert len(found) == 2
    for generation in shared.engine.generations:
        found[generation.request.cache_salt].append(generation.num_cached)
    assert all(min(each) == 0 and max(each) > len(TEXT) for each in found.values())


def test_a_gateway_with_one_key_may_keep_its_own_clients_apart(shared):
    assert cached(shared, A, cache_salt="one") == 0
    assert cached(shared, A, cache_salt="one") > len(TEXT)
    assert cached(shared, A, cache_salt="two") == 0
    assert cached(shared, A) == 0
    assert cached(shared, B, cache_salt="one") == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"inputs": TEXT}),
        ("/generate_stream", {"inputs": TEXT}),
        ("/", {"inputs": TEXT}),
        ("/v1/completions", {"prompt": TEXT, "max_tokens": 2}),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/vertex", {"instances": [{"inputs": TEXT}]}),
        ("/invocations", {"inputs": TEXT}),
        ("/v2/models/m/infer", {"id": "1", "inputs": [
            {"name": "in", "shape": [1], "datatype": "BYTES", "data": [*TEXT.encode()]}
        ], "outputs": [{"name": "out", "datatype": "BYTES"}]}),
    ],
)  # fmt: skip
def test_every_route_tells_the_engine_whose_prompt_it_is(server, path, body):
    server.with_options(api_keys=("key-a", "key-b"))
    salts = []
    for who in (A, B, A):
        assert server.request("POST", path, who, body).status == 200
        salts.append(server.engine.last.cache_salt)
    assert salts[0] == salts[2] != salts[1] and "key-" not in salts[0]
    server.with_options()
    server.post(path, body)
    assert server.engine.last.cache_salt == ""


@pytest.mark.parametrize("salt", ["", "x" * 257, 1, ["a"]])
def test_a_salt_is_a_short_text(server, salt):
    assert server.post("/v1/chat/completions", {**CHAT, "cache_salt": salt}).status == 422
    body = {"inputs": "a", "parameters": {"cache_salt": salt}}
    assert server.post("/generate", body).status == 422
