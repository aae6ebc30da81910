"""Servers side by side: each in turn, round after round, under the same loads of `tgi bench`.

    python -m tests.bench.compare --rounds 2 --json results.json \\
        ours='.venv/bin/tgi serve model.gguf --port {port}' \\
        llama='llama-server -m model.gguf --port {port} -np 32 -c 40960'

Each argument is NAME=COMMAND; {port} is filled in. A server is ready when GET /health says 200.
Prompts differ from round to round, so no server answers from its cache, and are the same for all
servers of a round. The table shows medians over the rounds and each server's ratio to the first.
Nothing else should run meanwhile; machines are noisy, so read ratios.

With `--together` all servers stay up, each load goes round them before the next one begins, and
those that wait for their turn are stopped: what is compared runs within seconds, and its ratio is
the median of the rounds' own. It needs memory for all of them.

`--load` gives `tgi bench` flags for another load, and `--beside N` keeps N ordinary streams running
next to it, which get a table of their own:

    --streams 4 --load='--shared-prefix 400 --prompt-tokens 20:20 --output-tokens 32:32'
    --streams 1 --load='--prompt-tokens 4000:4000 --output-tokens 64:64' --beside 4
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REQUESTS = {1: 8, 4: 16, 16: 40, 32: 64}
"""Requests of a load: enough to fill the streams twice, few enough for a slow server."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("servers", nargs="+", metavar="NAME=COMMAND")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--streams", default="1,4,16,32")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--load", default="", metavar="FLAGS", help="of `tgi bench`")
    parser.add_argument("--beside", type=int, default=0, metavar="STREAMS")
    parser.add_argument("--model", action="append", default=[], metavar="NAME=MODEL")
    parser.add_argument("--no-ignore-eos", action="append", default=[], metavar="NAME")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    # so that servers are ended then, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    models = dict(model.split("=", 1) for model in args.model)
    servers = []
    for named in args.servers:
        name, command = named.split("=", 1)
        flags = ["--model", models[name]] if name in models else []
        flags += ["--no-ignore-eos"] if name in args.no_ignore_eos else []
        servers.append(Server(name, command, flags, shlex.split(args.load), args.beside))
    streams = [int(text) for text in args.streams.split(",")]
    results: dict[str, dict[int, list[dict[str, Any]]]] = {
        server.name: {count: [] for count in streams} for server in servers
    }
    rounds = together if args.together else in_turn
    for server, count, load in rounds(servers, streams, range(args.seed, args.seed + args.rounds)):
        results[server.name][count].append(load)
        print(
            f"{server.name} {count} streams: {load['output_tokens_per_s']:.1f} tokens/s", flush=True
        )
    print(table(results, streams))
    if args.beside:
        others = {
            name: {args.beside: [load["beside"] for loads in own.values() for load in loads]}
            for name, own in results.items()
        }
        print(f"\nbeside it:\n{table(others, [args.beside])}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


@dataclass(frozen=True, slots=True)
class Server:
    """A server to measure."""

    name: str
    command: str
    flags: list[str]
    """Of `tgi bench`, which the server needs."""
    load: list[str]
    """Of `tgi bench`, which say what to measure."""
    beside: int
    """Ordinary streams that run meanwhile."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that was started, in a session of its own."""

    server: Server
    process: subprocess.Popen[bytes]
    port: int

    def measure(self, count: int, seed: int) -> dict[str, Any]:
        """One load."""
        server, requests = self.server, REQUESTS.get(count, 2 * count)
        with ExitStack() as stack:
            if server.beside:
                others = stack.enter_context(
                    Bench(self.port, server.beside, REQUESTS[16], 500 + seed, server.flags)
                )
            flags = [*server.flags, *server.load]
            with Bench(self.port, count, requests, seed, flags) as own:
                load = own.result()
            if server.beside:
                load["beside"] = others.result()
                load["beside"]["memory_bytes"] = memory_bytes(self.process.pid)
        load["memory_bytes"] = memory_bytes(self.process.pid)
        return load

    def signal(self, number: signal.Signals) -> None:
        """Sent to all of its processes, for engines have sessions of their own."""
        for pid in descendants(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


Loads = Iterator[tuple[Server, int, dict[str, Any]]]


def in_turn(servers: list[Server], streams: list[int], seeds: range) -> Loads:
    """Each server is started, measured under all loads and ended, round after round."""
    for seed in seeds:
        for server in servers:
            with started(server) as running:
                for count in streams:
                    yield server, count, running.measure(count, seed)


def together(servers: list[Server], streams: list[int], seeds: range) -> Loads:
    """Each load goes round the servers, of which one runs and the others are stopped."""
    with ExitStack() as stack:
        up = []
        for server in servers:
            up.append(stack.enter_context(started(server)))
            up[-1].signal(signal.SIGSTOP)
        for seed in seeds:
            for count in streams:
                for running in up:
                    running.signal(signal.SIGCONT)
                    yield running.server, count, running.measure(count, seed)
                    running.signal(signal.SIGSTOP)


@contextmanager
def started(server: Server) -> Iterator[Running]:
    """A server that is ready and warm, and is ended afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tempfile.NamedTemporaryFile("w", suffix=".log", delete=False)
    process = subprocess.Popen(
        shlex.split(server.command.format(port=port)),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    running = Running(server, process, port)
    try:
        wait_ready(process, port, log.name)
        with Bench(port, 2, 4, 999, server.flags) as warming:
            warming.result()
        yield running
    finally:
        running.signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            running.signal(signal.SIGKILL)


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


class Bench:
    """A `tgi bench` that was started, and is ended at the latest when its block is left."""

    def __init__(self, port: int, streams: int, requests: int, seed: int, flags: list[str]) -> None:
        self._file = tempfile.NamedTemporaryFile(suffix=".json")
        command = [sys.executable, "-m", "tgi_core", "bench", "--url", f"http://127.0.0.1:{port}"]
        command += ["--streams", str(streams), "--requests", str(requests), "--seed", str(seed)]
        command += [*flags, "--json", self._file.name]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def result(self) -> dict[str, Any]:
        """Waits for it: its load."""
        self._process.wait()
        load: dict[str, Any] = json.loads(Path(self._file.name).read_text())["loads"][0]
        return load

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()


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

            pairs = zip(loads[count], results[first][count], strict=True)
            ratio = statistics.median(
                own["output_tokens_per_s"] / other["output_tokens_per_s"] for own, other in pairs
            )
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
