"""`tgi serve` as a user starts it: readiness, processes, bad input, and engines that die."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Server, ServerFactory
from tgi_core.testing.models import write_fake_model

REAL = [pytest.param("torch", marks=pytest.mark.long), "openvino"]
"""Backends with a real model."""


@pytest.fixture(scope="session")
def fake_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("fake"))


def stream(server: Server, path: str, body: dict[str, Any], into: list[str]) -> None:
    """Appends the text of each event as it comes, and "[end]" at the end."""
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as reply:
        for line in reply:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                into.append(event["token"]["text"] if "token" in event else f"[{event}]")
    into.append("[end]")


def streams(
    server: Server,
    bodies: list[dict[str, Any]],
    kills: int = 0,
    with_signal: signal.Signals = signal.SIGKILL,
) -> list[list[str]]:
    """All at once; meanwhile the engine is killed, each time when tokens have come since."""
    texts: list[list[str]] = [[] for _ in bodies]
    threads = [
        threading.Thread(target=stream, args=(server, "/generate_stream", body, text))
        for body, text in zip(bodies, texts, strict=True)
    ]
    for thread in threads:
        thread.start()
    seen, killed = 0, set()
    while len(killed) < kills:
        count = sum(map(len, texts))
        pid = server.engine_pid()
        if count >= seen + 2 * len(bodies) and pid is not None and pid not in killed:
            os.kill(pid, with_signal)
            killed.add(pid)
            seen = count
        assert any(thread.is_alive() for thread in threads), "too fast to be killed"
        time.sleep(0.005)
    for thread in threads:
        thread.join(300)
    return texts


def bodies(count: int, new_tokens: int) -> list[dict[str, Any]]:
    """Half greedy, half sampled."""
    return [
        {
            "inputs": f"Story number {i}: once upon a time" + " there was a road" * (i % 5),
            "parameters": {
                "max_new_tokens": new_tokens,
                **({"do_sample": True, "seed": i, "temperature": 0.9} if i % 2 else {}),
            },
        }
        for i in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("backend", REAL)
def test_streams_survive_two_killed_engines(
    backend: str, serve: ServerFactory, smollm2: Path
) -> None:
    wanted = bodies(6, 16)
    flags = ("--backend", backend, "--dtype", "float32", "--max-total-tokens", "1024")
    with serve(str(smollm2), *flags) as server:
        undisturbed = streams(server, wanted)
        assert all(text[-1] == "[end]" for text in undisturbed)
        assert streams(server, wanted, kills=2) == undisturbed


def test_streams_of_the_fake_backend_survive_two_killed_engines(
    serve: ServerFactory, fake_model: Path
) -> None:
    wanted = bodies(16, 1500)
    with serve(str(fake_model), "--backend", "fake", "--max-total-tokens", "4096") as server:
        undisturbed = streams(server, wanted)
        assert streams(server, wanted, kills=2) == undisturbed


@pytest.mark.slow
@pytest.mark.parametrize("backend", REAL)
def test_the_same_seed_gives_the_same_tokens_alone_together_and_after_a_restart(
    backend: str, serve: ServerFactory, smollm2: Path
) -> None:
    wanted = [body for body in bodies(8, 16) if "seed" in body["parameters"]]
    model = (str(smollm2), "--backend", backend)
    flags = (*model, "--dtype", "float32", "--max-total-tokens", "512")
    with serve(*flags) as server:
        alone = [streams(server, [body])[0] for body in wanted]
        together = streams(server, wanted)
    # little more than one sequence fits: the others are preempted
    with serve(*flags, "--cache-tokens", "512", "--max-batch-size", "8") as server:
        preempted = streams(server, wanted)
    assert alone == together == preempted


def test_an_engine_that_hangs_is_replaced(serve: ServerFactory, fake_model: Path) -> None:
    wanted = bodies(4, 1500)
    flags = ("--backend", "fake", "--max-total-tokens", "4096", "--step-timeout", "1")
    with serve(str(fake_model), *flags) as server:
        undisturbed = streams(server, wanted)
        assert streams(server, wanted, kills=1, with_signal=signal.SIGSTOP) == undisturbed
        assert "the engine hangs" in server.log.read_text()


def test_a_request_that_kills_engines_fails_alone(serve: ServerFactory, fake_model: Path) -> None:
    with serve(str(fake_model), "--backend", "fake", "--backend-option", "fatal_token=7") as server:
        good = bodies(4, 50)
        undisturbed = streams(server, good)
        bad: list[tuple[int, bytes]] = []
        thread = threading.Thread(
            target=lambda: bad.append(
                server.post("/v1/completions", {"prompt": [7, 6, 5], "max_tokens": 5})
            )
        )
        thread.start()
        assert streams(server, good) == undisturbed
        thread.join(120)
        status, body = bad[0]
        assert status == 424 and b"engine process died" in body
        assert streams(server, good) == undisturbed


@pytest.mark.slow
def test_the_api_process_answers_health_while_loading_and_has_no_torch(
    serve: ServerFactory, smollm2: Path
) -> None:
    with serve(str(smollm2), "--backend", "torch", ready=False) as server:
        deadline = time.monotonic() + 60
        while True:
            try:
                status, body = server.get("/health")
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        assert status == 503
        assert json.loads(body) == {"error": "unhealthy", "error_type": "healthcheck"}
        status, _ = server.post("/generate", {"inputs": "too early"})
        assert status == 503
        server.wait_ready()
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert "libtorch" not in maps and "libllama" not in maps
        engine = server.engine_pid()
        assert engine is not None
        assert "libtorch" in Path(f"/proc/{engine}/maps").read_text()


def test_help_is_quick() -> None:
    command, took = [sys.executable, "-m", "tgi_core", "--help"], []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.3


def refused(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tgi_core", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_path_that_does_not_exist() -> None:
    status, words = refused("./no-such-model")
    assert status == 66 and "no-such-model" in words


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    status, words = refused(str(tmp_path))
    assert status == 65 and "config.json" in words


def test_a_folder_without_weights(fake_model: Path) -> None:
    status, words = refused(str(fake_model), "--port", "0")
    assert status in (65, 78) and "safetensors" in words


def test_a_port_in_use(fake_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, words = refused(str(fake_model), "--backend", "fake", "--port", port)
    assert status == 78 and port in words and "--port" in words


def test_an_unknown_backend(fake_model: Path) -> None:
    status, words = refused(str(fake_model), "--backend", "abacus", "--port", "0")
    assert status == 78 and "abacus" in words and "fake" in words


def test_a_cache_that_cannot_hold_one_sequence(fake_model: Path) -> None:
    status, words = refused(
        str(fake_model), "--backend", "fake", "--cache-tokens", "1", "--port", "0"
    )
    assert status == 78 and "--cache-tokens" in words


@pytest.mark.long
def test_damaged_weights_and_an_unknown_architecture(tmp_path: Path, smollm2: Path) -> None:
    def copy(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for file in smollm2.iterdir():
            (folder / file.name).symlink_to(file)
        return folder

    cut = copy("cut")
    whole = (cut / "model.safetensors").resolve().read_bytes()
    (cut / "model.safetensors").unlink()
    (cut / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    status, words = refused(str(cut), "--backend", "torch")
    assert status == 65 and "model.safetensors" in words

    unknown = copy("unknown")
    config = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").unlink()
    (unknown / "config.json").write_text(json.dumps({**config, "model_type": "abacus"}))
    status, words = refused(str(unknown), "--backend", "torch")
    assert status == 65 and "abacus" in words


@pytest.mark.slow
def test_a_damaged_gguf(tmp_path: Path, smollm2_gguf: Path) -> None:
    whole = smollm2_gguf.read_bytes()
    # other damage is known by its name: see test_gguf.py of the backend
    for name, content in {
        "cut.gguf": whole[: len(whole) // 2],
        "counts.gguf": whole[:8] + b"\xff" * 16 + whole[24:4096],
    }.items():
        (tmp_path / name).write_bytes(content)
        status, words = refused(str(tmp_path / name), "--port", "0")
        assert status == 65 and name in words, words
