"""What guidance costs a real model: tokens per second, and the time to a first token.

    python -m tests.bench.guided MODEL --backend openvino --dtype bfloat16

Throughput: an engine in this process keeps 16 streams busy, without grammars and with, in turn; the
prompts and the number of tokens are the same. First token: a server of its own is asked over HTTP,
without a schema, and with schemas that it has never seen; a third of them a few fields, a third
fifty, a third with an enumeration of five hundred.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
import urllib.request
from typing import Any

from tests.bench.step_time import wait_for
from tests.servers import free_port
from tgi_core.builtin import local_source
from tgi_core.builtin.guidance import LLGuidance
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    DType,
    Grammar,
    GrammarKind,
    LoadRequest,
    Request,
    SamplingParams,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.guidance import Guidance
from tgi_core.engine.step_engine import StepEngine
from tgi_core.plugin.manager import Plugins
from tgi_core.text import hf_plugin

GRAMMARS = {
    "without": None,
    "a list of texts": {"type": "array", "minItems": 100, "items": {"type": "string"}},
    "a list of records": {
        "type": "array",
        "minItems": 100,
        "items": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "email": {"type": "string", "format": "email"},
            },
            "required": ["name", "age", "email"],
            "additionalProperties": False,
        },
    },
}
"""None of them ends before its tokens are spent: answers of other lengths would be another load."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=96, help="of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--schemas", type=int, default=30)
    args = parser.parse_args()
    throughput(args)
    port = free_port()
    flags = [args.model, "--backend", args.backend, "--dtype", args.dtype, "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "tgi_core", "serve", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        first_tokens(f"http://127.0.0.1:{port}", args.schemas)
    finally:
        server.terminate()
        server.wait(30)
    return 0


def throughput(args: argparse.Namespace) -> None:
    """Prints tokens per second, the median of rounds that take turns."""
    engine = loaded(args)
    found: dict[str, list[float]] = {name: [] for name in GRAMMARS}
    for schema in GRAMMARS.values():
        run(engine, schema, args, seed=99)  # compiles, and warms up
    for number in range(args.rounds):
        for name, schema in GRAMMARS.items():
            found[name].append(run(engine, schema, args, seed=number))
    engine.close()
    print(f"{args.streams} streams, tokens/s: the median of {args.rounds} rounds\n")
    print("| grammar | tokens/s | of that without |\n|---|--:|--:|")
    without = statistics.median(found["without"])
    for name, rates in found.items():
        rate = statistics.median(rates)
        print(f"| {name} | {rate:.0f} | {rate / without:.1%} |", flush=True)


def loaded(args: argparse.Namespace) -> StepEngine:
    """An engine with guidance for this model."""
    plugins = Plugins(builtins=(local_source, hf_plugin))
    files = plugins.model_source(args.model)
    engine = StepEngine(
        plugins.backend(files, args.backend).create(),  # type: ignore[arg-type]
        FirstComeFirstServed(),
        guidance=Guidance(LLGuidance()),
    )
    engine.start(LoadRequest(model=files, dtype=DType(args.dtype)), lambda *a, **k: None)
    tokenizer = plugins.load_tokenizer(files)
    assert tokenizer is not None  # core's own reads it
    engine.use_vocabulary(tokenizer.vocabulary())
    return engine


def run(engine: StepEngine, schema: object, args: argparse.Namespace, seed: int) -> float:
    """Tokens per second of three times as many requests as there are streams."""
    chance = random.Random(seed)
    grammar = schema and Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(schema))
    waiting = [
        Request(
            request_id=str(number),
            prompt=tuple(chance.randrange(5, 40_000) for _ in range(64)),
            sampling=SamplingParams(temperature=1.0, seed=number),
            stop=StopRule(max_new_tokens=args.tokens, eos_token_ids=(2,), ignore_eos=True),
            grammar=grammar or None,
        )
        for number in range(args.streams * 3)
    ]
    live = tokens = 0
    expected = args.tokens * len(waiting)
    began = time.perf_counter()
    while waiting or engine.busy:
        while waiting and live < args.streams:
            engine.submit(waiting.pop())
            live += 1
        for event in engine.poll(0.001):
            if isinstance(event, TokenEvent):
                tokens += 1
                live -= event.finish is not None
    took = time.perf_counter() - began
    assert tokens == expected, f"{tokens} tokens instead of {expected}"
    return tokens / took


def first_tokens(url: str, num_schemas: int) -> None:
    """Prints the time to a first token, without a schema and with new ones."""
    began = time.perf_counter()
    first_token(url, new_schema(-1))
    print(f"\nfirst token with the first schema of all: {time.perf_counter() - began:.2f} s\n")
    first_token(url, None)
    without: list[float] = []
    new: list[float] = []
    seen: list[float] = []
    for number in range(num_schemas):
        schema = new_schema(number)
        without.append(first_token(url, None))
        new.append(first_token(url, schema))
        seen.append(first_token(url, schema))
    print("| time to first token, ms | median | longest |\n|---|--:|--:|")
    for name, times in {"without": without, "a new schema": new, "seen": seen}.items():
        print(f"| {name} | {statistics.median(times) * 1e3:.1f} | {max(times) * 1e3:.1f} |")
    later = sorted(one - other for one, other in zip(new, without, strict=True))
    print(f"| a new schema, later | {statistics.median(later) * 1e3:.1f} | {later[-1] * 1e3:.1f} |")


def new_schema(number: int) -> dict[str, Any]:
    """Unlike all others."""
    match number % 3:
        case 0:
            names = [f"field_{number}_{i}" for i in range(4)]
        case 1:
            names = [f"field_{number}_{i}" for i in range(50)]
        case _:
            values = [f"value {number} {i}" for i in range(500)]
            return {"type": "object", "properties": {"x": {"enum": values}}, "required": ["x"]}
    properties = {name: {"type": ["string", "null"]} for name in names}
    return {"type": "object", "properties": properties, "required": names[:2]}


def first_token(url: str, schema: dict[str, Any] | None) -> float:
    """Seconds from the request to the first event of its stream."""
    parameters: dict[str, Any] = {"max_new_tokens": 2}
    if schema is not None:
        parameters["grammar"] = {"type": "json", "value": schema}
    body = json.dumps({"inputs": "A record:", "parameters": parameters}).encode()
    request = urllib.request.Request(
        f"{url}/generate_stream", body, {"Content-Type": "application/json"}
    )
    began = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as reply:
        line = reply.readline()
        took = time.perf_counter() - began
        assert line.startswith(b"data:") and b"error" not in line, line
        reply.read()
    return took


if __name__ == "__main__":
    raise SystemExit(main())
