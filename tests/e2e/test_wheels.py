"""What users do: wheels, a new environment, an extra, and a model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "tests" / "constraints.txt"


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=os.sep
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    for package in (ROOT, ROOT / "backends" / "torch", ROOT / "backends" / "llamacpp"):
        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, package)
    return folder


def test_the_llamacpp_extra_brings_no_torch_and_serves_a_gguf(
    wheels: Path, tmp_path: Path, smollm2_gguf: Path
) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(
        python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, "--find-links", wheels,
        "tgi-core[llamacpp]",
    )  # fmt: skip
    names = {
        p["name"].lower() for p in json.loads(run(python, "-m", "pip", "list", "--format=json"))
    }
    assert "tgi-backend-llamacpp" in names and not names & {"torch", "transformers"}
    log = (tmp_path / "log").open("w+")
    server = subprocess.Popen(
        [
            str(environment / "bin" / "tgi"),
            "serve",
            str(smollm2_gguf),
            "--port",
            "8791",
            "--threads",
            "1",
        ],
        stdout=log,
        stderr=log,
        cwd=os.sep,
    )
    try:
        body = json.dumps(
            {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 8}}
        ).encode()
        request = urllib.request.Request(
            "http://127.0.0.1:8791/generate", body, {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + 120
        while True:
            assert server.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
            try:
                with urllib.request.urlopen(request, timeout=60) as reply:
                    answer = json.load(reply)
                break
            except urllib.error.HTTPError as error:
                assert error.code == 503, "not ready is the only excuse"
            except urllib.error.URLError:
                pass
            time.sleep(0.2)
        assert "Paris" in answer["generated_text"]
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def test_the_cpu_extra_names_the_torch_backend(wheels: Path) -> None:
    listed = run(
        sys.executable, "-m", "pip", "install", "--dry-run", "-q", "--report", "-",
        "--ignore-installed", "--no-deps", "--find-links", wheels, "--no-index",
        "tgi-core", "tgi-backend-torch",
    )  # fmt: skip
    packages = {
        item["metadata"]["name"]: item["metadata"] for item in json.loads(listed)["install"]
    }
    [extra] = [r for r in packages["tgi-core"]["requires_dist"] if "extra == 'cpu'" in r]
    assert extra.startswith("tgi-backend-torch")
    needs = " ".join(packages["tgi-backend-torch"]["requires_dist"])
    assert "torch>=" in needs and "transformers" in needs and "safetensors" in needs
