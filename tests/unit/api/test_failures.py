"""Whatever happens, the client learns it in its dialect and nothing stays behind."""

from __future__ import annotations

import asyncio

import pytest

from tgi_core import errors
from tgi_core.api import errors as api_errors
from tgi_core.contract import RequestFailed, TokenEvent
from tgi_core.engine.images import ImagesDoNotFit

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}
ROUTES = [
    ("/generate", {"inputs": "Hi"}),
    ("/generate_stream", {"inputs": "Hi"}),
    ("/", {"inputs": "Hi"}),
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/v1/completions", {"prompt": ["a", "b"]}),
    ("/v1/completions", {"prompt": ["a", "b"], "stream": True}),
    ("/", {"inputs": "Hi", "stream": True}),
    ("/invocations", {"inputs": "Hi"}),
    ("/invocations", CHAT | {"stream": True}),
    ("/vertex", {"instances": [{"inputs": "Hi"}]}),
    ("/v2/models/m/infer", {
        "id": "1",
        "inputs": [{"name": "in", "shape": [1], "datatype": "BYTES", "data": [72]}],
        "outputs": [{"name": "out"}],
    }),
]  # fmt: skip


def begins_at_once(path, body):
    """Streams of TGI have status 200, whatever they go on to tell."""
    return path == "/generate_stream" or (path == "/" and "stream" in body)


def fails(request, *, after=0, invalid=False):
    token = TokenEvent(request_id=request.request_id, tokens=(5,), logprobs=(-1.0,))
    failure = RequestFailed(request_id=request.request_id, message="no luck", invalid=invalid)
    return [*[(token,)] * after, (failure,)]


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize("after", [0, 1])
def test_a_failed_generation_is_told_and_cleaned_up(server, path, body, after):
    server.engine.script = lambda request: fails(request, after=after)
    reply = server.post(path, body)
    assert b"Request failed during generation: no luck" in reply.body
    assert server.idle


def test_a_failure_is_a_status_before_the_first_event_and_an_event_after_it(server):
    server.engine.script = fails
    reply = server.post("/v1/chat/completions", CHAT | {"stream": True})
    assert (reply.status, reply.json["error"]["code"]) == (424, "generation")
    server.engine.script = lambda request: fails(request, after=1)
    reply = server.post("/v1/chat/completions", CHAT | {"stream": True})
    assert reply.status == 200
    _, error, done = reply.events
    assert done == "[DONE]"
    assert error["error"]["http_status_code"] == 424
    assert error["error"]["message"] == "Request failed during generation: no luck"
    reply = server.post("/generate_stream", {"inputs": "Hi"})
    assert reply.events[1] == {
        "error": "Request failed during generation: no luck",
        "error_type": "generation",
    }


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_server_that_ends_takes_nothing_new_and_says_so_to_balancers(server, path, body):
    server.service.draining = True
    reply = server.post(path, body)
    assert reply.status == 503 and b"shutting down" in reply.body
    assert reply.headers["retry-after"] == "1"
    assert not server.engine.generations
    assert server.get("/health").status == 503


def test_what_the_engine_calls_invalid_is_the_clients_fault(server):
    server.engine.script = lambda request: fails(request, invalid=True)
    reply = server.post("/generate", {"inputs": "Hi"})
    assert (reply.status, reply.json["error_type"]) == (422, "validation")


def test_an_engine_that_falls_silent_is_an_incomplete_generation(server):
    server.engine.script = lambda request: [()]
    reply = server.post("/generate", {"inputs": "Hi"})
    assert (reply.status, reply.json) == (
        500,
        {"error": "Incomplete generation", "error_type": "incomplete_generation"},
    )


def test_inside_a_stream_it_is_an_incomplete_stream(server):
    def falls_silent(request):
        return [(TokenEvent(request_id=request.request_id, tokens=(5,), logprobs=(-1.0,)),), ()]

    server.engine.script = falls_silent
    error = {
        "error": "Incomplete generation stream",
        "error_type": "incomplete_generation_stream",
    }
    assert server.post("/generate_stream", {"inputs": "Hi"}).events[1] == error
    events = server.post("/v1/completions", {"prompt": "Hi", "stream": True}).events
    assert events[1]["error"]["code"] == error["error_type"]
    assert events[1]["error"]["message"] == error["error"]
    assert events[2] == "[DONE]"
    assert server.idle


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_lost_engine_gives_permits_back(server, path, body):
    def lost(request):
        raise errors.EngineLost("The engine is gone.")

    server.engine.script = lost
    reply = server.post(path, body)
    assert b"The engine is gone." in reply.body
    if not begins_at_once(path, body):
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert server.idle


@pytest.mark.parametrize(("path", "body"), ROUTES)
@pytest.mark.parametrize("after", [0, 2])
def test_a_client_that_leaves_ends_its_generation_at_once(server, path, body, after):
    async def leave():
        server.engine.script = lambda request: fails(request, after=after)[:-1]
        gone = asyncio.Event()
        exchange = asyncio.ensure_future(server.exchange("POST", path, body, gone=gone))
        while len(server.engine.generations) < len(body.get("prompt", "x")):
            await asyncio.sleep(0)
        await asyncio.gather(*(g.waiting.wait() for g in server.engine.generations))
        assert server.service.admission.free < 8
        gone.set()
        return await asyncio.wait_for(exchange, 5)

    reply = asyncio.run(leave())
    assert not reply.ended
    assert server.idle


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_a_server_that_stops_ends_its_generations(server, path, body):
    async def stop():
        server.engine.script = lambda request: []
        exchange = asyncio.ensure_future(server.exchange("POST", path, body))
        while not server.engine.generations:
            await asyncio.sleep(0)
        await server.engine.generations[-1].waiting.wait()
        exchange.cancel()
        await asyncio.gather(exchange, return_exceptions=True)

    asyncio.run(stop())
    assert server.idle


def test_a_client_that_leaves_while_it_sends_starts_nothing(server):
    async def leave():
        messages = iter(
            [
                {"type": "http.request", "body": b"{", "more_body": True},
                {"type": "http.disconnect"},
            ]
        )
        sent = []

        async def receive():
            return next(messages)

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": "/generate", "headers": headers}
        await server.app(scope, receive, send)
        return sent

    assert asyncio.run(leave()) == []
    assert not server.engine.generations


@pytest.mark.parametrize(("path", "body"), ROUTES)
def test_too_many_requests_are_turned_away_and_may_come_again(server, path, body):
    with server.service.admission.permits(8):
        reply = server.post(path, body)
    assert b"Model is overloaded" in reply.body
    if begins_at_once(path, body):
        assert (reply.status, reply.events[0]["error_type"]) == (200, "overloaded")
    else:
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
    assert not server.engine.generations
    reply = server.post(path, body)
    assert reply.status == 200 and server.idle


def test_each_prompt_needs_a_permit(server):
    with server.service.admission.permits(7):
        assert server.post("/v1/completions", {"prompt": ["a", "b"]}).status == 429
        assert server.service.admission.free == 1
        assert server.post("/v1/completions", {"prompt": ["a"]}).status == 200


@pytest.mark.parametrize(("path", "body"), [*ROUTES, ("/tokenize", {"inputs": "Hi"})])
def test_while_the_model_loads_routes_say_so(server, path, body):
    server.service.model = None
    reply = server.post(path, body)
    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert b"still loading" in reply.body


def test_a_fault_of_ours_is_a_500_without_a_word_about_it(server):
    def broken(request):
        raise RuntimeError("secret at /etc/tgi.py")

    server.engine.script = broken
    for path, body in (ROUTES[0], ROUTES[3]):
        reply, crash = server.post_and_crash(path, body)
        assert (reply.status, str(crash)) == (500, "secret at /etc/tgi.py")
        assert b"secret" not in reply.body and b"Incomplete generation" in reply.body
        assert ("code" in reply.json["error"]) == path.startswith("/v1")
    assert server.service.admission.free == 8


def test_every_error_has_a_status_a_type_and_both_bodies():
    def family(kind):
        yield kind
        for child in kind.__subclasses__():
            yield from family(child)

    statuses = {}
    for kind in family(errors.TgiError):
        if issubclass(kind, (errors.Unsupported, errors.RowsFailed, ImagesDoNotFit)):
            continue  # made with more than a message, and never leaves the engine
        error = kind("because")
        ours = api_errors.tgi_reply(error)
        theirs = api_errors.openai_reply(error)
        assert ours.status == theirs.status
        if kind is not api_errors.Unauthorized:  # of which TGI says nothing
            assert b'"error_type"' in ours.body
        assert b'"message"' in theirs.body
        statuses[kind] = ours.status
    assert statuses[errors.ValidationError] == 422
    assert statuses[errors.Overloaded] == 429
    assert statuses[errors.GenerationError] == 424
    assert statuses[errors.EngineLost] == 503
    assert statuses[errors.BackendDead] == 500
