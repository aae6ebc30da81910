"""Where the time of a step goes: model, sampler, scheduler, and the process that speaks HTTP.

    python -m tests.bench.step_time MODEL --streams 32 --backend openvino --dtype bfloat16

Runs the same closed loop twice. First an engine in this process, without any server: its own
clocks say what the model, the sampler and the scheduler take. Then `tgi serve` under `tgi bench`:
the processor time of its API process (IPC, detokenizing, JSON, HTTP) for each token, and what
remains when the model's time is taken from the time that passed.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import psutil

from tgi_core.builtin import local_source
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    DType,
    LoadRequest,
    Request,
    SamplingParams,
    StepStats,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.step_engine import StepEngine
from tgi_core.plugin.manager import Plugins


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--dtype", help="a GGUF file has its own")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--temperature", type=float, default=0.0)
    args = parser.parse_args()
    stats, wall_s = in_process(args)
    known = {"model": stats.step_s, "sampler": stats.sample_s, "scheduler": stats.schedule_s}
    rows = {**known, "commit and the rest of the engine": wall_s - sum(known.values())}
    print(f"engine alone: {stats.generated_tokens / wall_s:.0f} tokens/s, {stats.steps} steps")
    print("| part | ms a step | share |\n|---|--:|--:|")
    for name, seconds in rows.items():
        print(f"| {name} | {seconds / stats.steps * 1e3:.2f} | {seconds / wall_s:.1%} |")
    output, served_s, api_s = over_http(args)
    per_token = wall_s / stats.generated_tokens
    print(f"served: {output / served_s:.0f} tokens/s")
    print(f"| API process | {api_s / output * 1e3:.3f} ms a token | {api_s / served_s:.1%} |")
    print(
        f"| engine alone | {per_token * 1e3:.3f} ms a token | {per_token * output / served_s:.1%} |"
    )
    return 0


def in_process(args: argparse.Namespace) -> tuple[StepStats, float]:
    """Counters of an engine, and the seconds that it ran."""
    engine = started_engine(args.model, args.backend, args.dtype)
    rng = random.Random(1)
    requests = [request(i, rng, args.temperature) for i in range(args.requests)]
    begin = time.perf_counter()
    closed_loop(engine, requests, args.streams)
    wall_s = time.perf_counter() - begin
    stats = engine.stats()
    engine.close()
    return stats, wall_s


def started_engine(model: str, backend: str, dtype: str | None) -> StepEngine:
    """An engine in this process, with a model loaded."""
    plugins = Plugins(builtins=(local_source,))
    files = plugins.model_source(model)
    made = plugins.backend(files, backend).create()
    engine = StepEngine(made, FirstComeFirstServed())  # type: ignore[arg-type]
    load = LoadRequest(model=files, dtype=DType(dtype) if dtype else None)
    engine.start(load, lambda *a, **k: None)
    return engine


def closed_loop(engine: StepEngine, requests: Sequence[Request], streams: int) -> int:
    """Runs requests, so many at once: the number of their output tokens."""
    waiting, live, tokens = list(requests), 0, 0
    while waiting or engine.busy:
        while waiting and live < streams:
            engine.submit(waiting.pop())
            live += 1
        for event in engine.poll(0):
            if isinstance(event, TokenEvent):
                tokens += len(event.tokens)
                live -= event.finish is not None
    return tokens


def request(number: int, rng: random.Random, temperature: float) -> Request:
    """The lengths are those of `tgi bench`."""
    return Request(
        request_id=str(number),
        prompt=tuple(rng.randrange(5, 40_000) for _ in range(int(32 * 16 ** rng.random()))),
        sampling=SamplingParams(temperature=temperature, seed=number),
        stop=StopRule(max_new_tokens=rng.randint(16, 128)),
    )


def over_http(args: argparse.Namespace) -> tuple[int, float, float]:
    """Output tokens, seconds, and the API process's own processor seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tgi = Path(sys.executable).with_name("tgi")
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [
            tgi,
            "serve",
            args.model,
            "--backend",
            args.backend,
            *(["--dtype", args.dtype] if args.dtype else []),
            "-p",
            str(port),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"{url}/health")
        process = psutil.Process(server.pid)
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            before = process.cpu_times()
            sizes = ["--streams", str(args.streams), "--requests", str(args.requests)]
            subprocess.run(
                [tgi, "bench", "--url", url, *sizes, "--json", result],
                check=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            after = process.cpu_times()
            [load] = json.loads(result.read_text())["loads"]
    finally:
        server.terminate()
        server.wait(30)
    api_s = after.user + after.system - before.user - before.system
    tokens = load["output_tokens"]
    return tokens, tokens / load["output_tokens_per_s"], api_s


def wait_for(url: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"{url} does not answer")


if __name__ == "__main__":
    sys.exit(main())
