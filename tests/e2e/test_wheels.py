"""What users do: wheels, a new environment, an extra, and a model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in ROOT.glob("*/*/pyproject.toml"))
CONSTRAINTS = ROOT / "tests" / "constraints.txt"
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
TORCH = re.findall("^torch==.*$", CONSTRAINTS.read_text(), re.MULTILINE)
"""Some release of torch; which one is found here, a resolver would otherwise fetch to find out."""


def run(*command: str | Path) -> str:
    # pip's own cache holds the wheel of llama.cpp, which takes minutes to build
    done = subprocess.run(
        ["env", "-u", "XDG_CACHE_HOME", *map(str, command)],
        capture_output=True,
        text=True,
        cwd=os.sep,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # with the build tool that is here: an environment for each takes longer than all wheels
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run(*pip, "-w", folder, ROOT, *PACKAGES)
    return folder


def install(wheels: Path, environment: Path, extra: str) -> set[str]:
    """A new environment with an extra; the names of all packages that it brought."""
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(
        python, "-m", "pip", "install", "-q", "--no-compile", "-c", CONSTRAINTS,
        "--find-links", wheels, f"tgi-core[{extra}]",
    )  # fmt: skip
    listed = json.loads(run(python, "-m", "pip", "list", "--format=json"))
    return {package["name"].lower() for package in listed}


def answer_of(environment: Path, model: Path, port: int, home: Path) -> tuple[str, str]:
    """Serves the model; what follows "The capital of France is", and the log."""
    log = home / "log"
    with log.open("w") as stream:
        server = subprocess.Popen(
            [
                *("env", "-u", "XDG_CACHE_HOME", f"HOME={home}", environment / "bin" / "tgi"),
                *("serve", model, "--port", str(port), "--threads", "1"),
            ],
            stdout=stream,
            stderr=stream,
            cwd=os.sep,
        )
        body = json.dumps(
            {"inputs": "The capital of France is", "parameters": {"max_new_tokens": 8}}
        ).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/generate", body, {"Content-Type": "application/json"}
        )
        deadline = time.monotonic() + 180
        try:
            while True:
                assert server.poll() is None and time.monotonic() < deadline, log.read_text()
                try:
                    with urllib.request.urlopen(request, timeout=60) as reply:
                        return str(json.load(reply)["generated_text"]), log.read_text()
                except urllib.error.HTTPError as error:
                    assert error.code == 503, "not ready is the only excuse"
                except urllib.error.URLError:
                    pass
                time.sleep(0.2)
        finally:
            server.terminate()
            server.wait(30)


def test_extras_bring_no_torch_serve_a_gguf_and_load_plugins(
    wheels: Path, tmp_path: Path, smollm2_gguf: Path
) -> None:
    names = install(wheels, tmp_path / "venv", "llamacpp,dialects")
    assert "tgi-backend-llamacpp" in names
    assert not names & {"torch", "transformers", "openvino"}
    text, _ = answer_of(tmp_path / "venv", smollm2_gguf, 8791, tmp_path)
    assert "Paris" in text
    listed = json.loads(run(tmp_path / "venv" / "bin" / "tgi", "plugins", "--check"))
    hooks = {row["name"]: (row["hooks"], row["status"]) for row in listed}
    found = json.loads(run(tmp_path / "venv" / "bin" / "tgi", "backends", "--json"))
    levels = {row["name"]: row["conformance"] for row in found}
    assert levels["llamacpp"] == "bronze", "the report is in the wheel"
    for name in ("anthropic-api", "embeddings-api", "ollama-api", "responses-api"):
        assert hooks[name] == (["tgi_routes"], "ok")


@pytest.mark.long
def test_the_cpu_extra_converts_a_hugging_face_folder_and_serves_it_with_openvino(
    wheels: Path, tmp_path: Path, smollm2: Path
) -> None:
    names = install(wheels, tmp_path / "venv", "cpu")
    assert {"tgi-backend-openvino", "tgi-backend-torch", "torch", "openvino"} <= names
    text, log = answer_of(tmp_path / "venv", smollm2, 8792, tmp_path)
    assert "Paris" in text
    assert "OpenVINO on CPU" in log
    assert list((tmp_path / ".cache/tgi-core/openvino").glob("*/model.bin"))


def test_the_extras_for_gpus_can_be_resolved(wheels: Path) -> None:
    """With what is installed here: their torch has gigabytes of libraries."""
    run(
        sys.executable, "-m", "pip", "install", "-q", "--dry-run", "-c", CONSTRAINTS,
        "--find-links", wheels, *wheels.glob("tgi_core-*.whl"), "tgi-core[cuda,rocm]",
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"dev", "testing"}))
def test_every_extra_can_be_resolved_from_the_index(
    extra: str, wheels: Path, tmp_path: Path
) -> None:
    """In an empty environment, with no pin but torch's: no extra asks for what no index has."""
    venv.create(tmp_path / "venv", with_pip=True)
    constraints, report = tmp_path / "constraints.txt", tmp_path / "report.json"
    # torch_xla fits one release of torch alone
    constraints.write_text("\n".join([] if extra == "xla" else TORCH))
    run(
        tmp_path / "venv" / "bin" / "python", "-m", "pip", "install", "-q", "--dry-run",
        "-c", constraints, "--report", report, "--find-links", wheels, f"tgi-core[{extra}]",
    )  # fmt: skip
    found = {one["metadata"]["name"] for one in json.loads(report.read_text())["install"]}
    wanted = [re.split(r"[~\[]", requirement)[0] for requirement in EXTRAS[extra]]
    assert {"tgi-core", *wanted} <= found
