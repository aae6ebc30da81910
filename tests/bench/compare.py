"""Servers side by side: each in turn, round after round, under the same loads of `tgi bench`.

    python -m tests.bench.compare --rounds 2 --json results.json \\
        ours='.venv/bin/tgi serve model.gguf --port {port}' \\
        llama='llama-server -m model.gguf --port {port} -np 32 -c 40960'

Each argument is NAME=COMMAND; {port} is filled in. A server is ready when GET /health says 200.
Prompts differ from round to round, so no server answers from its cache, and are the same for all
servers of a round. The table shows medians over the rounds and each server's ratio to the first.
Nothing else should run meanwhile; machines are noisy, so read ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

REQUESTS = {1: 8, 4: 16, 16: 40, 32: 64}
"""Requests of a load: enough to fill the streams twice, few enough for a slow server."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("servers", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--streams", default="1,4,16,32")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--no-ignore-eos", action="append", default=[], metavar="NAME")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    servers = dict(server.split("=", 1) for server in args.servers)
    models = dict(model.split("=", 1) for model in args.model)
    streams = [int(text) for text in args.streams.split(",")]
    results: dict[str, dict[int, list[dict[str, Any]]]] = {
        name: {count: [] for count in streams} for name in servers
    }
    for round_number in range(args.rounds):
        for name, command in servers.items():
            flags = ["--model", models[name]] if name in models else []
            flags += ["--no-ignore-eos"] if name in args.no_ignore_eos else []
            for count, load in measure(command, streams, args.seed + round_number, flags).items():
                results[name][count].append(load)
                print(
                    f"round {round_number} {name} {count} streams: "
                    f"{load['output_tokens_per_s']:.1f} tokens/s",
                    flush=True,
                )
    print(table(results, streams))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def measure(command: str, streams: list[int], seed: int, flags: list[str]) -> dict[int, Any]:
    """Starts a server, warms it up, runs the loads and ends it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tempfile.NamedTemporaryFile("w", suffix=".log", delete=False)
    process = subprocess.Popen(
        shlex.split(command.format(port=port)), stdout=log, stderr=log, start_new_session=True
    )
    try:
        wait_ready(process, port, log.name)
        bench(port, 2, 4, 999, flags)  # warm
        loads = {}
        for count in streams:
            loads[count] = bench(port, count, REQUESTS.get(count, 2 * count), seed, flags)
            loads[count]["memory_bytes"] = memory_bytes(process.pid)
        return loads
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def wait_ready(process: subprocess.Popen[bytes], port: int, log: str) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.2)
    raise SystemExit(f"a server did not get ready; see {log}")


def bench(port: int, streams: int, requests: int, seed: int, flags: list[str]) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "tgi_core", "bench", "--url", f"http://127.0.0.1:{port}"]
        command += ["--streams", str(streams), "--requests", str(requests), "--seed", str(seed)]
        subprocess.run([*command, *flags, "--json", file.name], stdout=subprocess.DEVNULL)
        load: dict[str, Any] = json.loads(Path(file.name).read_text())["loads"][0]
        return load


def memory_bytes(pid: int) -> int:
    """Proportional memory of a process and all its descendants."""
    total = 0
    for process in descendants(pid):
        try:
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            pass  # it has just ended
    return total


def descendants(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += descendants(int(child))
    return found


def table(results: dict[str, dict[int, list[dict[str, Any]]]], streams: list[int]) -> str:
    first = next(iter(results))
    lines = [
        "| server | streams | tokens/s | ratio to " + first + " | first token p50 ms | p99 ms | "
        "inter-token p50 ms | p99 ms | errors | memory MiB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, loads in results.items():
        for count in streams:

            def median(key: str, of: str = name, at: int = count) -> float:
                return statistics.median(load[key] for load in results[of][at])

            ratio = median("output_tokens_per_s") / median("output_tokens_per_s", first)
            lines.append(
                f"| {name} | {count} | {median('output_tokens_per_s'):.1f} | {ratio:.2f} | "
                f"{median('first_token_p50_s') * 1e3:.0f} | "
                f"{median('first_token_p99_s') * 1e3:.0f} | "
                f"{median('inter_token_p50_s') * 1e3:.1f} | "
                f"{median('inter_token_p99_s') * 1e3:.1f} | "
                f"{sum(load['errors'] for load in loads[count])} | "
                f"{median('memory_bytes') / 2**20:.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
