"""Guided output of running servers: whole and streamed, beside others, and while things break."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.test_server import REAL, streams
from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 3, "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "colours": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
    },
    "required": ["name", "age", "colours"],
    "additionalProperties": False,
}
DATE = r"(Mon|Tue)day, \d{1,2} (May|June) \d{4}"
LONG = r"[a-z]{200,400}(-[0-9]{3}){50}"


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"oneOf": [schema, {"type": "null"}]}
    return schema


DATE_LARK = f"""start: day
day: /{DATE}/
"""
"""A grammar of the same language."""

BOMBS: list[dict[str, Any]] = [
    {"type": "json", "value": {"type": "integer", "multipleOf": 1_000_003}},
    {"type": "json", "value": {"allOf": [{"multipleOf": p} for p in (10007, 10009, 10037)]}},
    {"type": "json", "value": {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}},
    {"type": "json", "value": {"$ref": "http://127.0.0.1:1/schema"}},
    {"type": "json", "value": "[" * 100_000},
    {"type": "json", "value": {"enum": [f"x{i:06}" for i in range(60_000)]}},
    {"type": "json", "value": nested(90)},
    {"type": "json", "value": {"allOf": [{"type": "string"}, {"type": "null"}]}},
    {"type": "regex", "value": "(?<=x)*"},
    {"type": "regex", "value": "a(" * 50_000},
    {"type": "regex", "value": "(" * 200_000},
    {"type": "lark", "value": "start: " + "(" * 100_000},
    {"type": "lark", "value": "start: start start"},
    {"type": "gbnf", "value": "root ::= " + "(" * 100_000},
    {"type": "gbnf", "value": "root ::= root2"},
]

HEAVY: list[dict[str, Any]] = [
    {"type": "regex", "value": "((a{0,100}){0,100}){0,100}"},
    {"type": "regex", "value": "(a|b)*a(a|b){30}"},
    {"type": "regex", "value": "[0-9]{0,100000}"},
    {"type": "regex", "value": "(a+)+$"},
    {"type": "regex", "value": "a||b"},
    {"type": "lark", "value": 'start: "a" | start start | start start start'},
    {"type": "gbnf", "value": "root ::= [a-z]{1,100000} root?"},
    {"type": "json", "value": {"type": "string", "maxLength": 1_000_000}},
    {"type": "json", "value": {"type": "object", "properties": {"a": {"$ref": "#"}}}},
]
"""What may be served, or refused, or fail in the midst of it; but nobody else may feel it."""


def ask(server: Server, path: str, body: dict[str, Any], status: int = 200) -> Any:
    got, answer = server.post(path, body)
    assert got == status, answer
    return json.loads(answer)


def guided(kind: str, value: object, **more: object) -> dict[str, Any]:
    parameters = {"max_new_tokens": 1500, "grammar": {"type": kind, "value": value}, **more}
    return {"inputs": "Say something.", "parameters": parameters}


def check_the_routes(server: Server, seeds: tuple[int | None, ...] = (None, 1, 2)) -> None:
    """Each way to ask for a grammar, whole and streamed."""
    for seed in seeds:
        drawn = {} if seed is None else {"do_sample": True, "temperature": 0.9, "seed": seed}
        for kind, value in (("json", SCHEMA), ("regex", DATE), ("lark", DATE_LARK)):
            body = guided(kind, value, **drawn)
            text = ask(server, "/generate", body)["generated_text"]
            [streamed] = streams(server, [body])
            assert "".join(streamed[:-1]).startswith(text), "the stream names its last token too"
            if kind == "json":
                jsonschema.validate(json.loads(text), SCHEMA)
            else:
                assert re.fullmatch(DATE, text)
    messages = [{"role": "user", "content": "Who are you? Answer in JSON."}]
    for response_format in (
        {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
        {"type": "json_object", "value": SCHEMA},
    ):
        body = {
            "messages": messages,
            "response_format": response_format,
            "max_tokens": 1000,
            "n": 2,
            "seed": 3,
        }
        answer = ask(server, "/v1/chat/completions", body)
        for choice in answer["choices"]:
            assert choice["finish_reason"] == "stop"
            jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)


@pytest.fixture(scope="session")
def fake_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("guided"))


@pytest.fixture
def fake(serve: ServerFactory, fake_model: Path) -> Iterator[Server]:
    with serve(str(fake_model), "--backend", "fake") as server:
        yield server


def test_every_route_of_the_fake_backend(fake: Server) -> None:
    check_the_routes(fake)


@pytest.mark.slow
@pytest.mark.parametrize("backend", REAL)
def test_every_route_of_a_real_model(backend: str, serve: ServerFactory, smollm2: Path) -> None:
    flags = ("--backend", backend, "--dtype", "float32", "--max-total-tokens", "2048")
    with serve(str(smollm2), *flags) as server:
        check_the_routes(server, seeds=(1,))


@pytest.mark.long
def test_every_route_of_a_gguf_file(serve: ServerFactory, smollm2_gguf: Path) -> None:
    with serve(str(smollm2_gguf), "--max-total-tokens", "2048") as server:
        check_the_routes(server, seeds=(None,))


def bodies(count: int) -> list[dict[str, Any]]:
    """Guided and free, greedy and drawn."""
    wanted = []
    for i in range(count):
        drawn = {"do_sample": True, "seed": i, "temperature": 0.9} if i % 2 else {}
        grammar = {"grammar": {"type": "regex", "value": LONG}} if i % 4 < 2 else {}
        wanted.append(
            {
                "inputs": f"Story number {i}",
                "parameters": {"max_new_tokens": 600, **drawn, **grammar},
            }
        )
    return wanted


def test_guided_streams_survive_two_killed_engines(fake: Server) -> None:
    wanted = bodies(12)
    undisturbed = streams(fake, wanted)
    for body, text in zip(wanted, undisturbed, strict=True):
        if "grammar" in body["parameters"]:
            assert re.match(LONG, "".join(text))
    assert streams(fake, wanted, kills=2) == undisturbed


def test_guided_sequences_survive_preemption(serve: ServerFactory, fake_model: Path) -> None:
    wanted = bodies(8)
    model = (str(fake_model), "--backend", "fake", "--max-total-tokens", "1024")
    with serve(*model) as server:
        alone = [streams(server, [body])[0] for body in wanted]
        together = streams(server, wanted)
    with serve(*model, "--cache-tokens", "1024") as server:
        preempted = streams(server, wanted)
    assert alone == together == preempted


def test_bad_grammars_are_refused_and_nobody_else_feels_them(fake: Server) -> None:
    good = {"inputs": "a good stream", "parameters": {"max_new_tokens": 3000}}
    [undisturbed] = streams(fake, [good])
    ended = threading.Event()
    seen: list[list[str]] = []

    def go_on() -> None:
        while not ended.is_set():
            seen.extend(streams(fake, [good]))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            refused = list(
                pool.map(
                    lambda grammar: fake.post(
                        "/generate", {"inputs": "x", "parameters": {"grammar": grammar}}
                    ),
                    BOMBS,
                )
            )
            others = list(
                pool.map(
                    lambda grammar: fake.post(
                        "/generate",
                        {"inputs": "x", "parameters": {"grammar": grammar, "max_new_tokens": 200}},
                    ),
                    HEAVY,
                )
            )
    finally:
        ended.set()
        thread.join()
    for grammar, (status, body) in zip(BOMBS, refused, strict=True):
        assert status == 422, (str(grammar)[:80], body[:200])
        assert json.loads(body)["error_type"] == "validation"
        assert b"/" + b"tmp" not in body and b"Traceback" not in body
    for grammar, (status, body) in zip(HEAVY, others, strict=True):
        assert status in (200, 422, 424), (grammar, body)
    assert seen and all(text == undisturbed for text in seen)
    assert "engine process" not in fake.log.read_text(), "no engine died"


def test_a_thousand_grammars_leave_the_memory_where_it_was(fake: Server) -> None:
    def rss(pid: int) -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        [kilobytes] = re.findall(r"VmRSS:\s+(\d+) kB", status)
        return int(kilobytes)

    def ask_for(begin: int, end: int) -> None:
        def one(i: int) -> None:
            schema = {"type": "object", "properties": {f"p{i}": {"enum": [f"v{i}"]}}}
            body = {"inputs": "x", "parameters": {"max_new_tokens": 8}}
            body["parameters"]["grammar"] = {"type": "json", "value": schema}  # type: ignore[index]
            ask(fake, "/generate", body)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(begin, end)))

    ask_for(0, 300)
    engine = fake.engine_pid()
    assert engine is not None
    before = rss(fake.process.pid) + rss(engine)
    ask_for(300, 1300)
    assert rss(fake.process.pid) + rss(engine) - before < 32 * 1024


def test_a_killed_trial_process_is_replaced(fake: Server) -> None:
    ask(fake, "/generate", guided("regex", "a"))
    children = Path(f"/proc/{fake.process.pid}/task/{fake.process.pid}/children")
    [trial] = [
        int(pid)
        for pid in children.read_text().split()
        if "trial_process" in Path(f"/proc/{pid}/cmdline").read_text()
    ]
    os.kill(trial, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while str(trial) in children.read_text().split():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ask(fake, "/generate", guided("regex", "b"))["generated_text"] == "b"


def test_grammars_can_be_refused_altogether(serve: ServerFactory, fake_model: Path) -> None:
    with serve(str(fake_model), "--backend", "fake", "--disable-grammar-support") as server:
        answer = ask(server, "/generate", guided("regex", "a"), status=422)
        assert answer["error"] == "Input validation error: grammar is not supported"
        ask(server, "/generate", {"inputs": "x", "parameters": {"max_new_tokens": 2}})


def test_who_uses_no_grammar_pays_for_none(fake: Server) -> None:
    def loaded(pid: int | None) -> bool:
        return "llguidance" in Path(f"/proc/{pid}/maps").read_text()

    def children() -> list[str]:
        listed = Path(f"/proc/{fake.process.pid}/task/{fake.process.pid}/children").read_text()
        return [Path(f"/proc/{pid}/cmdline").read_text() for pid in listed.split()]

    ask(fake, "/generate", {"inputs": "x", "parameters": {"max_new_tokens": 2}})
    assert not loaded(fake.process.pid) and not loaded(fake.engine_pid())
    assert not any("trial_process" in child for child in children())
    ask(fake, "/generate", guided("regex", "a"))
    assert not loaded(fake.process.pid) and loaded(fake.engine_pid())
    assert any("trial_process" in child for child in children())
