"""Each shape of the plugins' dialects, to the byte, is the one under tests/golden/dialects.

A file that is missing is written, and the test fails once: read it, then run again.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tgi_plugin_anthropic_api import plugin as anthropic
from tgi_plugin_ollama_api import plugin as ollama
from tgi_plugin_responses_api import plugin as responses

from tgi_core.contract import RequestFailed

GOLDEN = Path(__file__).parents[3] / "golden" / "dialects"
HI = [{"role": "user", "content": "Hi"}]

ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    # name of a dialect and its routes: the least that each takes
    "anthropic": ("/v1/messages", {"model": "m", "messages": HI, "max_tokens": 9}),
    "responses": ("/v1/responses", {"model": "m", "input": "Hi", "max_output_tokens": 9}),
    "ollama-chat": ("/api/chat", {"model": "m", "messages": HI, "stream": False}),
    "ollama-generate": ("/api/generate", {"model": "m", "prompt": "Hi", "stream": False}),
}
STOP: dict[str, dict[str, Any]] = {
    "anthropic": {"stop_sequences": ["bc"]},
    "ollama-chat": {"options": {"stop": ["bc"]}},
    "ollama-generate": {"options": {"stop": ["bc"]}},
}
"""Responses has no stop strings."""
WRONG: dict[str, dict[str, Any]] = {
    "anthropic": {"max_tokens": 0},
    "responses": {"temperature": -1},
    "ollama-chat": {"options": {"top_p": 7}},
    "ollama-generate": {"options": {"top_p": 7}},
}


@pytest.fixture
def spoken(server):
    """A server with all dialects."""
    dialects = [*anthropic.tgi_routes(), *ollama.tgi_routes(), *responses.tgi_routes()]
    return server.with_options(dialects)


def written(reply: Any) -> str:
    """A reply as text, without what changes from run to run."""
    headers = "".join(
        f"{name}: {value}\n"
        for name, value in reply.headers.items()
        if name not in ("x-request-id", "request-id", "content-length")
    )
    body = re.sub(r'"(msg|resp|rs|fc|req|toolu)_[0-9a-f]+"', r'"\1_ID"', reply.body.decode())
    body = re.sub(r'("request_id"):"[0-9a-f]{32}"', r'\1:"ID"', body)
    body = re.sub(
        r'("created_at"|"completed_at"|"[a-z_]*duration"):("[^"]*"|[\d.]+)', r"\1:TIME", body
    )
    return f"{reply.status}\n{headers}\n{body}"


def check(name: str, reply: Any) -> None:
    found, path = written(reply), GOLDEN / f"{name}.txt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(found)
        pytest.fail(f"{path.name} was missing and has been written: read it, then run again")
    assert found == path.read_text()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", ASKED)
def test_a_text_with_a_character_of_two_tokens(spoken, name, stream):
    path, body = ASKED[name]
    spoken.says("aé")
    check(f"{name}{'-stream' * stream}", spoken.post(path, {**body, "stream": stream}))
    assert spoken.idle


@pytest.mark.parametrize("name", STOP)
def test_a_stop_string_across_tokens(spoken, name):
    path, body = ASKED[name]
    spoken.says("abcd")
    body = {**body, **STOP[name], "stream": True}
    check(f"{name}-stream-stop-across-tokens", spoken.post(path, body))
    assert spoken.idle


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", ASKED)
def test_a_failure_after_the_second_token(spoken, name, stream):
    path, body = ASKED[name]
    spoken.says("abc")
    say = spoken.engine.script

    def script(request):
        failed = RequestFailed(request_id=request.request_id, message="device on fire")
        return [*say(request)[:3], (failed,)]

    spoken.engine.script = script
    reply = spoken.post(path, {**body, "stream": stream})
    check(f"{name}{'-stream' * stream}-failure", reply)
    assert spoken.idle


@pytest.mark.parametrize("name", ASKED)
def test_a_wish_out_of_limits(spoken, name):
    path, body = ASKED[name]
    check(f"{name}-invalid", spoken.post(path, {**body, **WRONG[name]}))
    assert not spoken.engine.generations


def test_every_golden_file_is_used():
    kinds = ("", "-stream", "-failure", "-stream-failure", "-invalid")
    used = {f"{name}{kind}" for name in ASKED for kind in kinds}
    used |= {f"{name}-stream-stop-across-tokens" for name in STOP}
    assert {path.stem for path in GOLDEN.glob("*.txt")} == used
