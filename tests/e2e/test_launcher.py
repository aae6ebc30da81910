"""A server as scripts that were written for TGI start it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tgi_core.config.tgi_flags import FLAGS
from tgi_core.testing.models import write_fake_model

RUN = "import sys; from tgi_core.cli.launcher import {0}; sys.exit({0}())"
ALL_FLAGS = """
--validation-workers 2 --sharded false --num-shard 1 --speculate 2 --dtype bfloat16
--trust-remote-code --max-concurrent-requests 64 --max-best-of 2 --max-stop-sequences 4
--max-top-n-tokens 5 --max-input-tokens 100 --max-total-tokens 200 --waiting-served-ratio 1.2
--max-batch-prefill-tokens 512 --max-batch-total-tokens 16000 --max-waiting-tokens 20
--max-batch-size 8 --cuda-graphs 0 --hostname 127.0.0.1 --prometheus-port 9000
--shard-uds-path /tmp/shard --master-addr localhost --master-port 29500
--disable-custom-kernels --cuda-memory-fraction 0.9 --json-output --watermark-gamma 0.5
--watermark-delta 2.0 --max-client-batch-size 4 --usage-stats off --payload-limit 1000000
--enable-prefill-logprobs --graceful-termination-timeout 5 --env
""".split()


@pytest.fixture(scope="session")
def fake_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake_model(tmp_path_factory.mktemp("fake"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def until_info(port: int, process: subprocess.Popen[str], log: Path) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/info", timeout=10) as reply:
                found: dict[str, object] = json.load(reply)
                return found
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def run(
    program: str, arguments: list[str], variables: dict[str, str], port: int, log: Path
) -> dict[str, object]:
    """Starts it, asks for /info, ends it."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", RUN.format(program), *arguments],
            env={**os.environ, "TGI_THREADS": "1", **variables},  # noqa: TID251
            stdout=output,
            stderr=output,
            text=True,
        )
    try:
        info = until_info(port, process, log)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        return info
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_all_flags_of_tgi_at_once(fake_model: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    arguments = ["--model-id", str(fake_model), "-p", str(port), "--backend", "fake", *ALL_FLAGS]
    info = run("launcher", arguments, {}, port, log)
    assert info["max_input_tokens"] == 100 and info["max_total_tokens"] == 200
    assert info["max_concurrent_requests"] == 64
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    messages = [line["message"] for line in lines]
    idle = [message.split()[0] for message in messages if " has no effect: " in message]
    known = {f"--{flag.name}" for flag in FLAGS if flag.idle is not None}
    assert "--master-port" in idle
    assert sorted(idle) == sorted(known & set(ALL_FLAGS))
    assert any(message.startswith("runtime environment: tgi-core: ") for message in messages)
    settings = next(message for message in messages if message.startswith("settings: "))
    assert "max-total-tokens=200 (--max-total-tokens)" in settings
    assert "cache-tokens=16000 (--max-batch-total-tokens)" in settings


def test_a_container_of_sagemaker(fake_model: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    variables = {
        "HF_MODEL_ID": str(fake_model),
        "SM_NUM_GPUS": "1",
        "HOSTNAME": socket.gethostname(),
        "PORT": str(port),
        "TGI_BACKEND": "fake",
        "MAX_BATCH_SIZE": "4",
    }
    info = run("launcher", [], variables, port, log)
    assert info["model_id"] == str(fake_model)
    assert "num-shard=1 (SM_NUM_GPUS)" in log.read_text()
    assert 'host="0.0.0.0"' in log.read_text()


def test_text_generation_server_serves(fake_model: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    arguments = ["serve", str(fake_model), "--no-sharded", "--uds-path", "/tmp/x"]
    variables = {"PORT": str(port), "TGI_BACKEND": "fake"}
    run("server", arguments, variables, port, log)
    assert "--shard-uds-path has no effect" in log.read_text()
