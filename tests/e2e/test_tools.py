"""Forced calls of running servers: valid in each format, whole and streamed, for OpenAI's SDK."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from tests.e2e.test_server import REAL
from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "days": {"$ref": "#/$defs/days"},
        "units": {"enum": ["C", "F"]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 14}},
}
TIME = {"type": "object", "properties": {}, "additionalProperties": False}
SCHEMAS = {"weather": WEATHER, "time": TIME}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": schema}}
    for name, schema in SCHEMAS.items()
]
ASK: Any = {"model": "tgi", "messages": [{"role": "user", "content": "How warm?"}], "tools": TOOLS}


def check_forced(server: Server, seeds: tuple[int, ...] = (1, 2, 3)) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)
    named = {"type": "function", "function": {"name": "weather"}}
    for seed in seeds:
        for choice in ("required", named):
            more: Any = {"tool_choice": choice, "seed": seed, "parallel_tool_calls": False}
            whole = client.chat.completions.create(**ASK, **more, n=2)
            for found in whole.choices:
                assert (found.finish_reason, found.message.content) == ("tool_calls", None)
                [call] = found.message.tool_calls or []
                assert call.type == "function"
                if choice is named:
                    assert call.function.name == "weather"
                arguments = json.loads(call.function.arguments)
                jsonschema.validate(arguments, SCHEMAS[call.function.name])
            with client.chat.completions.stream(**ASK, **more) as stream:
                [streamed] = stream.get_final_completion().choices
            assert streamed.finish_reason == "tool_calls"
            [call], [first] = streamed.message.tool_calls or [], whole.choices[0].message.tool_calls
            assert call.function.name == first.function.name
            assert call.function.arguments == first.function.arguments


@pytest.mark.parametrize("parser", ["auto", "hermes", "llama3", "mistral", "deepseek", "phi4"])
def test_forced_calls_are_valid_in_each_format(
    serve: ServerFactory, tmp_path: Path, parser: str
) -> None:
    model = write_fake_model(tmp_path)
    with serve(str(model), "--backend", "fake", "--tool-call-parser", parser) as server:
        check_forced(server)


@pytest.mark.slow
@pytest.mark.parametrize("backend", REAL)
def test_forced_calls_of_a_real_model(backend: str, serve: ServerFactory, smollm2: Path) -> None:
    flags = ("--backend", backend, "--dtype", "float32", "--max-total-tokens", "2048")
    with serve(str(smollm2), *flags) as server:
        check_forced(server, seeds=(1,))
        free = openai.OpenAI(base_url=f"{server.url}/v1", api_key="-", max_retries=0)
        [found] = free.chat.completions.create(**ASK, max_tokens=20, temperature=0).choices
        assert found.message.content or found.message.tool_calls


def test_an_unknown_parser_is_named_before_a_model_is_loaded(
    serve: ServerFactory, tmp_path: Path
) -> None:
    model = write_fake_model(tmp_path)
    flags = ("--backend", "fake", "--reasoning-parser", "x")
    with serve(str(model), *flags, ready=False, status=2) as server:
        server.process.wait(60)
    assert "--reasoning-parser 'x' is not known; there are auto, none, think" in (
        server.log.read_text()
    )
