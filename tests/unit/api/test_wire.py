"""Each shape on the wire, to the byte, is the one under tests/golden/wire.

A file that is missing is written, and the test fails once: read it, then run again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tgi_core.config.settings import Compat
from tgi_core.contract import RequestFailed

WIRE = Path(__file__).parents[2] / "golden" / "wire"
HI = [{"role": "user", "content": "Hi"}]
SAMPLED = {"do_sample": True, "seed": 7}

SCENARIOS: dict[str, tuple[str, str, dict[str, Any]]] = {
    # name: what the model says, route, body
    "generate": ("aé", "/generate", {"inputs": "Hi", "parameters": {}}),
    "generate-details": (
        "aé",
        "/generate",
        {"inputs": "Hi", "parameters": {"details": True, "top_n_tokens": 1, **SAMPLED}},
    ),
    "generate-prefill": (
        "a",
        "/generate",
        {"inputs": "Hi", "parameters": {"decoder_input_details": True}},
    ),
    "generate-invalid": ("a", "/generate", {"inputs": "Hi", "parameters": {"top_k": 0}}),
    "root": ("a", "/", {"inputs": "Hi", "parameters": {}}),
    "root-stream": ("aé", "/", {"inputs": "Hi", "stream": True, "parameters": {}}),
    "root-stream-invalid": ("a", "/", {"inputs": "", "stream": True}),
    "generate-stream": ("aé", "/generate_stream", {"inputs": "Hi", "parameters": SAMPLED}),
    "generate-stream-details": (
        "ab",
        "/generate_stream",
        {"inputs": "Hi", "parameters": {"details": True, "top_n_tokens": 1}},
    ),
    "generate-stream-stop-across-tokens": (
        "abcd",
        "/generate_stream",
        {"inputs": "Hi", "parameters": {"stop": ["bc"]}},
    ),
    "generate-stream-invalid": ("a", "/generate_stream", {"inputs": ""}),
    "tokenize": ("", "/tokenize", {"inputs": "é"}),
    "completion": ("aé", "/v1/completions", {"prompt": "Hi", "max_tokens": 20}),
    "completion-echo-logprobs": (
        "a",
        "/v1/completions",
        {"prompt": "H", "echo": True, "logprobs": 1},
    ),
    "completion-stream": (
        "aé",
        "/v1/completions",
        {"prompt": "Hi", "stream": True, "stream_options": {"include_usage": True}},
    ),
    "completion-stream-stop-across-tokens": (
        "abcd",
        "/v1/completions",
        {"prompt": "Hi", "stream": True, "stop": ["bc"]},
    ),
    "completion-stream-several": (
        "aé",
        "/v1/completions",
        {"prompt": ["H", "i"], "n": 2, "max_tokens": 2, "seed": 1, "stream": True},
    ),
    "completion-invalid": ("a", "/v1/completions", {"prompt": "Hi", "top_k": -3}),
    "chat": ("aé", "/v1/chat/completions", {"messages": HI}),
    "chat-logprobs": (
        "aé",
        "/v1/chat/completions",
        {"messages": HI, "logprobs": True, "top_logprobs": 1},
    ),
    "chat-stream": (
        "aé",
        "/v1/chat/completions",
        {"messages": HI, "stream": True, "stream_options": {"include_usage": True}},
    ),
    "chat-stream-stop-across-tokens": (
        "abcd",
        "/v1/chat/completions",
        {"messages": HI, "stream": True, "stop": "bc"},
    ),
    "chat-stream-cut": (
        "é",
        "/v1/chat/completions",
        {"messages": HI, "stream": True, "max_tokens": 1},
    ),
    "chat-tokenize": ("", "/chat_tokenize", {"messages": [{"role": "user", "content": "é"}]}),
    "vertex": ("aé", "/vertex", {"instances": [{"inputs": "Hi"}, {"messages": HI}]}),
    "vertex-invalid": ("a", "/vertex", {"instances": []}),
    "invocations": ("aé", "/invocations", {"inputs": "Hi", "parameters": {"details": True}}),
    "invocations-stream": ("aé", "/invocations", {"inputs": "Hi", "stream": True}),
    "invocations-chat": ("aé", "/invocations", {"messages": HI}),
    "invocations-invalid": ("a", "/invocations", {"input": "Hi"}),
    "kserve-infer": (
        "aé",
        "/v2/models/m/versions/1/infer",
        {
            "id": "7",
            "inputs": [{"name": "in", "shape": [1], "datatype": "BYTES", "data": [72, 105]}],
            "outputs": [{"name": "out"}],
        },
    ),
    "kserve-server": ("", "/v2", {}),
    "kserve-model": ("", "/v2/models/m/versions/1", {}),
    "kserve-ready": ("", "/v2/models/m/versions/1/ready", {}),
    "kserve-live": ("", "/v2/health/live", {}),
    "health": ("", "/health", {}),
    "ping": ("", "/ping", {}),
    "nowhere": ("", "/nowhere", {}),
    "wrong-method": ("", "/generate", {}),
    "chat-invalid": ("a", "/v1/chat/completions", {"messages": HI, "n": 99}),
    "models": ("", "/v1/models", {}),
    "info": ("", "/info", {}),
}

COMPAT: dict[str, tuple[str, str, dict[str, Any]]] = {
    # the same, for what is different with `--compat tgi`
    "tgi-chat": SCENARIOS["chat"],
    "tgi-chat-logprobs": SCENARIOS["chat-logprobs"],
    "tgi-chat-stream": SCENARIOS["chat-stream"],
    "tgi-chat-stream-stop-across-tokens": SCENARIOS["chat-stream-stop-across-tokens"],
    "tgi-chat-stream-invalid": (
        "a",
        "/v1/chat/completions",
        {"messages": HI, "stream": True, "temperature": -1},
    ),
    "tgi-chat-invalid": SCENARIOS["chat-invalid"],
    "tgi-completion": SCENARIOS["completion"],
    "tgi-completion-stream": ("aé", "/v1/completions", {"prompt": "Hi", "stream": True}),
    "tgi-completion-stream-stop-across-tokens": SCENARIOS["completion-stream-stop-across-tokens"],
    "tgi-completion-invalid": SCENARIOS["completion-invalid"],
    "tgi-models": SCENARIOS["models"],
    "tgi-completion-suffix": ("a", "/v1/completions", {"prompt": "Hi", "suffix": "x"}),
}

FAILURES = {
    "generate-failure": ("/generate", {"inputs": "Hi"}),
    "generate-stream-failure": ("/generate_stream", {"inputs": "Hi"}),
    "root-failure": ("/", {"inputs": "Hi"}),
    "root-stream-failure": ("/", {"inputs": "Hi", "stream": True}),
    "completion-failure": ("/v1/completions", {"prompt": "Hi"}),
    "vertex-failure": ("/vertex", {"instances": [{"inputs": "Hi"}]}),
    "tgi-completion-stream-failure": ("/v1/completions", {"prompt": "Hi", "stream": True}),
    "completion-stream-failure": ("/v1/completions", {"prompt": "Hi", "stream": True}),
    "chat-failure": ("/v1/chat/completions", {"messages": HI}),
    "chat-stream-failure": ("/v1/chat/completions", {"messages": HI, "stream": True}),
    "tgi-chat-stream-failure": ("/v1/chat/completions", {"messages": HI, "stream": True}),
}


def written(reply: Any) -> str:
    """A reply as text, without what changes from run to run."""
    headers = "".join(
        f"{name}: {value}\n"
        for name, value in reply.headers.items()
        if name not in ("x-request-id", "content-length")
    )
    headers = re.sub(r"(x-[a-z-]*time[a-z-]*): [\d.e-]+", r"\1: TIME", headers)
    body = re.sub(r'"id":"((?:chat)?cmpl)-[0-9a-f]+"', r'"id":"\1-ID"', reply.body.decode())
    body = re.sub(r'"id":"call_[0-9a-f]+"', '"id":"call_ID"', body)
    body = re.sub(r'"created":\d+', '"created":TIME', body)
    body = re.sub(r'("version"|"system_fingerprint"):"[^"]*"', r'\1:"VERSION"', body)
    return f"{reply.status}\n{headers}\n{body}"


def check(name: str, reply: Any, folder: Path = WIRE) -> None:
    found, path = written(reply), folder / f"{name}.txt"
    if not path.exists():
        path.write_text(found)
        pytest.fail(f"{path.name} was missing and has been written: read it, then run again")
    assert found == path.read_text()


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_goes_well(server, name):
    text, path, body = SCENARIOS[name]
    server.says(text)
    check(name, server.post(path, body) if body else server.get(path))
    assert server.idle


@pytest.mark.parametrize("name", COMPAT)
def test_what_differs_for_tgis_clients(server, name):
    text, path, body = COMPAT[name]
    server.says(text)
    server.with_options(compat=Compat.TGI)
    check(name, server.post(path, body) if body else server.get(path))
    assert server.idle


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_after_the_second_token(server, name):
    path, body = FAILURES[name]
    if name.startswith("tgi-"):
        server.with_options(compat=Compat.TGI)
    server.says("abc")
    say = server.engine.script

    def script(request):
        failed = RequestFailed(request_id=request.request_id, message="device on fire")
        return [*say(request)[:3], (failed,)]

    server.engine.script = script
    check(name, server.post(path, body))
    assert server.idle


BODIES = {
    # name: route, body, content type
    "generate-no-json": ("/generate", b"{", "application/json"),
    "generate-wrong-type": ("/generate", b'{"inputs": 1}', "application/json"),
    "generate-not-said-to-be-json": ("/generate", b"{}", "text/plain"),
    "generate-too-long": ("/generate", b" " * 2_000_001, "application/json"),
    "chat-no-json": ("/v1/chat/completions", b"{", "application/json"),
    "chat-wrong-type": ("/v1/chat/completions", b'{"messages": 1}', "application/json"),
    "tgi-chat-wrong-type": ("/v1/chat/completions", b'{"messages": 1}', "application/json"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_none(server, name):
    path, body, content_type = BODIES[name]
    if name.startswith("tgi-"):
        server.with_options(compat=Compat.TGI)
    check(name, server.post(path, body, headers={"content-type": content_type}))


KEYLESS = {
    "generate-no-key": ("/generate", {"inputs": "Hi"}),
    "chat-no-key": ("/v1/chat/completions", {"messages": HI}),
}


@pytest.mark.parametrize("name", KEYLESS)
def test_a_client_without_a_key(server, name):
    check(name, server.with_options(api_keys=("k",)).post(*KEYLESS[name]))


LOADING = {
    "generate-loading": ("/generate", {"inputs": "Hi"}),
    "generate-stream-loading": ("/generate_stream", {"inputs": "Hi"}),
    "chat-loading": ("/v1/chat/completions", {"messages": HI}),
    "health-loading": ("/health", {}),
}


@pytest.mark.parametrize("name", LOADING)
def test_a_server_that_still_loads(server, name):
    server.service.model = None
    path, body = LOADING[name]
    check(name, server.post(path, body) if body else server.get(path))


def test_a_server_that_is_full(server):
    server.says("a")
    with server.service.admission.permits(8):
        for name, path, body in (
            ("generate-overload", "/generate", {"inputs": "Hi"}),
            ("generate-stream-overload", "/generate_stream", {"inputs": "Hi"}),
            ("chat-stream-overload", "/v1/chat/completions", {"messages": HI, "stream": True}),
        ):
            check(name, server.post(path, body))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_number_that_json_cannot_hold_is_null(server, stream, number):
    server.says_in_turn(("a", number), ("a", number), ("a", number))
    body = {"inputs": "Hi", "parameters": {"details": True, "max_new_tokens": 1}, "stream": stream}
    reply = server.post("/", body)
    [found] = reply.events if stream else reply.json
    [token] = [found["token"]] if stream else found["details"]["tokens"]
    assert token["logprob"] is None
    chat = {"messages": HI, "logprobs": True, "max_tokens": 1, "stream": stream}
    reply = server.post("/v1/chat/completions", chat)
    answer = reply.events[0] if stream else reply.json
    assert answer["choices"][0]["logprobs"]["content"][0]["logprob"] is None
    logprobs = server.post("/v1/completions", {"prompt": "x", "logprobs": 0}).json["choices"][0]
    assert logprobs["logprobs"]["token_logprobs"][0] is None


def test_every_golden_file_is_used():
    named = (SCENARIOS, COMPAT, FAILURES, BODIES, KEYLESS, LOADING)
    overloads = {"generate-overload", "generate-stream-overload", "chat-stream-overload"}
    found = {path.stem for path in WIRE.glob("*.txt")}
    assert found == overloads.union(*named)


def test_events_are_json_that_any_parser_reads():
    for path in WIRE.glob("*stream*.txt"):
        for line in path.read_text().replace(":TIME", ":0").splitlines():
            if line.startswith("data: {"):
                json.loads(line.removeprefix("data: "))
